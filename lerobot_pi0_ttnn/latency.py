"""How long chunks take and where the time goes: histograms that cost microseconds and never grow."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np

SHORTEST, RESOLUTION = 1e-6, 1.01
"""In seconds, and as a ratio: a percentile is known to 1 %."""
BINS = 2100
"""Up to 20 minutes; what takes longer is counted in the last."""

Stage = Callable[[str], AbstractContextManager[None]]
"""Called with a stage's name, returns the context in which its work is done."""


def untimed(name: str) -> AbstractContextManager[None]:
    """Returns a context that does nothing: the `Stage` of those who do not ask for the time."""
    return nullcontext()


@dataclass(frozen=True)
class Summary:
    """What there is to say of many durations, in seconds.

    Attributes:
        count: how many.
        p50: half of them are no longer, to 1 %, upwards.
        p95: likewise.
        p99: likewise.
        max: the longest, exactly.
        jitter: their standard deviation.
    """

    count: int
    p50: float
    p95: float
    p99: float
    max: float
    jitter: float


class Histogram:
    """Durations, counted in bins 1 % apart."""

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, dtype=np.int64)
        self._count, self._mean, self._squares, self._longest = 0, 0.0, 0.0, 0.0

    def add(self, seconds: float) -> None:
        """Counts one duration, in seconds."""
        position = np.log(max(seconds, SHORTEST) / SHORTEST) / np.log(RESOLUTION)
        self.counts[min(int(np.ceil(position)), BINS - 1)] += 1
        self._count += 1
        distance = seconds - self._mean
        self._mean += distance / self._count
        self._squares += distance * (seconds - self._mean)
        self._longest = max(self._longest, seconds)

    def percentile(self, percent: float) -> float:
        """Returns the seconds that so many percent of the durations do not exceed; NaN where there are none."""
        if not self._count:
            return float("nan")
        rank = max(int(np.ceil(self._count * percent / 100)), 1)
        position = int(np.searchsorted(np.cumsum(self.counts), rank))
        return min(SHORTEST * float(RESOLUTION) ** position, self._longest)

    def summary(self) -> Summary:
        """Returns what there is to say of the durations."""
        return Summary(
            self._count,
            self.percentile(50),
            self.percentile(95),
            self.percentile(99),
            self._longest,
            float(np.sqrt(self._squares / self._count)) if self._count else 0.0,
        )


def timed_steps[T](velocity: Callable[[T, int], T], stage: Stage) -> Callable[[T, int], T]:
    """Returns the velocity field, each of whose steps is a stage: `step 1`, `step 2`, ..."""

    def timed(x_t: T, step: int) -> T:
        with stage(f"step {step + 1}"):
            return velocity(x_t, step)

    return timed


class Stopwatch:
    """Times stages by name, in whatever thread they run. A stage that raises is not counted."""

    def __init__(self) -> None:
        self.histograms: dict[str, Histogram] = {}
        self._adding = threading.Lock()

    @contextmanager
    def stage(self, name: str, *, wait: Callable[[], None] | None = None) -> Iterator[None]:
        """Returns the context in which the work of this stage is done; see `Stage`.

        Args:
            name: of the stage.
            wait: called at its end, returns when the backend has done all it was asked; for backends that do so later.
        """
        start = time.perf_counter()
        yield
        if wait is not None:
            wait()
        took = time.perf_counter() - start
        with self._adding:
            self.histograms.setdefault(name, Histogram()).add(took)

    def summaries(self) -> dict[str, Summary]:
        """Returns what there is to say of each stage, in the order in which they were first timed."""
        with self._adding:
            return {name: histogram.summary() for name, histogram in self.histograms.items()}
