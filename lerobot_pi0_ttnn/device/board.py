"""The board that a process computes on: a card, chips of several cards, the ttsim simulator, or an emulated board.

    with open_board("auto") as board, board.in_use("trying it out"):
        tensor = ttnn.from_torch(values, device=board.device, ...)

A process has one board, which all who open it share. One that fails is not used again: who has it must close it.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from ..emulation.boards import PREFIX
from ..latency import Stage
from ..ttnn_api.installed import PIP_INSTALLS
from ..ttnn_api.record import Recording, recording
from .failure import BoardError, KernelBuildError, build_failure, error_summary, is_failure
from .opening import TRACE_REGION_MB, Kind, checked_name, open_chips, open_emulated_board, warn_of_timeout

if TYPE_CHECKING:
    from ..emulation.emulator import Emulator
    from .cards import CardLock
    from .trace import Traces

logger = logging.getLogger(__name__)

EXIT_SECONDS = 10
"""How long the end of the process waits for a thread that is still computing on the board."""

TTNN_MISSING = "\n".join(
    [
        "the TTNN backend needs the package `ttnn` (Linux, x86-64), which is not installed.",
        "With uv: `uv sync`. With pip, in this order:",
        *(f"    {command}" for command in PIP_INSTALLS),
        "Without it, the torch backend works: --policy.backend=torch",
    ]
)

_opening = threading.RLock()
_open: Board | None = None


class Tenant(Protocol):
    """What has tensors on a board."""

    def release(self) -> None:
        """Frees them."""


class Board:
    """An open board. Made by `open_board`.

    Attributes:
        name: What it was opened as: `0`, `0,1`, `emulated:n150`.
        kind: What stands behind it.
        devices: ttnn's device of each chip.
        lock: Held by whoever calls ttnn, see `in_use`: LeRobot loads and infers in different threads.
        doing: What the board is in use for, in words.
        failure: How the board failed; None while it works.
        trace_region_mb: DRAM of each chip that is reserved for traces.
    """

    def __init__(
        self,
        name: str,
        kind: Kind,
        devices: Sequence[Any],
        *,
        emulator: Emulator | None = None,
        cards: CardLock | None = None,
        trace_region_mb: int = TRACE_REGION_MB,
    ) -> None:
        self.name = name
        self.kind: Kind = kind
        self.devices = tuple(devices)
        self.lock = threading.RLock()
        self.doing = ""
        self.failure: str | None = None
        self.trace_region_mb = trace_region_mb
        self._emulator = emulator
        self._cards = cards
        self._users = 0
        self._traces: list[Traces] | None = None
        self._is_ending = False
        self._dropped: deque[Tenant] = deque()
        self._described: dict[str, Any] | None = None

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def device(self) -> Any:
        """Returns ttnn's device of the first chip."""
        return self.devices[0]

    @property
    def grid(self) -> tuple[int, int]:
        """Returns (x, y), the workers of a chip that an op may use."""
        size = self.device.compute_with_storage_grid_size()
        return size.x, size.y

    @property
    def is_open(self) -> bool:
        """Returns whether ttnn may still be called with `devices`."""
        return self._users > 0

    @contextmanager
    def in_use(self, doing: str) -> Iterator[None]:
        """Keeps the board, as a context, for one thread that calls ttnn. An error that the board itself makes is its last.

        Args:
            doing: What for, in words for the error.

        Raises:
            BoardError: The board fails, or has failed before.
            KernelBuildError: A kernel does not compile.
            RuntimeError: It is closed.
        """
        with self.lock:
            if self.failure:
                raise BoardError(f"{self.failure} It is not used again.")
            if not self.is_open:
                raise RuntimeError(f"board {self.name!r} is closed; open it again, or load the policy again.")
            self._release_dropped()
            self.doing = doing
            try:
                yield
            except BaseException as error:
                _drop_locals(error)
                if isinstance(error, RuntimeError) and (said := build_failure(error)):
                    raise KernelBuildError(f"board {self.name!r}, {self.doing}: {said}.") from error
                if not isinstance(error, RuntimeError) or not is_failure(error):
                    raise
                self.failure = (
                    f"board {self.name!r} failed while {self.doing}: {error_summary(error)}. Nothing came of it: "
                    "let the arm hold. Close the policies on this board, see what `lerobot-pi0-ttnn doctor` finds, reset the "
                    "card (`tt-smi -r`), and load again, in a new process if this one cannot open it."
                )
                raise BoardError(self.failure) from error

    def discard(self, tenant: Tenant) -> None:
        """Takes what nobody refers to any more, to free its tensors when the board is next in use.

        ttnn is not meant for two threads at once, and garbage is collected in any thread, in the middle of anything: this
        neither waits nor calls ttnn.
        """
        self._dropped.append(tenant)

    def release(self, tenant: Tenant) -> None:
        """Frees the tensors of one that is done with the board; of a board that has failed, they go with it."""
        with self.lock:
            if not self.is_open or self.failure:
                return
            try:
                tenant.release()
            except RuntimeError as error:
                logger.warning("board %r: the memory of a policy was not freed: %s", self.name, error_summary(error))

    def _release_dropped(self) -> None:
        while self._dropped:
            self.release(self._dropped.popleft())

    def followed(self, stage: Stage) -> Stage:
        """Returns a stage that is also told to the board, so that the error says in which one it failed. Use it in `in_use`.

        What is asked of a card may fail as late as the next stage that waits for it: the readback at the latest.
        """
        whole = self.doing

        def followed(name: str) -> AbstractContextManager[None]:
            if self._is_ending:
                self._halt(whole)
            self.doing = f"{whole}, {name}"
            return stage(name)

        return followed

    def _halt(self, whole: str) -> None:
        """Stops, where it is, a thread that computes while the process ends: an error would free tensors beside `_shut`."""
        if threading.current_thread() is threading.main_thread():
            raise BoardError(f"board {self.name!r}: the process ends, and {whole} with it.")
        logger.warning("board %r: the process ends, and %s with it.", self.name, whole)
        threading.Condition(self.lock).wait()  # gives the lock away, and is never notified

    def describe(self) -> dict[str, Any]:
        """Returns what the board is, for a report: JSON values. Sizes are bytes, grid is [x, y].

        Where there are several chips, all but `chips` is said of one of them; what is in use, of the fullest. Of a closed board
        it returns what there was to say when it was closed. Waits for a thread that uses the board.
        """
        with self.lock:
            if self.is_open:
                self._described = self._describe()
            if self._described is None:
                raise RuntimeError(f"board {self.name!r} is closed, and could not say what it was.")
            return {**self._described, "open": self.is_open}

    def _describe(self) -> dict[str, Any]:
        import ttnn

        dram, l1 = (
            max(
                (ttnn.get_memory_view(device, memory) for device in self.devices),
                key=lambda view: view.total_bytes_allocated_per_bank,
            )
            for memory in (ttnn.BufferType.DRAM, ttnn.BufferType.L1)
        )
        x, y = self.grid
        return {
            "name": self.name,
            "kind": self.kind,
            "emulated": self.kind == "emulated",
            "chips": len(self.devices),
            "arch": self.device.arch().name.lower(),
            "grid": [x, y],
            "workers": x * y,
            "dram_bytes": dram.num_banks * dram.total_bytes_per_bank,
            "dram_banks": dram.num_banks,
            "dram_bytes_in_use": dram.num_banks * dram.total_bytes_allocated_per_bank,
            "l1_bytes_per_core": l1.total_bytes_per_bank,
            "l1_bytes_in_use_per_core": l1.total_bytes_allocated_per_bank,
        }

    def record(self) -> AbstractContextManager[Recording]:
        """Returns (as a context) the counts of operations, uploads and readbacks made inside it.

        Works alike on every kind of board; it counts the calls of the whole process, whatever thread makes them.
        """
        return recording()

    @property
    def why_no_trace(self) -> str | None:
        """Returns why this board cannot capture and replay traces; None where it can."""
        if self.kind == "emulated":
            return "an emulated board executes nothing that a trace could repeat"
        if os.environ.get("TT_METAL_SLOW_DISPATCH_MODE"):
            return "TT_METAL_SLOW_DISPATCH_MODE is set, and a trace is a thing of fast dispatch"
        return None

    @property
    def traces(self) -> list[Traces] | None:
        """Returns the traces on each chip, which all models there share; None where the board cannot trace."""
        if self.why_no_trace is not None:
            return None
        if self._traces is None:
            from .trace import Traces

            region = self.trace_region_mb << 20
            self._traces = [Traces(device, region) for device in self.devices]
        return self._traces

    def wait(self) -> None:
        """Returns when every chip has done all that it was asked."""
        import ttnn

        for device in self.devices:
            ttnn.synchronize_device(device)

    @contextmanager
    def shapes_only(self) -> Iterator[None]:
        """Computes no values inside the context (emulated boards only): ttnn checks calls and allocates buffers.

        Full-size pi0 can be walked in seconds. Weights may be meta tensors; reading a value raises.
        """
        if self._emulator is None:
            raise RuntimeError(f"board {self.name}: shapes_only() needs an emulated board, this is a {self.kind}")
        with self._emulator.shapes_only():
            yield

    def close(self) -> None:
        """Gives the board back; with the last of its users it is closed. A closed board may be closed again."""
        with self.lock, _opening:
            if self._users == 1:
                self._shut()
            self._users = max(self._users - 1, 0)

    def _shut(self) -> None:
        global _open
        if _open is not self:
            return
        self._try(self.describe)
        _open = None
        self._users = 0
        atexit.unregister(self._shut_at_exit)
        import ttnn

        try:
            self._dropped.clear()  # their memory goes with the board
            for traces in self._traces or []:
                self._try(traces.release)
            if self._emulator is not None:
                self._emulator.stop()
            for device in self.devices:
                self._try(partial(ttnn.close_device, device))
        finally:
            if self._cards is not None:
                self._cards.release()

    def _try(self, closing: Callable[[], object]) -> None:
        """Does a part of closing; where a chip fails in it, the rest is closed all the same."""
        try:
            closing()
        except RuntimeError as error:
            logger.warning("board %r was given back, but did not close cleanly: %s", self.name, error_summary(error))

    def _shut_at_exit(self) -> None:
        # Daemon threads, such as LeRobot's for real-time chunking, go on until they are told, or until the process is gone.
        self._is_ending = True
        if not self.lock.acquire(timeout=EXIT_SECONDS):
            logger.warning(
                "board %r is not closed: a thread has been busy with it for over %d s. The end of the process gives it back.",
                self.name,
                EXIT_SECONDS,
            )
            return
        try:
            self._shut()
        finally:
            self.lock.release()


def open_board(
    board: str = "auto", *, trace_region_mb: int | None = None, operation_timeout_s: float | None = None
) -> Board:
    """Returns the board of this process, opened if it is not yet.

    Args:
        board: `auto`, the first chip (or the simulator, where TT_METAL_SIMULATOR names one); `0`, `1`, ...: that chip;
            `0,1`: these chips, as one board; `emulated:n150` and the like: an emulated board, see `emulation.boards`.
        trace_region_mb: DRAM of each chip to reserved for traces; by default TRACE_REGION_MB, or what an open board has.
        operation_timeout_s: after so many seconds without progress a card counts as hung; 0: never. By default what the
            environment variable TT_METAL_OPERATION_TIMEOUT_SECONDS says, else 30.

    Raises:
        ValueError: there is no such board.
        FileNotFoundError: there is no card.
        RuntimeError: this process has another board open, or the same with other DRAM for traces; or another process has
            the card.
    """
    global _open
    wanted = checked_name(board)
    require_ttnn()
    with _opening:
        if _open is None:
            _open = _open_new(wanted, trace_region_mb, operation_timeout_s)
            atexit.register(_open._shut_at_exit)
        elif wanted not in ("auto", _open.name) or (wanted == "auto" and _open.kind == "emulated"):
            raise RuntimeError(f"board {board!r}: this process has board {_open.name!r} open, and can have one only")
        elif trace_region_mb not in (None, _open.trace_region_mb):
            raise RuntimeError(
                f"trace_region_mb={trace_region_mb}: this process has board {_open.name!r} open with {_open.trace_region_mb} "
                "MB for traces; ask for as much, or close the policies on it first"
            )
        else:
            warn_of_timeout(operation_timeout_s)
        _open._users += 1
        return _open


def require_ttnn() -> None:
    """Raises ImportError, with what to install and what works without, where ttnn is not installed."""
    try:
        import ttnn  # noqa: F401
    except ModuleNotFoundError as error:
        # A ttnn that is there but lacks one of its own dependencies is broken, and says so itself.
        if error.name != "ttnn":
            raise
        raise ImportError(TTNN_MISSING, name="ttnn") from None


def _drop_locals(error: BaseException | None) -> None:
    """Lets go of what the frames that an error has ended refer to: tensors are freed here, not wherever it is dropped."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _open_new(name: str, trace_region_mb: int | None, timeout_s: float | None) -> Board:
    region = TRACE_REGION_MB if trace_region_mb is None else trace_region_mb
    if name.startswith(PREFIX):
        opened = open_emulated_board(name, region)
    else:
        numbers = [0] if name == "auto" else [int(number) for number in name.split(",")]
        name = ",".join(map(str, numbers))
        opened = open_chips(numbers, region, timeout_s)
    return Board(name, opened.kind, opened.devices, emulator=opened.emulator, cards=opened.lock, trace_region_mb=region)
