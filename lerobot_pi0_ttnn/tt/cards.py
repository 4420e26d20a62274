"""The cards in this machine, and the lock that keeps a card to one process."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

NODES = Path("/dev/tenstorrent")
"""Where the driver makes a device node for each card."""


def card_nodes() -> list[Path]:
    """Returns the device nodes of the cards, in the order of their numbers."""
    if not NODES.is_dir():
        return []
    return sorted((node for node in NODES.iterdir() if node.name.isdecimal()), key=lambda node: int(node.name))


class CardLock:
    """An exclusive lock on all cards of this machine: ttnn opens every card it can see, whichever is asked for."""

    def __init__(self, nodes: list[Path]) -> None:
        self._descriptors: list[int] = []
        for node in nodes:
            descriptor = os.open(node, os.O_RDONLY | os.O_CLOEXEC)
            self._descriptors.append(descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.release()
                raise RuntimeError(
                    f"{node}: another process has this card open through lerobot_pi0_ttnn (`fuser -v {node}` names "
                    "it): end it, or use its policy"
                ) from None

    def release(self) -> None:
        """Lets other processes have the cards. The end of the process does so, too."""
        while self._descriptors:
            os.close(self._descriptors.pop())
