"""Opening chips: which, with which dispatch, how much DRAM for traces, and how long a card may hang.

A real and an emulated board are opened with the same options, so that what was validated on one is what the other runs.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..emulation.boards import BOARDS, PREFIX, emulated_board
from . import cards

if TYPE_CHECKING:
    from ..emulation.emulator import Emulator

logger = logging.getLogger(__name__)

TRACE_REGION_MB = 1024
"""DRAM reserved for captured traces by default; on an emulated board as well, so that what fits there fits on a card.

A trace is 2901 operations at full size (docs/graph.md). An operation took 5.7 kB on the simulator, where the tiny model keeps
few cores busy. At 28 kB, which makes the 81 MB that others report of a trace on 110 cores, 12 of them fit: one, two and
three cameras, short and long prompts, free and guided.
"""

TIMEOUT = "TT_METAL_OPERATION_TIMEOUT_SECONDS"
"""ttnn's own variable: after so many seconds without progress a card counts as hung. Without it ttnn waits for ever."""
TIMEOUT_SECONDS = 30.0
"""By default: a chunk takes well under a second, and 5 s have been too short for long traces (tt-metal #40370)."""

Kind = Literal["card", "simulator", "emulated"]

_timeout_in_force: float | None = None
"""Of this process: ttnn reads its environment once, when it first looks for cards."""


@dataclass(frozen=True)
class Opened:
    """What stands behind a board that has been opened.

    Attributes:
        kind: Of board.
        devices: ttnn's device of each chip.
        emulator: Of an emulated board.
        lock: On the cards.
    """

    kind: Kind
    devices: list[Any]
    emulator: Emulator | None = None
    lock: cards.CardLock | None = None


def checked_name(board: str) -> str:
    """Returns a board's name in the one way that it is written: `auto`, `0,1`, `emulated:n150`.

    Raises:
        ValueError: with the names that there are.
    """
    if board.startswith(PREFIX):
        return PREFIX + emulated_board(board).name
    if board == "auto":
        return board
    numbers = board.split(",")
    if all(number.isdecimal() for number in numbers):
        chips = [str(int(number)) for number in numbers]
        if len(set(chips)) < len(chips):
            raise ValueError(f"board {board!r}: expected each chip once")
        return ",".join(chips)
    emulated = ", ".join(PREFIX + name for name in BOARDS)
    raise ValueError(
        f"board {board!r}: expected 'auto', the number of a chip ('0', '1', ...), several of them ('0,1'), or one of "
        f"{emulated}"
    )


def open_emulated_board(name: str, trace_region_mb: int) -> Opened:
    """Returns an emulated board, opened; see `emulation.session`."""
    from ..emulation.session import open_emulated

    devices, emulator = open_emulated(name, lambda: chip_options(trace_region_mb))
    return Opened("emulated", devices, emulator=emulator)


def open_chips(numbers: list[int], trace_region_mb: int, timeout_s: float | None) -> Opened:
    """Returns chips of cards, or of the simulator, opened and locked.

    Args:
        numbers: of the chips.
        trace_region_mb: DRAM of each that is reserved for traces.
        timeout_s: see `ttnn_timeout`.

    Raises:
        FileNotFoundError: there is no card, or none that this process may see.
        ValueError: there are fewer chips.
        RuntimeError: another process has a card, or ttnn cannot open it.
    """
    if os.environ.get("TT_METAL_MOCK_CLUSTER_DESC_PATH"):
        raise RuntimeError(
            "TT_METAL_MOCK_CLUSTER_DESC_PATH is set: ttnn would open a mocked card, which computes nothing. Unset "
            "it, or use --policy.board=emulated:n150"
        )
    if os.environ.get("TT_METAL_SIMULATOR"):
        # It takes minutes for what a card does at once: no timeout but one that was asked for.
        with nullcontext() if timeout_s is None else ttnn_timeout(timeout_s, is_late=False):
            return Opened("simulator", _create(numbers, trace_region_mb))
    nodes = cards.card_nodes()
    if not nodes:
        raise FileNotFoundError(
            f"no Tenstorrent board: there is no device node {cards.NODES}/*, and TT_METAL_SIMULATOR is not set. "
            "Without a card, use --policy.board=emulated:n150 (checks the TTNN graph, slow) or --policy.backend=torch"
        )
    nodes = cards.visible_nodes(nodes, os.environ)
    if not nodes:
        raise FileNotFoundError(
            f"{cards.VISIBLE} is set and empty: this process may see no card. Unset it, or name one"
        )
    # Before the lock, which opens nodes itself.
    timeout = ttnn_timeout(timeout_s, is_late=cards.is_one_open())
    lock = cards.CardLock(nodes)
    try:
        with timeout:
            devices = _create(numbers, trace_region_mb, nodes)
    except (RuntimeError, ValueError):
        lock.release()
        raise
    return Opened("card", devices, lock=lock)


def _create(numbers: list[int], trace_region_mb: int, nodes: list[Path] | None = None) -> list[Any]:
    import ttnn

    name = ",".join(map(str, numbers))
    count = ttnn.GetNumAvailableDevices()
    if max(numbers) >= count:
        raise ValueError(f"board {name!r}: expected numbers below {count}, the chips that ttnn finds in this machine")
    if nodes is not None and len(nodes) > 1 and len(numbers) < count:
        logger.warning(
            "board %r: chips of this machine that it does not use are kept to this process as well (%s, %d chips). For a "
            "process for each card, start each with cards of its own: %s=0, %s=1, ... and a TT_METAL_CACHE each.",
            name,
            ", ".join(map(str, nodes)),
            count,
            cards.VISIBLE,
            cards.VISIBLE,
        )
    # One call: the second chip of an n300 is reached through the first, and both are closed with the last.
    devices = ttnn.CreateDevices(numbers, **chip_options(trace_region_mb))
    return [devices[number] for number in numbers]


def chip_options(trace_region_mb: int) -> dict[str, Any]:
    """Returns with which options `ttnn.CreateDevices` opens chips of the cluster that ttnn sees, real or mocked.

    Dispatch: never from ethernet cores. That is what ttnn chooses on boards of two chips, n300 and what is made of them; it
    gives all 8 x 8 workers to the ops: the very configuration of tt-metal #8665 (matmuls that hang an n300 by what they
    draw, docs/n300.md), and one in which ttnn's checks of a mocked device contradict each other. A row of workers it is
    instead, as on an n150.
    """
    import ttnn

    options: dict[str, Any] = {"trace_region_size": trace_region_mb << 20}
    if ttnn.device.DispatchCoreConfig().type == ttnn.device.DispatchCoreType.ETH:
        options["dispatch_core_config"] = ttnn.device.DispatchCoreConfig(
            type=ttnn.device.DispatchCoreType.WORKER, axis=ttnn.device.DispatchCoreAxis.ROW
        )
    return options


@contextmanager
def ttnn_timeout(seconds: float | None, *, is_late: bool) -> Iterator[None]:
    """Sets, in the context in which ttnn is first used, after how long a card that hangs makes ttnn raise an error.

    Args:
        seconds: without progress; 0 to wait for ever; None for what the user's environment says, else TIMEOUT_SECONDS.
        is_late: ttnn has been used before in this process, and has read its environment.
    """
    global _timeout_in_force
    of_user = os.environ.get(TIMEOUT)
    wanted = _of_user(of_user, TIMEOUT_SECONDS) if seconds is None else seconds
    if _timeout_in_force is not None:
        warn_of_timeout(wanted)
        yield
        return
    before = _of_user(of_user, 0)
    if is_late and before != wanted:
        logger.warning(
            "ttnn had a card open in this process before: if that hangs, it is waited for %s, not %g s. Set %s=%g before "
            "the start, or let this package open the card first.",
            f"{before:g} s" if before else "for ever",
            wanted,
            TIMEOUT,
            wanted,
        )
    elif of_user is not None and before != wanted:
        logger.warning("operation_timeout_s=%g is taken, %s=%s is not.", wanted, TIMEOUT, of_user)
    os.environ[TIMEOUT] = f"{wanted:g}"
    try:
        yield
    finally:
        if of_user is None:
            del os.environ[TIMEOUT]
        else:
            os.environ[TIMEOUT] = of_user
    if not is_late:
        _timeout_in_force = wanted


def warn_of_timeout(wanted: float | None) -> None:
    """Warns where a timeout is wanted, after ttnn has been given another one."""
    if wanted is not None and _timeout_in_force is not None and wanted != _timeout_in_force:
        logger.warning(
            "operation_timeout_s: ttnn reads it once in a process, and %g s stay in force instead of %g s.",
            _timeout_in_force,
            wanted,
        )


def _of_user(value: str | None, default: float) -> float:
    try:
        return default if value is None else float(value)
    except ValueError:
        raise ValueError(f"{TIMEOUT}={value}: expected seconds") from None
