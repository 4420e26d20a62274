"""The checks on an open board, in the order in which one builds on the other; each adds its lines."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ...analysis.behaviour import (
    Behaviour,
    Case,
    answers,
    beside_another,
    in_turn,
    make_cases,
    on_every_chip,
    padding,
    repeated,
)
from ...analysis.operations import LIMITS as OPERATION_LIMITS
from ...analysis.operations import OperationCheck, OperationResult
from ...analysis.parts import Part, layers, parts
from ...backend import weight_cache
from ...certificate import chunk_limit
from ...deviation import deviation
from ...device.board import Board
from ...device.executor import PI0ModelTTNN
from ...latency import untimed
from ...model.observation import Observation
from ...modeling_pi0_ttnn import PI0TTNNPolicy
from ...reference import PI0ModelTorch
from ...ttnn_api.hook import add_layer, remove_layer
from .findings import Line, Lines, Status

OPERATION_STEPS = 2
"""Euler steps of the chunk whose operations are compared: all steps are alike, and the second reads what the first left."""

Save = Callable[[str, Mapping[str, Tensor]], None]
"""Keeps tensors under a name, where a report is written."""


@dataclass
class Subject:
    """What is checked.

    Attributes:
        policy: on the board.
        board: it.
        observations: each of one row.
        lines: what was found.
        save: see `Save`.
        repeats: how often the same is asked.
        made_up: whether the observations are noise, on which a trained model is less exact.
    """

    policy: PI0TTNNPolicy
    board: Board
    observations: Sequence[Observation]
    lines: Lines
    save: Save
    repeats: int
    made_up: bool = True
    twin: PI0ModelTorch = field(init=False)

    def __post_init__(self) -> None:
        self.twin = PI0ModelTorch(self.policy.config.model_config(), self.policy.weights)

    @property
    def model(self) -> PI0ModelTTNN:
        """Returns the model on the board."""
        model = self.policy.model
        assert isinstance(model, PI0ModelTTNN)
        return model

    @property
    def precision(self) -> str:
        """Returns the preset."""
        return str(self.policy.config.precision)

    @property
    def limit(self) -> float:
        """Returns the greatest relative RMSE of a whole chunk."""
        return chunk_limit(self.precision, self.model.config, made_up=self.made_up)

    @property
    def actions(self) -> int:
        """Returns how many dimensions of an action count."""
        return int(self.policy.config.output_features["action"].shape[0])

    def noise(self, number: int = 0) -> Tensor:
        """Returns the noise of a chunk, always the same for a number."""
        config = self.model.config
        generator = torch.Generator().manual_seed(number)
        return torch.randn(1, config.horizon, config.action_dim, generator=generator)


def check_parts(subject: Subject) -> None:
    """Every part, then every layer on its own, against the float32 twin."""
    for section, walk in (("parts", _parts), ("layers", _layers)):
        worst: dict[str, tuple[float, Line, Part]] = {}
        for number, observation in enumerate(subject.observations):
            for part in walk(subject, observation, subject.noise(number)):
                line = _part_line(section, part, subject)
                ratio = line.numbers["rel_rmse"] / line.numbers["limit"]
                # NaN is worse than any number.
                if part.name not in worst or not ratio <= worst[part.name][0]:
                    worst[part.name] = (ratio, line, part)
        is_first = True
        for _, line, part in worst.values():
            subject.lines.add(line)
            if line.status == "fail" and is_first:
                subject.save(f"first of {section}", {"got": part.got, "want": part.want})
                is_first = False


def _parts(subject: Subject, observation: Observation, noise: Tensor) -> Iterable[Part]:
    return parts(subject.twin, subject.model, observation, noise, actions=subject.actions)


def _layers(subject: Subject, observation: Observation, noise: Tensor) -> Iterable[Part]:
    return layers(subject.twin, subject.model, observation, noise)


def _part_line(section: str, part: Part, subject: Subject) -> Line:
    measure = deviation(part.got, part.want)
    limit = subject.limit if part.kind == "chunk" else part.limit(subject.precision)
    is_good = measure.within(limit)
    numbers = {"rel_rmse": measure.rel_rmse, "pcc": measure.pcc, "limit": limit}
    detail = f"relative RMSE {measure.rel_rmse:.4f} of at most {limit:.4f}, PCC {measure.pcc:.6f}"
    return Line(section, part.name, "ok" if is_good else "fail", "" if is_good else "deviation", detail, numbers)


def check_operations(subject: Subject) -> None:
    """Every operation of an eager chunk against its golden function."""
    model, lines = subject.model, subject.lines
    limit = OPERATION_LIMITS[subject.precision]
    check = OperationCheck(model, limit)
    model.forget()
    model.eager = True
    add_layer(check)
    try:
        observation, noise = subject.observations[0], subject.noise()
        model.sample_actions(observation, noise=noise, num_steps=OPERATION_STEPS, stage=check.followed(untimed))
    finally:
        remove_layer(check)
        model.eager = False
        model.forget()
    if subject.board.kind == "emulated":
        lines.add(
            Line("operations", "kernels", "skip", detail="an emulated board computes by these same golden functions")
        )
    for stage in dict.fromkeys(result.stage for result in check.results):
        of_stage = [result for result in check.results if result.stage == stage]
        good = [result for result in of_stage if result.comparison.verdict == "ok"]
        worst = max(good, key=lambda result: result.comparison.rel_rmse, default=None)
        detail = f"{len(good)} of {len(of_stage)} within {limit}"
        if worst is not None and worst.comparison.rel_rmse > 0:
            detail += f"; the worst of them: {worst.comparison.rel_rmse:.4f}, {worst}"
        lines.add(
            Line(
                "operations",
                stage,
                "ok" if len(good) == len(of_stage) else "fail",
                detail=detail,
                numbers={"operations": len(of_stage), "limit": limit}
                | ({"worst_rel_rmse": worst.comparison.rel_rmse} if worst else {}),
            )
        )
    for result in [result for result in check.results if result.comparison.verdict != "ok"][:10]:
        lines.add(_operation_line(result))
    if check.worst:
        subject.save("first of operations", check.worst)
    for name in sorted(check.not_compared):
        lines.add(Line("operations", name, "skip", detail="ttnn has no golden function for it"))


def _operation_line(result: OperationResult) -> Line:
    found = result.comparison
    numbers = {
        "shape": list(result.shape),
        "rel_rmse": found.rel_rmse,
        "outliers": found.outliers,
        "of_a_power_of_two": found.powers,
        "largest_error": found.largest,
        "first": list(found.first),
        "tiles": list(found.spread),
        "not_finite": found.not_finite,
    }
    if found.verdict == "deviation":
        detail = f"relative RMSE {found.rel_rmse:.4f}"
    elif found.verdict == "not finite":
        detail = f"{found.not_finite} elements are not finite, the first at {list(found.first)}"
    else:
        detail = (
            f"{found.outliers} outliers, {found.powers} of them off by a power of two, the largest by {found.largest:.4g}, the "
            f"first at {list(found.first)}, all within {found.spread[0]} x {found.spread[1]} tiles"
        )
    return Line("operations", str(result), "fail", found.verdict, detail, numbers)


def check_behaviour(subject: Subject) -> None:
    """What must not change an answer, eager and traced."""
    model, lines = subject.model, subject.lines
    cases = make_cases(subject.observations[0], subject.noise())
    want: dict[str, Tensor] = {}
    for (name, _), (behaviour, answer) in zip(
        cases.items(),
        answers(
            model,
            subject.twin,
            cases,
            limit=subject.limit,
            unlike=chunk_limit(subject.precision, model.config, made_up=True),
            actions=subject.actions,
        ),
        strict=True,
    ):
        want[name] = answer
        _add(lines, behaviour)
    for mode in ("eager", "traced"):
        if mode == "traced" and model.chips[0].traces is None:
            lines.add(Line("behaviour", "traces", "skip", detail=subject.board.why_no_trace or "none"))
            continue
        model.eager = mode == "eager"
        try:
            model.forget()
            _add(lines, in_turn(model, cases, want, mode, is_brief=subject.board.kind == "simulator"))
            _add(lines, repeated(model, list(cases.values()), want["given"], subject.repeats, mode))
        finally:
            model.eager = False
    if len(model.chips) > 1:
        _add(lines, on_every_chip(model, cases["given"], want["given"]))
    for behaviour in padding(model, cases["given"], want["given"]):
        _add(lines, behaviour)
    _check_another(subject, cases, want)


def _add(lines: Lines, behaviour: Behaviour) -> None:
    status: Status = "fail" if behaviour.kind else "ok"
    lines.add(Line("behaviour", behaviour.what, status, behaviour.kind, behaviour.detail, behaviour.numbers))


def _check_another(subject: Subject, cases: Mapping[str, Case], want: Mapping[str, Tensor]) -> None:
    if subject.board.kind == "simulator":
        # Minutes a chunk: of those with one context and one trace the first is enough.
        cases = {name: cases[name] for name in ("given", "another prompt") if name in cases}
    try:
        programs = subject.policy.config.programs
        behaviour = beside_another(subject.model, lambda: make_model(subject, programs), cases, want)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        what = "a second policy on the board: both answer as before"
        subject.lines.add(Line("behaviour", what, "skip", detail="the board's memory does not hold two of them"))
        return
    _add(subject.lines, behaviour)


def make_model(subject: Subject, programs: str, *, throttle: int | None = None) -> PI0ModelTTNN:
    """Returns another model of the policy's weights on its board, by default as throttled as the policy's."""
    config, weights, board = subject.policy.config, subject.policy.weights, subject.board
    return PI0ModelTTNN(
        config.model_config(),
        weights,
        board.devices,
        precision=config.precision,
        throttle=config.throttle if throttle is None else throttle,
        programs=programs,
        cache=weight_cache(replace(config, programs=programs), weights, board),
        traces=board.traces,
    )


def is_out_of_memory(error: RuntimeError) -> bool:
    """Returns whether ttnn's allocator says that it is full."""
    return "Out of Memory" in str(error)


def check_stock(subject: Subject) -> None:
    """The whole chunk by ttnn's own operations, and how far ours is from it."""
    lines = subject.lines
    what = "whole chunk by ttnn's own operations and programs"
    if subject.policy.config.programs == "stock":
        lines.add(Line("stock", what, "skip", detail="all that is above was"))
        return
    try:
        stock = make_model(subject, "stock")
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        lines.add(
            Line("stock", what, "skip", detail="the board's memory does not hold a second model: --programs stock")
        )
        return
    try:
        case = Case("given", subject.observations[0], subject.noise())
        got, ours, want = (case.ask(model)[..., : subject.actions] for model in (stock, subject.model, subject.twin))
    finally:
        stock.release()
    measure, limit = deviation(got, want), subject.limit
    between = deviation(ours, got).rel_rmse
    detail = f"relative RMSE {measure.rel_rmse:.4f} of at most {limit:.4f}; ours is {between:.4f} from it"
    numbers = {"rel_rmse": measure.rel_rmse, "pcc": measure.pcc, "limit": limit, "ours_from_stock": between}
    is_good = measure.within(limit)
    lines.add(Line("stock", what, "ok" if is_good else "fail", "" if is_good else "deviation", detail, numbers))
    if is_good and lines.failed_in("parts", "layers", "operations", "behaviour"):
        what = "ours fails where ttnn's own passes: --policy.programs=stock is recommended"
        lines.add(Line("stock", what, "warn", "stock"))
