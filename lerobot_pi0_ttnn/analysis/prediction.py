"""How long a call should take, stage by stage: `cost` of every device operation that ttnn's own graph capture saw."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from .cost import Cost, Machine, cost
from .errors import ERRORS, between, class_of, span
from .graph import DeviceOperation, Place
from .markdown import markdown_table
from .report import EXPERT_LAYER, NEW_PROMPT, STEP, Stage

NOTE = "predicted from shapes; nobody has measured this"
MOST_EXPENSIVE = 10


def floor(operations: Iterable[DeviceOperation], on: Machine) -> float:
    """Returns the seconds that no program of these multiplications can beat on that machine.

    That is the longer of all multiplications at peak, and of reading what these operations do not make themselves, once, at
    the DRAM's specified rate.
    """
    made: set[Place] = set()
    read: dict[Place, int] = {}
    compute = 0.0
    for operation in operations:
        for place, size in operation.inputs.items():
            if place not in made and place[0] == "DRAM":
                # Of the table of embeddings only the rows that come out.
                read[place] = min(size, sum(operation.outputs.values())) if operation.name == "Embeddings" else size
        made |= set(operation.outputs)
        if flops := cost(operation, on).flops:
            compute += flops / on.peak(str(operation.fidelity))
    return max(compute, sum(read.values()) / (on.dram * 1e9))


def predict(stages: Mapping[str, Stage], on: Machine, *, steps: int) -> dict[str, Any]:
    """Returns the prediction for one row of a call, as JSON values; times are milliseconds, without uploads and readbacks.

    Args:
        stages: as `operations_by_stage` has them.
        on: what runs them.
        steps: Euler steps.
    """
    report: dict[str, Any] = {"note": NOTE, "steps": steps, "stages": {}}
    groups: dict[tuple[str, str], list[tuple[str, Cost, int]]] = defaultdict(list)
    classes: dict[str, float] = defaultdict(float)
    for name, stage in stages.items():
        if not stage.operations or name in (NEW_PROMPT, EXPERT_LAYER):
            continue
        times = steps if name == STEP else 1
        costs = [cost(operation, on) for operation in stage.operations]
        report["stages"][name] = _stage(costs, floor(stage.operations, on), on, times)
        for operation, spent in zip(stage.operations, costs, strict=True):
            groups[name, described(operation)].append((name, spent, times))
            classes[class_of(operation)] += times * 1e3 * spent.seconds
    total = {key: sum(stage[key] for stage in report["stages"].values()) for key in ("ms", "untraced_ms", "floor_ms")}
    report["total"] = total | {"operations": sum(stage["operations"] for stage in report["stages"].values())}
    report["classes"] = {name: classes[name] for name in ERRORS if name in classes}
    least, most = zip(*(between(*item) for item in classes.items()), strict=True)
    report["between_ms"] = [sum(least), sum(most)]
    most_expensive = [_group(what, spent, total["ms"]) for (_, what), spent in groups.items()]
    report["most_expensive"] = sorted(most_expensive, key=lambda row: -row["ms"])[:MOST_EXPENSIVE]
    return report


def _stage(costs: list[Cost], least: float, on: Machine, times: int) -> dict[str, Any]:
    waits: dict[str, float] = defaultdict(float)
    for spent in costs:
        for what, part in spent.parts.items():
            waits[what] += part
    seconds = sum(waits.values())
    return {
        "times": times,
        "operations": times * len(costs),
        "ms": times * 1e3 * seconds,
        "untraced_ms": times * 1e3 * sum(max(spent.seconds, on.chip.host * 1e-6) for spent in costs),
        "floor_ms": times * 1e3 * least,
        "gflop": times * sum(spent.flops for spent in costs) / 1e9,
        "mb": times * sum(spent.bytes for spent in costs) / 1e6,
        "waits": {what: waits[what] / seconds for what in sorted(waits, key=lambda what: -waits[what])},
    }


def described(operation: DeviceOperation) -> str:
    """Returns an operation's name and the shapes of its first two operands, for people to read."""
    first, *rest = (
        "x".join(str(size) for size in operand.shape if size != 1) for operand in operation.operands.values()
    )
    has_second = operation.name in ("Matmul", "SDPA", "GenericOp")
    return f"{operation.title} {first}" + (f", {rest[0]}" if has_second else "")


def _group(what: str, spent: list[tuple[str, Cost, int]], total_ms: float) -> dict[str, Any]:
    stage, first, _ = spent[0]
    milliseconds = 1e3 * sum(one.seconds * times for _, one, times in spent)
    return {
        "operation": what,
        "stage": stage,
        "count": sum(times for _, _, times in spent),
        "ms": milliseconds,
        "share": milliseconds / total_ms,
        "us_each": 1e3 * milliseconds / sum(times for _, _, times in spent),
        "bound": first.bound,
        "cores": first.cores,
    }


def prediction_table(prediction: Mapping[str, Any]) -> str:
    """Returns a prediction as a Markdown table, stage by stage, marked as one."""
    rows = []
    for name, stage in prediction["stages"].items():
        waits = ", ".join(f"{what} {share:.0%}" for what, share in stage["waits"].items() if share >= 0.05)
        label = f"{stage['times']} x {name}" if stage["times"] > 1 else name
        rows.append([label, *_numbers(stage), waits, f"{stage['untraced_ms']:.1f}"])
    total = prediction["total"]
    rows.append(["**all, predicted**", *_numbers(total), "", f"{total['untraced_ms']:.1f}"])
    header = ["predicted, ms", "traced", "floor", "operations", "waits for", "untraced"]
    return markdown_table(header, rows, text=["waits for"])


def classes_table(prediction: Mapping[str, Any]) -> str:
    """Returns a prediction by class of operation as a Markdown table, with how far off it is for what others measured."""
    total = prediction["total"]["ms"]
    rows = [
        [name, f"{milliseconds:.1f}", f"{milliseconds / total:.0%}", span(name)]
        for name, milliseconds in sorted(prediction["classes"].items(), key=lambda item: -item[1])
    ]
    least, most = prediction["between_ms"]
    rows.append(["**all**", f"{total:.1f}", "", f"{least:.0f} to {most:.0f} ms, were each as far off"])
    return markdown_table(
        ["predicted, by class of operation", "ms", "share", "error elsewhere"], rows, text=["error elsewhere"]
    )


def _numbers(stage: Mapping[str, Any]) -> list[str]:
    return [f"{stage['ms']:.1f}", f"{stage['floor_ms']:.1f}", str(stage["operations"])]


def most_expensive_table(prediction: Mapping[str, Any]) -> str:
    """Returns the operations that should take longest in all, as a Markdown table marked as a prediction."""
    header = [
        "operation",
        "stage",
        "count",
        "predicted ms",
        "share",
        "predicted us each",
        "bound by",
        "cores with work",
    ]
    rows = [
        [
            row["operation"],
            row["stage"],
            str(row["count"]),
            f"{row['ms']:.2f}",
            f"{row['share']:.0%}",
            f"{row['us_each']:.1f}",
            row["bound"],
            str(row["cores"]),
        ]
        for row in prediction["most_expensive"]
    ]
    return markdown_table(header, rows, text=["stage", "bound by"])
