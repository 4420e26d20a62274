"""The memory of an emulated board: a value for each buffer that ttnn has allocated on a mocked device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import ttnn

Place = tuple[int, Any, int]
"""Device, type of memory and address: two chips use the same addresses."""


@dataclass
class _Cell:
    buffer: int
    value: torch.Tensor


class ShadowMemory:
    """Values by buffer, as on a card: views share theirs, a write through one is seen by all, a freed one is forgotten.

    ttnn's tensors take neither attributes nor weak references, and several of them may stand for one buffer. Its
    allocator knows which buffers live; asking it each time the memory has doubled keeps the cost per op constant.
    """

    def __init__(self, devices: Sequence[Any]) -> None:
        self._devices = list(devices)
        self._cells: dict[Place, _Cell] = {}
        self._bytes = 0
        self._sweep_at_bytes = 0
        self.sweep()

    def __len__(self) -> int:
        return len(self._cells)

    @property
    def bytes(self) -> int:
        """Returns the host memory that the values take."""
        return self._bytes

    def read(self, tensor: Any) -> torch.Tensor:
        """Returns the value of a tensor on the board, in its logical shape and shadow dtype. Not a copy."""
        cell = self._cells.get(self.place(tensor))
        shape = tuple(tensor.shape)
        if cell is None or cell.buffer != tensor.buffer_unique_id():
            raise RuntimeError(
                f"emulated board: the tensor {shape} {tensor.dtype} has no value: it was made while only shapes were "
                "followed, or by a call that the emulation does not follow"
            )
        if cell.value.numel() != tensor.logical_volume():
            raise RuntimeError(
                f"emulated board: the tensor {shape} is a view of a buffer last written as {tuple(cell.value.shape)}: "
                "views with another number of elements are not emulated"
            )
        return cell.value.reshape(shape)

    def write(self, tensor: Any, value: torch.Tensor) -> None:
        """Gives the buffer of `tensor` this value (shadow dtype), and keeps it: the caller must not write into it."""
        value = value.contiguous()
        if value.untyped_storage().nbytes() > value.nbytes:
            # The first rows of a larger tensor would keep all of it.
            value = value.clone()
        place, cell = self.place(tensor), _Cell(tensor.buffer_unique_id(), value)
        before = self._cells.get(place)
        # In one step: an interrupt (Ctrl-C) leaves the former value of a tensor that is written in place, not none.
        self._cells[place] = cell
        self._bytes += value.nbytes - (before.value.nbytes if before else 0)
        if self._bytes > self._sweep_at_bytes:
            self.sweep()

    def drop(self, tensor: Any) -> None:
        """Forgets the value of the buffer of `tensor`."""
        self.forget(self.place(tensor))

    def sweep(self) -> None:
        """Forgets the values of buffers that ttnn has freed."""
        buffers = ttnn._ttnn.reports.get_buffers(self._devices)
        living = {(buffer.device_id, buffer.buffer_type, buffer.address) for buffer in buffers}
        for place in [place for place in self._cells if place not in living]:
            self.forget(place)
        self._sweep_at_bytes = 2 * self._bytes + (16 << 20)

    @staticmethod
    def place(tensor: Any) -> Place:
        """Returns where the buffer of `tensor` lies: buffers that live together differ in it."""
        # The address first: of a tensor that is no longer there ttnn says so, where its device is None.
        address = tensor.buffer_address()
        return tensor.device().id(), tensor.memory_config().buffer_type, address

    def forget(self, place: Place) -> None:
        """Forgets the value at `place`, if there is one."""
        cell = self._cells.pop(place, None)
        if cell is not None:
            self._bytes -= cell.value.nbytes
