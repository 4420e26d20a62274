"""A whole row as one trace: captured once for inputs of the same shapes, then replayed with others in their place.

A trace knows addresses, not tensors. What lives on between calls must not lie where a trace puts what it computes on the way,
and ttnn keeps only those addresses free that were taken when the trace was captured. So whoever is about to allocate
something that stays gives up all traces first (`release`); each is captured anew when it is next wanted.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import ttnn

from .inputs import RowInputs

logger = logging.getLogger(__name__)

CAPACITY = 16
"""Sets of shapes for which there are traces: three cameras or fewer, two lengths of prompt, free and guided, four to spare."""

NO_ROOM = "allocated for trace region"
"""What ttnn says where a trace does not fit."""

Compute = Callable[[RowInputs], ttnn.Tensor]


@dataclass
class _Entry:
    """Inputs that stay where they are, and the trace that reads them, if it is captured."""

    inputs: RowInputs
    trace: Any = None
    output: ttnn.Tensor | None = None


class Traces:
    """The traces on one device, whichever models they are of; the least recently used one gives way.

    Args:
        device: that can trace.
    """

    def __init__(self, device: ttnn.Device) -> None:
        self._device = device
        self._is_full = False
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()

    def run(self, key: Hashable, row: RowInputs, compute: Compute) -> ttnn.Tensor:
        """Returns what `compute` returns for this row; valid until the next call.

        The first call for a key and shapes runs the ops one by one, the second one captures them, later ones replay.

        Args:
            key: what else than the row's shapes `compute` depends on.
            row: on the host.
            compute: runs ops on a row on the device; reads nothing back, and depends on no value on the host but the key's.
        """
        full_key = (key, row.specs())
        entry = self._entries.get(full_key)
        if entry is None:
            return self._run_first(full_key, row, compute)
        self._entries.move_to_end(full_key)
        row.copy_over(entry.inputs)
        if entry.trace is None and not self._is_full:
            self._capture(entry, compute)
        if entry.trace is None:
            return compute(entry.inputs)
        ttnn.execute_trace(self._device, entry.trace, cq_id=0, blocking=False)
        return entry.output

    def _capture(self, entry: _Entry, compute: Compute) -> None:
        trace = ttnn.begin_trace_capture(self._device, cq_id=0)
        try:
            try:
                output = compute(entry.inputs)
            finally:
                # Also after an interrupt: until a capture ends, the device does nothing else.
                ttnn.end_trace_capture(self._device, trace, cq_id=0)
        except RuntimeError as error:
            if NO_ROOM not in str(error):
                raise
            # ttnn goes on counting the trace that did not fit: none will fit from now on.
            self._is_full = True
            logger.warning(
                "the traces need more room than the board sets aside for them: from here on ops run one by one where there "
                "is no trace yet, which is slower. Load fewer policies on this board, or one with fewer cameras."
            )
            return
        entry.trace, entry.output = trace, output

    def _run_first(self, full_key: Hashable, row: RowInputs, compute: Compute) -> ttnn.Tensor:
        self.release()
        while len(self._entries) >= CAPACITY:
            self._entries.popitem(last=False)
        entry = self._entries[full_key] = _Entry(row.on(self._device))
        return compute(entry.inputs)

    def release(self) -> None:
        """Gives up all traces, so that something may be allocated that stays."""
        for entry in self._entries.values():
            if entry.trace is not None:
                ttnn.release_trace(self._device, entry.trace)
            entry.trace = entry.output = None

    @property
    def captured(self) -> int:
        """Returns how many traces could be replayed now."""
        return sum(entry.trace is not None for entry in self._entries.values())
