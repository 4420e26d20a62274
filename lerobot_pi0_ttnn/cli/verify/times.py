"""How fast a card is: a chunk by stage, for minutes on end, and each of its operations on its own."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from ...analysis.calibration import calibrate
from ...analysis.cost import machine
from ...analysis.sustained import sustain
from ...analysis.timing import REPEATS, TimedOperation, time_operations
from ...latency import Stopwatch
from ...latency_report import as_milliseconds
from ..bench.command import SYS, time_chunks
from ..doctor.card import CLOCK_MHZ, read_cards
from ..doctor.packages import installed_version
from .checks import Subject
from .findings import Line
from .plot import SLOW

NAMED = 10
"""Slow operations that have a line of their own; the report has them all."""
DRIFT = 0.05
"""Relative, over the time of a sustained run: more is a finding."""
FULL = 0.95
"""Of a card's clock: less is low."""

Clock = Callable[[], float]


def check_time(subject: Subject, batch: dict[str, Any], chunks: int) -> dict[str, Any]:
    """Returns the latency report: how long a chunk takes, its stages one after the other, and the stages of a traced one."""
    lines = subject.lines
    # What was checked has forgotten its traces: capturing them anew is not what a tick costs.
    subject.policy.warm_up()
    report, _ = time_chunks(subject.policy, batch, subject.noise(), chunks)
    subject.policy.config.time_stages = False
    for stage, numbers in report["milliseconds"].items():
        _add_times(subject, stage, numbers)
    report["traced_milliseconds"] = _traced_stages(subject, chunks)
    for stage, numbers in report["traced_milliseconds"].items():
        _add_times(subject, f"{stage}, traced", numbers)
    for card, clock in report["clock_mhz"].items():
        read = [int(text) for text in (clock["before"], clock["after"]) if text.isdecimal()]
        is_low = bool(read and clock["full"]) and min(read) < FULL * clock["full"]
        detail = f"{clock['before']} MHz before, {clock['after']} after, of {clock['full']}"
        if is_low:
            detail += ": the times above are no basis for anything"
        lines.add(
            Line("time", f"clock of {card}", "warn" if is_low else "ok", "low clock" if is_low else "", detail, clock)
        )
    return report


def _add_times(subject: Subject, stage: str, numbers: dict[str, float]) -> None:
    shown = ", ".join(f"{name} {value}" for name, value in numbers.items())
    subject.lines.add(Line("time", stage, "ok", detail=shown, numbers=numbers))


def _traced_stages(subject: Subject, chunks: int) -> dict[str, dict[str, float]]:
    """Returns the milliseconds of a traced chunk: laying out the inputs on the host, copying them, the trace, the readback."""
    board, model, stopwatch = subject.board, subject.model, Stopwatch()
    if model.chips[0].traces is None:
        return {}
    observation, noise = subject.observations[0], subject.noise()
    with board.in_use("timing the stages of a traced chunk"):
        for _ in range(3):  # eager, captured, replayed
            model.sample_actions(observation, noise=noise)
        stage = board.followed(partial(stopwatch.stage, wait=board.wait))
        for _ in range(chunks):
            model.sample_actions(observation, noise=noise, stage=stage)
    return as_milliseconds(stopwatch.summaries())


def check_rate(
    subject: Subject, batch: dict[str, Any], minutes: float, clock: Clock = time.perf_counter
) -> dict[str, Any]:
    """Returns what chunks take that follow on each other for so long, for the report."""
    noise = subject.noise()

    def mhz() -> int | None:
        return min((int(card.clock) for card in read_cards(SYS) if card.clock.isdecimal()), default=None)

    result = sustain(
        lambda: subject.policy.predict_action_chunk(batch, noise=noise), seconds=60 * minutes, clock=clock, mhz=mhz
    )
    in_cycles = result.drift_in_cycles
    drift = result.drift if in_cycles is None else in_cycles
    full = CLOCK_MHZ.get(subject.board.describe()["arch"])
    is_low = bool(full and result.lowest_mhz and result.lowest_mhz < FULL * full)
    kind = "low clock" if is_low else "drift" if drift > DRIFT else ""
    detail = f"{result.rate:.2f} chunks/s, {result.drift:+.1%} longer at the end"
    detail += (
        "; the driver does not tell the clock" if in_cycles is None else f", {in_cycles:+.1%} in cycles of the clock"
    )
    if result.lowest_mhz:
        detail += f", at {result.lowest_mhz} MHz at least"
    what = f"{result.chunks} chunks in {result.seconds / 60:.1f} minutes"
    numbers = {name: value for name, value in result.as_json().items() if not isinstance(value, list)}
    subject.lines.add(Line("rate", what, "warn" if kind else "ok", kind, detail, numbers))
    return result.as_json()


def check_operation_times(
    subject: Subject, clock: Clock = time.perf_counter, *, repeats: int = REPEATS
) -> dict[str, Any] | None:
    """Returns each distinct operation as timed, and what that says of the chip, for the report; None without traces."""
    model, board, lines = subject.model, subject.board, subject.lines
    if model.chips[0].traces is None:
        lines.add(Line("operation times", "microseconds", "skip", detail=board.why_no_trace or "no traces"))
        return None
    described = board.describe()
    on, arch = machine(described), described["arch"]
    timed = time_operations(model, subject.observations[0], subject.noise(), on, clock=clock, repeats=repeats)
    slow = [each for each in timed if each.seconds > SLOW * each.predicted]
    for each in slow[:NAMED]:
        lines.add(_operation_line(each))
    took, predicted = 1e3 * sum(each.chunk_seconds for each in timed), 1e3 * sum(each.chunk_predicted for each in timed)
    detail = (
        f"{took:.2f} ms a chunk one by one, {predicted:.2f} predicted; {len(slow)} take over twice their prediction"
    )
    numbers = {"operations": len(timed), "ms": round(took, 4), "predicted_ms": round(predicted, 4), "slow": len(slow)}
    lines.add(Line("operation times", f"{len(timed)} distinct operations", "ok", detail=detail, numbers=numbers))
    found: dict[str, Any] = {"rows": [each.as_json() for each in timed]}
    if measured := [(each.operations, each.seconds) for each in timed if each.seconds > 0]:
        about = {"board": described["name"], "grid": described["grid"], "ttnn": installed_version("ttnn")}
        calibration = calibrate(measured, on, arch, about=about)
        constants = ", ".join(f"{name} {calibration.constants[name]:.4g}" for name in calibration.measured)
        detail = f"the median operation is {calibration.before:.1%} off its prediction by published constants, "
        detail += f"{calibration.after:.1%} by measured ones: {constants or 'none is determined'}"
        lines.add(Line("operation times", "calibration", "ok", detail=detail))
        found["calibration"] = calibration.as_json()
    return found


def _operation_line(each: TimedOperation) -> Line:
    detail = (
        f"{1e6 * each.seconds:.1f} us, {1e6 * each.predicted:.1f} predicted, {each.count} times a chunk: "
        f"{1e3 * each.saves:.2f} ms to be saved"
    )
    return Line(
        "operation times", f"{each.what} in {each.stage} ({each.program})", "warn", "slow", detail, each.as_json()
    )
