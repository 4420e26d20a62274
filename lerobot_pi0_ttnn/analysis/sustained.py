"""Chunks as fast as they go for minutes: the rate that stays, and whether they take longer the longer it runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SLICES = 30
"""Equal parts of the time, each with its median: a line through those is the drift."""


@dataclass(frozen=True)
class Slice:
    """A part of the time.

    Attributes:
        chunks: that ended in it.
        p50: seconds, their median.
        mhz: of the clock at its end, while chunks run; None where the driver does not tell.
    """

    chunks: int
    p50: float
    mhz: int | None


@dataclass(frozen=True)
class Sustained:
    """What came of it.

    Attributes:
        seconds: it took.
        slices: in order, those in which a chunk ended.
    """

    seconds: float
    slices: Sequence[Slice]

    @property
    def chunks(self) -> int:
        """All of them."""
        return sum(each.chunks for each in self.slices)

    @property
    def rate(self) -> float:
        """Chunks in a second."""
        return self.chunks / self.seconds

    @property
    def drift(self) -> float:
        """How much longer a chunk takes at the end than at the beginning, relatively, by a line through the medians."""
        return _growth([each.p50 for each in self.slices])

    @property
    def drift_in_cycles(self) -> float | None:
        """Likewise in cycles of the clock, so that a clock that heat slows down is no drift; None where it is not known."""
        cycles = [each.p50 * each.mhz for each in self.slices if each.mhz]
        return _growth(cycles) if len(cycles) == len(self.slices) else None

    @property
    def lowest_mhz(self) -> int | None:
        """The lowest clock that was read; None where none was."""
        return min((each.mhz for each in self.slices if each.mhz), default=None)

    def as_json(self) -> dict[str, Any]:
        """Returns it for a report."""
        return {
            "seconds": round(self.seconds, 1),
            "chunks": self.chunks,
            "per_second": round(self.rate, 3),
            "drift": round(self.drift, 4),
            "drift_in_cycles": None if self.drift_in_cycles is None else round(self.drift_in_cycles, 4),
            "lowest_mhz": self.lowest_mhz,
            "p50_ms": [round(1e3 * each.p50, 3) for each in self.slices],
            "mhz": [each.mhz for each in self.slices],
        }


def sustain(
    ask: Callable[[], object], *, seconds: float, clock: Callable[[], float], mhz: Callable[[], int | None]
) -> Sustained:
    """Returns what came of asking for chunks, one after the other, for so long.

    Args:
        ask: for one chunk; returns when it is there.
        seconds: how long.
        clock: seconds.
        mhz: reads the clock of the card.
    """
    start = now = clock()
    slices: list[Slice] = []
    for number in range(1, SLICES + 1):
        took = []
        while now - start < seconds * number / SLICES:
            ask()
            before, now = now, clock()
            took.append(now - before)
        if took:
            slices.append(Slice(len(took), float(np.median(took)), mhz()))
            now = clock()
    return Sustained(now - start, slices)


def _growth(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 0.0
    slope, first = np.polyfit(np.linspace(0, 1, len(values)), values, 1)
    return float(slope / first)
