"""Counts of what a stretch of code asked of ttnn: operations by name, and the traffic between host and board."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from .hook import Call, Proceed, add_layer, remove_layer

UPLOADS = {
    "ttnn.from_torch",
    "ttnn.as_tensor",
    "ttnn.to_device",
    "ttnn.copy_host_to_device_tensor",
    "ttnn.copy_host_to_device_tensor_partial",
    "ttnn.load_tensor",
    "ttnn.Tensor.to",
}
"""Not among them: `ttnn.zeros`, `ttnn.full` and their like, which count as operations, though some fill on the host."""

READBACKS = {
    "ttnn.to_torch",
    "ttnn.from_device",
    "ttnn.copy_device_to_host_tensor",
    "ttnn.dump_tensor",
    "ttnn.Tensor.cpu",
    "ttnn.Tensor.to_torch",
    "ttnn.Tensor.to_torch_with_padded_shape",
    "ttnn.Tensor.to_numpy",
    "ttnn.Tensor.to_list",
    "ttnn.Tensor.item",
    "ttnn.Tensor.__repr__",
}


@dataclass
class Traffic:
    """Transfers in one direction.

    Attributes:
        count: Calls that moved a tensor.
        bytes: What they moved, as stored on the board: tile padding counts, block formats with their exponents.
    """

    count: int = 0
    bytes: int = 0

    def add(self, tensor: Any) -> None:
        """Counts the transfer of one tensor, which is on the board."""
        self.count += 1
        self.bytes += tensor.buffer_num_pages() * tensor.buffer_page_size()


@dataclass(eq=False)
class Recording:
    """What ttnn was asked for while a recording ran.

    Attributes:
        operations: Calls by ttnn's full name (`ttnn.linear`); transfers are not among them.
        uploads: Host to board.
        readbacks: Board to host.
    """

    operations: Counter[str] = field(default_factory=Counter)
    uploads: Traffic = field(default_factory=Traffic)
    readbacks: Traffic = field(default_factory=Traffic)

    def __call__(self, call: Call, proceed: Proceed) -> Any:
        """Returns what the call returns, counted. Calls that fail are not."""
        tensor = call.argument(0, "tensor", "device_tensor", "input_tensor")
        if call.name == "ttnn.dump_tensor":
            tensor = call.argument(1, "tensor")
        was_on_board = _on_board(tensor)
        result = proceed(*call.args, **call.kwargs)
        if call.name in READBACKS:
            if was_on_board:
                self.readbacks.add(tensor)
        elif call.name in UPLOADS:
            arrived = result if result is not None else call.argument(1, "device_tensor")
            if not was_on_board and _on_board(arrived):
                self.uploads.add(arrived)
        else:
            self.operations[call.name] += 1
        return result


@contextmanager
def recording() -> Iterator[Recording]:
    """Returns (as a context) the counts of the calls made inside it, by any thread, on any kind of board."""
    counts = Recording()
    add_layer(counts)
    try:
        yield counts
    finally:
        remove_layer(counts)


def _on_board(value: Any) -> bool:
    import ttnn

    return isinstance(value, ttnn.Tensor) and value.storage_type() == ttnn.StorageType.DEVICE and value.is_allocated()
