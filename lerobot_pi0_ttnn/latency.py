"""How long chunks take and where the time goes."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np

WINDOW = 10_000
"""Durations of a stage that are kept: percentiles and jitter are of the last so many."""

Stage = Callable[[str], AbstractContextManager[None]]
"""Called with a stage's name, returns the context in which its work is done."""


def untimed(name: str) -> AbstractContextManager[None]:
    """Returns a context that does nothing: the `Stage` of those who do not ask for the time."""
    return nullcontext()


@dataclass(frozen=True)
class Summary:
    """The distribution of many durations, in seconds.

    Attributes:
        count: how many, all of them.
        p50: half of the last `WINDOW` are no longer.
        p95: likewise.
        p99: likewise.
        max: the longest of all.
        jitter: the standard deviation of the last `WINDOW`.
    """

    count: int
    p50: float
    p95: float
    p99: float
    max: float
    jitter: float


class Durations:
    """The durations of one stage, of which the last `WINDOW` are kept."""

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=WINDOW)
        self._count, self._longest = 0, 0.0

    def add(self, seconds: float) -> None:
        """Counts one duration, in seconds."""
        self._last.append(seconds)
        self._count += 1
        self._longest = max(self._longest, seconds)

    def summary(self) -> Summary:
        """Returns the distribution of the durations, of which there is at least one."""
        last = np.array(self._last)
        p50, p95, p99 = (float(value) for value in np.percentile(last, (50, 95, 99), method="inverted_cdf"))
        return Summary(self._count, p50, p95, p99, self._longest, float(last.std()))


class Stopwatch:
    """Times stages by name, in whatever thread they run. A stage that raises is not counted."""

    def __init__(self) -> None:
        self.durations: dict[str, Durations] = {}
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
            self.durations.setdefault(name, Durations()).add(took)

    def summaries(self) -> dict[str, Summary]:
        """Returns the distribution of each stage, in the order in which they were first timed."""
        with self._adding:
            return {name: durations.summary() for name, durations in self.durations.items()}
