"""What takes long, or a process of its own: a soak, throttled matmuls, ttnn's watcher and its tracker of allocations."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ...analysis.behaviour import Case, difference
from ...analysis.soak import soak
from .checks import Subject, is_out_of_memory, make_model
from .findings import Line, Lines

THROTTLE = 1
"""The mildest, 73 % of the multiplier's rate: where it changes an answer, power does."""

Clock = Callable[[], float]


def check_soak(subject: Subject, minutes: float, seed: int) -> None:
    """Random questions to two policies on the board for some minutes."""
    config = subject.policy.config
    result = soak(
        subject.board,
        subject.model,
        lambda: make_model(subject, config.programs),
        seconds=60 * minutes,
        cameras=len(config.image_features),
        tokens=config.tokenizer_max_length,
        seed=seed,
    )
    numbers = {
        "calls": result.calls,
        "reloads": result.reloads,
        "interrupts": result.interrupts,
        "minutes": round(result.minutes, 2),
        "seed": seed,
    }
    what = f"{result.calls} random chunks in {result.minutes:.1f} minutes: each question always answered alike"
    detail = result.detail or f"{result.reloads} reloads, {result.interrupts} interrupts in between"
    subject.lines.add(Line("soak", what, "fail" if result.kind else "ok", result.kind, detail, numbers))
    host, dram = result.host_mb, result.board_mb
    detail = f"host {host[0]:.0f} to {host[1]:.0f} MB, board {dram[0]:.1f} to {dram[1]:.1f} MB"
    memory = {"host_mb": list(host), "board_mb": list(dram)}
    is_flat = result.is_flat
    subject.lines.add(
        Line("soak", "memory is flat", "ok" if is_flat else "fail", "" if is_flat else "memory", detail, memory)
    )


def check_throttle(subject: Subject, clock: Clock = time.perf_counter) -> None:
    """The same chunk with throttled matmuls and without: the same bits, and on a card what that costs."""
    config, lines = subject.policy.config, subject.lines
    level = 0 if config.throttle else THROTTLE
    what = f"matmuls at throttle {level}: the bits of throttle {config.throttle}, {subject.repeats} times each in turn"
    try:
        other = make_model(subject, config.programs, throttle=level)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        lines.add(Line("throttle", what, "skip", detail="the board's memory does not hold a second model: --throttle"))
        return
    case = Case("given", subject.observations[0], subject.noise())
    models = {config.throttle: subject.model, level: other}
    took: dict[int, list[float]] = {number: [] for number in models}
    wrong, seen = 0, ""
    try:
        want = case.ask(subject.model)
        for _ in range(subject.repeats):
            for number, model in models.items():
                start = clock()
                got = case.ask(model)
                took[number].append(clock() - start)
                if not torch.equal(got, want):
                    wrong += 1
                    seen = seen or f"; the first, at throttle {number}: {difference(got, want)}"
    finally:
        other.release()
    numbers: dict[str, float] = {"repetitions": subject.repeats, "differing": wrong}
    detail = f"{wrong} of {len(models) * subject.repeats} differ{seen}" if wrong else ""
    if subject.board.kind == "card":
        medians = {number: 1e3 * sorted(times)[len(times) // 2] for number, times in took.items()}
        numbers |= {f"p50_ms_at_{number}": round(ms, 4) for number, ms in medians.items()}
        told = ", ".join(f"{ms:.2f} ms at {number}" for number, ms in medians.items())
        detail = f"{detail}; {told}" if detail else told
    lines.add(Line("throttle", what, "fail" if wrong else "ok", "repetition" if wrong else "", detail, numbers))


@dataclass(frozen=True)
class Instrument:
    """A check of ttnn's own that its environment turns on, so that it takes a process.

    Attributes:
        name: for people.
        variables: that turn it on.
        kind: of what it finds.
    """

    name: str
    variables: dict[str, str]
    kind: str


INSTRUMENTS = (
    Instrument("watcher", {"TT_METAL_WATCHER": "10"}, "watcher"),
    Instrument(
        "tracker of allocations beside traces",
        {"TT_METAL_TRACE_ALLOC_TRACKING": "1", "TT_METAL_TRACE_ALLOC_TRACEBACKS": "1"},
        "allocation",
    ),
)


def check_by_instruments(lines: Lines, arguments: Sequence[str], *, traced: bool, seconds: float = 3600) -> None:
    """The section `behaviour` once more under each of ttnn's instruments, in processes that have the board for themselves.

    Args:
        lines: what was found.
        arguments: of `verify` that say which checkpoint, board and options.
        traced: whether the board has traces.
        seconds: after which a process counts as hung.
    """
    for instrument in INSTRUMENTS:
        what = f"prompts, cameras, guidance and a second policy under ttnn's {instrument.name}"
        if instrument.kind == "allocation" and not traced:
            lines.add(Line("instruments", what, "skip", detail="there are no traces"))
            continue
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "lerobot_pi0_ttnn", "verify", *arguments, "--only", "behaviour"]
            command += ["--repeats", "2", "--no-instruments", "--report", folder]
            try:
                done = subprocess.run(
                    command,
                    env=os.environ | instrument.variables,
                    capture_output=True,
                    text=True,
                    timeout=seconds,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                lines.add(Line("instruments", what, "fail", "board", f"no end after {seconds / 60:.0f} minutes"))
                continue
            if done.returncode == 0:
                lines.add(Line("instruments", what, "ok"))
            else:
                lines.add(Line("instruments", what, "fail", instrument.kind, _said(done, Path(folder))))


def _said(done: "subprocess.CompletedProcess[str]", folder: Path) -> str:
    """Returns what a process complains of: its report's failures, or the end of what it printed, where it did not get there."""
    report = folder / "verify.json"
    if report.is_file():
        failed = [line for line in json.loads(report.read_text())["lines"] if line["status"] == "fail"]
        return "; ".join(f"{line['what']}: {line['detail']}" for line in failed)
    printed = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return f"ended with status {done.returncode}: {' '.join(printed[-5:])[-600:]}"
