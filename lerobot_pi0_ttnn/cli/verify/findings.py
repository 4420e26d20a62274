"""What the checks found: a line each, and for each kind of finding what it means and what to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True)
class Advice:
    """What a kind of finding means, and what to do about it, in a sentence or two each."""

    meaning: str
    action: str


ADVICE: dict[str, Advice] = {
    "deviation": Advice(
        "The board computes something else than the checkpoint means: more than rounding explains.",
        "With made-up observations, run again with your own (--observations): a trained model is less exact on noise. The "
        "first layer and the first operation that deviate are named, --report saves their tensors: send them with it. Until "
        "then run --policy.programs=stock if that passes, else --policy.backend=torch.",
    ),
    "outlier": Advice(
        "Single outputs of an operation are wrong, in one place, while all others are right: a kernel, or its program, writes "
        "a tile wrong.",
        "Run again: if the same elements are wrong, it is the program (send the report); if others are, see a bit that "
        "differs between repetitions. --policy.programs=stock goes without our own kernels and program configs.",
    ),
    "power of two": Advice(
        "Single outputs are off by a power of two. On a Wormhole that is a fault of the silicon (tt-metal #38306): HiFi3, "
        "which this package runs there, makes it rare, and not impossible. A Blackhole does not have it.",
        "If the whole chunk keeps its limit, the policy may be used with clamp_actions=true; --policy.precision=balanced or "
        "fast, whose matmuls make fewer passes, meet it less often. Send the report: it names the operation.",
    ),
    "not finite": Advice(
        "An operation writes NaN or infinity where its inputs do not.",
        "Do not let the arm move. Send the report with the tensors of the operation; try --policy.programs=stock.",
    ),
    "repetition": Advice(
        "The same inputs give other bits from one call to the next. Nothing in the model is random: it is a race, a buffer "
        "that is overwritten, or power (di/dt, tt-metal #7066).",
        "Reset the card (`tt-smi -r`) and run again with --throttle 1, then 2 to 5: if that ends it, it is power, and "
        "--policy.throttle keeps it away. If not, run with TT_METAL_TRACE_ALLOC_TRACKING=1 and once with "
        "TT_METAL_WATCHER=10, and send the reports.",
    ),
    "trace": Advice(
        "A replayed trace gives other bits than the same operations one by one: it reads or writes a buffer that has moved or "
        "was overwritten.",
        "Run with TT_METAL_TRACE_ALLOC_TRACKING=1 and send what it names. TT_METAL_SLOW_DISPATCH_MODE=1 goes without traces, "
        "slower.",
    ),
    "interrupted": Advice(
        "You ended it: what is above was found, the rest was not tried.",
        "Run it again, with --only for what is missing.",
    ),
    "stale context": Advice(
        "The answer is that to another question: what stays on the board between calls (masks, tables, the prompt's "
        "embeddings) was not replaced.",
        "Do not change the prompt within a session, and send the report. Loading the policy again forgets the old prompt.",
    ),
    "padding": Advice(
        "A mask is off by one: padding that must not be seen is seen, or a real token is hidden.",
        "Send the report; no setting goes round it but --policy.backend=torch.",
    ),
    "other policy": Advice(
        "A second policy on the board changes an answer: one of them lies where the other computes.",
        "Load one policy per process, and send the report.",
    ),
    "chip": Advice(
        "A chip of the board computes otherwise than the first, which all else here was asked of.",
        "Run again with --board 1 (or the number of that chip): the first operation that is wrong there is named. Until then "
        "use the other chip alone.",
    ),
    "low clock": Advice(
        "The card's clock was low while it was busy: times that were taken say nothing of the card.",
        "Look at its temperature and power (`tt-smi`; a Wormhole slows down at 75 C), update its firmware, and time again. "
        "What was found correct stays correct.",
    ),
    "drift": Advice(
        "A chunk takes longer the longer the card runs, and its clock does not explain it.",
        "Look at the host: its own clock, other processes, swap. If nothing there changes, send the report with the slices of "
        "its JSON; load the policy again now and then.",
    ),
    "slow": Advice(
        "An operation takes over twice what the cost model predicts for it: its program suits this card badly, or the model "
        "is wrong there.",
        "Nothing is wrong with its values. Send the report: the operations are sorted by what they would save. `bench "
        "--predict --calibration calibration.json` predicts by what was measured here.",
    ),
    "watcher": Advice(
        "ttnn's watcher stops the board at a kernel that reads or writes where it must not, or waits for ever.",
        "Send the report: the line names the kernel. Run once more with --programs stock: if that ends it, the kernel is ours.",
    ),
    "allocation": Advice(
        "ttnn's tracker finds a tensor that was allocated beside a live trace and that its replay overwrites.",
        "Send the report: the line names who allocated it. Until then TT_METAL_SLOW_DISPATCH_MODE=1 goes without traces.",
    ),
    "memory": Advice(
        "Memory of the host or of the board grows from chunk to chunk: a session that is long enough ends by it.",
        "Send the report with the soak's seed; load the policy again before it is full.",
    ),
    "board": Advice(
        "The board failed: it hung, or fell off the bus.",
        "`tt-smi -r` resets it; a Blackhole that does not come back wants the machine switched off and on. Run again with "
        "--throttle 1, then 2 to 5, and with --programs stock; docs/faults.md names what each error means.",
    ),
    "refused": Advice(
        "ttnn refuses an operation on this board.",
        "If the whole chunk by ttnn's own operations passes, run with --policy.programs=stock. Send the report.",
    ),
    "kernel": Advice(
        "A kernel does not compile: ttnn compiles them on this machine, when one is first used.",
        "The line names the kernel and the release of sfpi that this ttnn wants; `lerobot-pi0-ttnn doctor` says which is "
        "installed. If that is the one, send the report; --policy.programs=stock goes without our own kernels.",
    ),
    "stock": Advice(
        "Our own kernels or program configs fail on this board, and ttnn's own operations pass.",
        "Run with --policy.programs=stock, which is slower and as exact; send the report.",
    ),
    "doctor": Advice(
        "The machine is not ready: what fails here fails later as well.",
        "Each line above names its fix; `lerobot-pi0-ttnn doctor` shows all.",
    ),
}
"""By kind."""


@dataclass(frozen=True)
class Line:
    """One line of the report.

    Attributes:
        section: `parts`, `operations`, `behaviour`, ...
        what: was tried, in words.
        status: `skip`: it cannot be shown here; the detail says why.
        kind: of the finding, a key of `ADVICE`; empty where there is none.
        detail: what was seen, in words.
        numbers: JSON values.
    """

    section: str
    what: str
    status: Status
    kind: str = ""
    detail: str = ""
    numbers: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """Returns it for a person who watches."""
        return f"{self.status:<5} {self.section:<11} {self.what}{f': {self.detail}' if self.detail else ''}"


class Lines:
    """All lines of a run, each shown as soon as it is there.

    Args:
        show: prints one.
    """

    def __init__(self, show: Callable[[str], None]) -> None:
        self.all: list[Line] = []
        self._show = show

    def add(self, line: Line) -> None:
        """Adds a line; the first of a kind of finding with what it means."""
        is_new = bool(line.kind) and line.kind not in self.kinds
        self.all.append(line)
        self._show(str(line))
        if is_new:
            advice = ADVICE[line.kind]
            self._show(f"      {'':<11} {advice.meaning}")
            self._show(f"      {'':<11} {advice.action}")

    @property
    def kinds(self) -> list[str]:
        """Returns the kinds of findings, in the order in which they came."""
        return list(dict.fromkeys(line.kind for line in self.all if line.kind))

    @property
    def failed(self) -> list[Line]:
        """Returns the lines that fail."""
        return [line for line in self.all if line.status == "fail"]

    def failed_in(self, *sections: str) -> bool:
        """Returns whether something fails in these sections."""
        return any(line.section in sections for line in self.failed)
