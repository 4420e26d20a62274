"""Traces of functions of device tensors: captured once for inputs of the same shapes, then replayed with others in their place.

A trace knows addresses, not tensors. What lives on between calls must not lie where a trace puts what it computes on the way,
and ttnn keeps only those addresses free that were taken when the trace was captured. So whoever is about to allocate
something that stays releases all traces first; each is captured anew when it is next wanted.

Beside live traces nothing is allocated but by the capture of another one: what it computes on the way is freed before it ends,
its result is read before any other trace runs. ttnn would warn of that, and of nothing after it: it warns once in a process.
"""

import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ttnn
from ttnn._ttnn.operations.trace import (
    pop_allocation_context,
    push_allocation_context,
    trace_allocation_tracking_enabled,
)
from ttnn.tools.trace_allocation_tracker import acknowledge_corruptible

from ..latency import Stage, untimed
from ..tt.movable import Movable

logger = logging.getLogger(__name__)

CAPACITY = 16
"""Sets of shapes that are known: three cameras or fewer, two lengths of prompt, free and guided, four to spare."""

NO_ROOM = re.compile(r"Creating trace buffers of size (\d+)B .*only (\d+)B is allocated for trace region")
"""What ttnn says where a trace does not fit: the bytes of all that it counts, this one included, and those reserved."""

SCATTERED = re.compile(r"Not enough space to allocate (\d+) B TRACE buffer")
"""What it says where there is room, but in no one piece."""

GROWTH = 1.25
"""How much larger than any before it a trace of other shapes is taken to be, until it is captured."""


OWN_STORAGE = "trace_storage"
"""How ttnn's allocator knows what is a trace's own: it warns of no such allocation, and does not track it."""


@contextmanager
def _capture_allocates() -> Iterator[None]:
    """Keeps ttnn's only warning of allocations beside a live trace for those outside captures, each of which is a fault.

    Its tracker, where that is on, replaces the warning and goes on seeing what a capture leaves behind.
    """
    if trace_allocation_tracking_enabled():
        yield
        return
    push_allocation_context(OWN_STORAGE)
    try:
        yield
    finally:
        pop_allocation_context()


@dataclass
class _Entry:
    """Inputs that stay where they are, and the trace that reads them, if it is captured."""

    owner: Hashable
    inputs: Any
    trace: Any = None
    output: ttnn.Tensor | None = None
    size: int = 0
    """Bytes of the trace when it was last captured, or did not fit; 0 before."""


class Traces:
    """The traces on one device, whichever models they are of; the least recently used one gives way.

    ttnn never forgets a trace that did not fit, and counts its bytes until the device is closed. So what a trace will take is
    estimated, and others are released for it, before it is captured.

    Args:
        device: that can trace.
        region_bytes: DRAM of the device that is reserved for traces.
    """

    def __init__(self, device: ttnn.Device, region_bytes: int) -> None:
        self._device = device
        self._region = region_bytes
        self._lost = 0
        self._has_warned = False
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()

    def run[I: Movable](
        self,
        owner: Hashable,
        key: Hashable,
        inputs: I,
        compute: Callable[[I], ttnn.Tensor],
        stage: Stage = untimed,
    ) -> ttnn.Tensor:
        """Returns what `compute` returns for these inputs; valid until the next call.

        The first call for a key and shapes is eager, the second one captures a trace, later ones replay it.

        Args:
            owner: whose trace it is, see `forget`.
            key: what else than the shapes of its inputs `compute` depends on.
            inputs: on the host.
            compute: runs ops on inputs on the device; reads nothing back, and depends on no value on the host but the key's.
            stage: in whose contexts inputs are copied to the device (`copy`) and all else is done (`trace`).
        """
        specs = tuple((tuple(tensor.shape), tensor.dtype, tensor.layout) for tensor in inputs.tensors())
        full_key = (owner, key, specs)
        entry = self._entries.get(full_key)
        if entry is None:
            with stage("trace"):
                return self._run_first(full_key, owner, inputs, compute)
        self._entries.move_to_end(full_key)
        with stage("copy"):
            inputs.copy_over(entry.inputs)
        with stage("trace"):
            return self._run_again(entry, compute)

    def _run_again(self, entry: _Entry, compute: Callable[[Any], ttnn.Tensor]) -> ttnn.Tensor:
        # Twice: where the estimate was too low, the size is known the second time.
        for _ in range(2):
            if entry.trace is None and self._make_room(entry):
                self._capture(entry, compute)
        if entry.trace is None:
            return compute(entry.inputs)
        ttnn.execute_trace(self._device, entry.trace, cq_id=0, blocking=False)
        return entry.output

    def _capture(self, entry: _Entry, compute: Callable[[Any], ttnn.Tensor]) -> None:
        before = self._bytes_in_use()
        trace = ttnn.begin_trace_capture(self._device, cq_id=0)
        try:
            with _capture_allocates():
                try:
                    output = compute(entry.inputs)
                finally:
                    # Also after an interrupt: until a capture ends, the device does nothing else.
                    ttnn.end_trace_capture(self._device, trace, cq_id=0)
        except RuntimeError as error:
            counted, scattered = NO_ROOM.search(str(error)), SCATTERED.search(str(error))
            if counted:
                entry.size = int(counted[1]) - before - self._lost
            elif scattered:
                entry.size = int(scattered[1])
                self.release()
            else:
                raise
            self._lost += entry.size
            # ttnn takes it for a live one, which makes later allocations suspect to it.
            ttnn.release_trace(self._device, trace)
            return
        # Other traces may compute where this one writes its result, which is read before any other runs.
        acknowledge_corruptible(output)
        entry.trace, entry.output = trace, output
        entry.size = self._bytes_in_use() - before

    def _bytes_in_use(self) -> int:
        view = ttnn.get_memory_view(self._device, ttnn.BufferType.TRACE)
        return int(view.num_banks * view.total_bytes_allocated_per_bank)

    def _make_room(self, entry: _Entry) -> bool:
        """Releases the least recently used traces until this one should fit; returns whether it can."""
        known = [other.size for other in self._entries.values() if other.size]
        if self._lost + (entry.size or min(known, default=0)) > self._region:
            self._warn("a trace does not fit into the rest of it: from here on these calls are eager, which is slower")
            return False
        size = entry.size or int(GROWTH * max(known, default=0))
        for other in list(self._entries.values()):
            if self._lost + self._bytes_in_use() + size <= self._region:
                break
            if other.trace is not None:
                self._release(other)
                self._warn("traces give way to one another, and are captured anew at each change, which is slower")
        return True

    def _warn(self, what: str) -> None:
        if not self._has_warned:
            logger.warning(
                "%d MB are reserved for traces, and are too few: %s. Set --policy.trace_region_mb higher, load fewer "
                "policies on this board, or ones with fewer cameras.",
                self._region >> 20,
                what,
            )
        self._has_warned = True

    def _run_first(
        self, full_key: Hashable, owner: Hashable, inputs: Movable, compute: Callable[[Any], ttnn.Tensor]
    ) -> ttnn.Tensor:
        self.release()
        while len(self._entries) >= CAPACITY:
            self._entries.popitem(last=False)
        entry = self._entries[full_key] = _Entry(owner, inputs.on(self._device))
        return compute(entry.inputs)

    def release(self) -> None:
        """Releases all traces, so that something may be allocated that stays."""
        for entry in self._entries.values():
            self._release(entry)

    def _release(self, entry: _Entry) -> None:
        if entry.trace is not None:
            ttnn.release_trace(self._device, entry.trace)
        entry.trace = entry.output = None

    def forget(self, owner: Hashable) -> None:
        """Releases the traces of one owner, and frees what they read and write."""
        for full_key, entry in list(self._entries.items()):
            if entry.owner is owner:
                self._release(entry)
                del self._entries[full_key]
                for tensor in entry.inputs.tensors():
                    ttnn.deallocate(tensor)

    @property
    def captured(self) -> int:
        """Returns how many traces could be replayed now."""
        return sum(entry.trace is not None for entry in self._entries.values())
