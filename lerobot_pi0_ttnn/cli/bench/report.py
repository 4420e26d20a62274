"""What was measured, as Markdown and as a picture."""

import math
from pathlib import Path
from typing import Any

from ...analysis.markdown import markdown_lines
from ...latency_report import HOST, TOTAL

COLUMNS = ("p50", "p95", "p99", "max", "jitter")


def as_text(result: dict[str, Any]) -> str:
    """Returns the result as Markdown for a person."""
    backends = result["backends"]
    lines = [
        f"pi0, observation to actions: {result['checkpoint']}, {result['cameras']} of {result['camera_slots']} cameras, "
        f"a prompt of {result['tokens']} tokens, batch {result['batch']}",
        "",
        *(f"- {name}: {_subject(report)}" for name, report in backends.items()),
        "",
        *_table(backends, result.get("speedup")),
        "",
    ]
    if "pcc" in result:
        lines.append(f"Actions of the two, same noise: PCC {result['pcc']:.6f}.")
    for name, report in backends.items():
        if TOTAL in report["milliseconds"]:
            lines.append(f"{name}: {_against_the_clock(report, result)}")
        lines += [f"{card}: {_clock(**clock)}" for card, clock in report["clock_mhz"].items()]
    return "\n".join(lines)


def _subject(report: dict[str, Any]) -> str:
    board = report["board"]
    where = (
        f"{board['name']} ({board['kind']}, {board['arch']}, {_chips(board)}{board['grid'][0]} x {board['grid'][1]})"
        if board
        else "CPU"
    )
    said = f"{report['model']} on {where}, {report['precision']}, {report['steps']} steps"
    return f"{said}; not timed: {report['note']}" if report["note"] else f"{said}, {report['chunks']} chunks"


def _chips(board: dict[str, Any]) -> str:
    return f"{board['chips']} chips of " if board["chips"] > 1 else ""


def _table(backends: dict[str, Any], speedup: float | None) -> list[str]:
    timed = {name: report["milliseconds"] for name, report in backends.items() if report["milliseconds"]}
    if not timed:
        return ["No milliseconds: nothing here ran on a card or on the CPU."]
    rows = list(dict.fromkeys(row for milliseconds in timed.values() for row in milliseconds))
    rows.sort(key=_order)
    header = ["ms", *(f"{name} {column}" for name in timed for column in COLUMNS), *(["speedup"] if speedup else [])]
    lines = []
    for row in rows:
        cells = [
            f"{milliseconds[row][column]:.2f}" if row in milliseconds else ""
            for milliseconds in timed.values()
            for column in COLUMNS
        ]
        if speedup:
            cells.append(f"{speedup:.1f}x" if row == TOTAL else "")
        lines.append([row, *cells])
    return list(markdown_lines(header, lines))


def _order(stage: str) -> tuple[int, int]:
    first = (TOTAL, HOST, "upload", "vision", "prefill")
    if stage in first:
        return first.index(stage), 0
    return (len(first), int(stage.split()[1])) if stage.startswith("step ") else (len(first) + 1, 0)


def _against_the_clock(report: dict[str, Any], result: dict[str, Any]) -> str:
    """What the latency means at the robot's rate."""
    period, slowest = result["control_period_ms"], report["milliseconds"][TOTAL]["p99"]
    ticks, lasts = math.ceil(slowest / period), result["n_action_steps"]
    fits = "keeps up" if ticks <= lasts else "does not keep up"
    return (
        f"a chunk takes {slowest:.1f} ms (p99), {ticks} ticks of {period:.1f} ms at {result['fps']:g} fps, and lasts {lasts} "
        f"ticks: it {fits}. Synchronous inference stands still for those {ticks} ticks; real-time chunking needs an "
        f"execution horizon of at least {ticks}."
    )


def _clock(before: str, after: str, full: int | None) -> str:
    """What the clock of a card means for the times that were taken on it."""
    said = f"{before} MHz before, {after} MHz after"
    read = [int(text) for text in (before, after) if text.isdecimal()]
    if full is None or not read or min(read) >= 0.95 * full:
        return said
    return f"{said}, of {full} MHz: what was timed at a low clock says nothing of the card (docs/faults.md)"


def draw(result: dict[str, Any], output: Path) -> None:
    """Writes a picture: a bar for each backend that was timed, its stages side by side, and the control period.

    Args:
        result: what `bench` returned.
        output: the picture's file; its suffix is its format.

    Raises:
        ValueError: nothing was timed.
    """
    from matplotlib.figure import Figure

    timed = {name: report for name, report in result["backends"].items() if report["milliseconds"]}
    if not timed:
        raise ValueError("--plot: nothing was timed, since neither the CPU nor a card was asked for.")
    figure = Figure(figsize=(10, 1.5 + 1.2 * len(timed)), layout="constrained")
    axes = figure.subplots()
    colours = figure_colours()
    for name, report in timed.items():
        milliseconds = report["milliseconds"]
        label, left = f"{name}\n{report['precision']}", 0.0
        for stage in sorted((stage for stage in milliseconds if stage != TOTAL), key=_order):
            kind = "Euler steps" if stage.startswith("step ") else stage
            width = milliseconds[stage]["p50"]
            axes.barh(label, width, left=left, color=colours[kind], edgecolor="white", linewidth=0.5, label=kind)
            left += width
        total = milliseconds[TOTAL]
        for marker, column in (("|", "p50"), ("x", "p99"), (">", "max")):
            axes.plot(total[column], label, marker, color="black", markersize=9, label=f"whole chunk, {column}")
    axes.axvline(result["control_period_ms"], color="tab:red", label=f"control period at {result['fps']:g} fps")
    lasts = result["control_period_ms"] * result["n_action_steps"]
    axes.axvline(lasts, color="tab:red", linestyle=":", label=f"{result['n_action_steps']} actions last")
    handles = {text: handle for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", fontsize="small")
    axes.set_xlim(left=0)
    axes.set_xlabel("ms, median of each stage")
    axes.set_title(f"pi0, observation to actions, cameras: {result['cameras']}")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=100)


def figure_colours() -> dict[str, str]:
    """Returns the colour of each kind of stage."""
    kinds = (HOST, "upload", "vision", "prefill", "Euler steps", "readback")
    return dict(zip(kinds, ("tab:gray", "tab:olive", "tab:green", "tab:blue", "tab:orange", "tab:purple"), strict=True))
