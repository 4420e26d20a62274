"""What a policy predicted and what was done of it, kept on disk for a look afterwards."""

import json
import logging
import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recording:
    """One recorded run, in the units that the policy returns (before the postprocessor).

    A policy that is reset begins a new episode; ticks count from 0 in each.
    """

    chunks: list[tuple[int, int, Tensor]]
    """(episode, tick, (B, horizon, A) float32): a chunk, and the tick at which it was predicted."""
    actions: list[tuple[int, int, Tensor]]
    """(episode, tick, (B, A) float32): the action handed out at that tick."""


class Recorder:
    """Appends to a file of JSON lines, one for each chunk and each action; every line is in the file when it returns.

    Threads take turns. A full disk ends the recording, with a warning, not the episode.

    Args:
        path: the file; one from an earlier run is replaced.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._path.write_text("")
        self._bytes = 0
        self._is_writable = True
        self._lock = threading.RLock()
        self._episode = 0
        self._tick = 0

    def reset(self) -> None:
        """Begins a new episode, if there is anything in this one."""
        with self._lock:
            self._episode += self._tick > 0
            self._tick = 0

    def chunk(self, actions: Tensor) -> None:
        """Records a predicted chunk, (B, horizon, A)."""
        self._append("chunk", actions)

    def action(self, action: Tensor) -> None:
        """Records the action handed out, (B, A), and moves to the next tick."""
        with self._lock:
            self._append("action", action)
            self._tick += 1

    def _append(self, kind: str, value: Tensor) -> None:
        with self._lock:
            if not self._is_writable:
                return
            line = {"kind": kind, "episode": self._episode, "tick": self._tick, "value": value.tolist()}
            text = json.dumps(line) + "\n"
            try:
                with self._path.open("a") as file:
                    file.write(text)
                self._bytes += len(text)
            except OSError as error:
                logger.warning(
                    "%s: cannot be written (%s); the recording ends here, the policy goes on.", self._path, error
                )
                self._is_writable = False
                with suppress(OSError):  # the part of a line that there was room for
                    os.truncate(self._path, self._bytes)


def read_recording(path: Path) -> Recording:
    """Returns what a `Recorder` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a recording.
    """
    recording = Recording([], [])
    for number, text in enumerate(path.read_text().splitlines(), start=1):
        try:
            line = json.loads(text)
            entry = (int(line["episode"]), int(line["tick"]), torch.tensor(line["value"], dtype=torch.float32))
            {"chunk": recording.chunks, "action": recording.actions}[line["kind"]].append(entry)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: not a line of a policy's recording ({error!r}).") from error
    return recording
