"""Opening the emulated board of a process. A process has one: ttnn reads its environment once."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..device.cards import open_files
from .boards import PREFIX, EmulatedBoard, emulated_board
from .runtime_root import RuntimeRoot

logger = logging.getLogger(__name__)


@dataclass
class _Session:
    board: EmulatedBoard
    # Kept to the end of the process, since ttnn reads it after the device is closed, too.
    root: RuntimeRoot


_session: _Session | None = None


def open_emulated(name: str, open_options: Callable[[], dict[str, Any]] = dict) -> tuple[list[Any], Any]:
    """Returns ttnn's device for each chip of the board and the `Emulator` around them, started.

    Args:
        name: One of `BOARDS`, with or without `emulated:`.
        open_options: Returns those of `ttnn.CreateDevices`, called when ttnn sees the mocked cluster.
    """
    global _session
    board = emulated_board(name)
    if _session is not None and _session.board != board:
        raise RuntimeError(
            f"{PREFIX}{board.name}: this process has had {PREFIX}{_session.board.name} open, and ttnn keeps its first "
            "board for life: use another process"
        )
    import ttnn

    from .emulator import Emulator

    if _session is None:
        _refuse_other_boards(board)
    root = _session.root if _session is not None else RuntimeRoot(board)
    with root.environment():
        devices = ttnn.CreateDevices(list(range(board.chips)), **open_options())
    try:
        for device in devices.values():
            _check(board, root, device)
    except RuntimeError:
        ttnn.CloseDevices(devices)
        raise
    _session = _Session(board, root)
    emulator = Emulator(list(devices.values()))
    emulator.start()
    announce(board)
    return list(devices.values()), emulator


def built_kernels() -> list[Path]:
    """Returns the folders of the kernels that ttnn has built for this process's board, see `RuntimeRoot.kernels`."""
    return [] if _session is None else _session.root.kernels


def announce(board: EmulatedBoard) -> None:
    """Logs what this is, so that nobody takes it for a card."""
    logger.warning("%s%s is emulated: there is no card, values are computed by torch on the CPU", PREFIX, board.name)


def _refuse_other_boards(board: EmulatedBoard) -> None:
    for variable in ("TT_METAL_SIMULATOR", "TT_METAL_MOCK_CLUSTER_DESC_PATH"):
        if os.environ.get(variable):
            raise RuntimeError(
                f"{PREFIX}{board.name}: {variable} is set, which asks for another board: unset it, or use board 'auto'"
            )
    cards = sorted({str(target) for target in open_files() if str(target).startswith("/dev/tenstorrent/")})
    if cards:
        raise RuntimeError(
            f"{PREFIX}{board.name}: ttnn has {', '.join(cards)} open in this process: use another process"
        )


def _check(board: EmulatedBoard, root: RuntimeRoot, device: Any) -> None:
    if not root.was_used:
        raise RuntimeError(
            f"{PREFIX}{board.name}: ttnn was open on another board in this process already: use another process"
        )
    size = device.compute_with_storage_grid_size()
    if (size.x, size.y) != board.grid:
        raise RuntimeError(
            f"{PREFIX}{board.name}: expected a grid of {board.grid} workers, got {(size.x, size.y)}: this ttnn reads "
            "cluster descriptors otherwise than 0.81 does"
        )
