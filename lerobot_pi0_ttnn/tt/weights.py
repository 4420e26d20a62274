"""From a checkpoint's tensors to tensors on the device, by way of a cache of converted ones on disk."""

from collections.abc import Callable, Mapping
from copy import copy
from typing import Protocol

import torch
import ttnn
from torch import Tensor

from ..model.tensors import Weights
from .program import Programs

Make = Callable[[], Tensor]
"""Makes a tensor on the host: called only where the cache does not have what would become of it."""


class Cache(Protocol):
    """Keeps converted tensors by name, see `device/weight_cache.py`."""

    def load(self, name: str, device: ttnn.Device) -> ttnn.Tensor | None:
        """Returns a cached tensor, in the device's DRAM; None where there is none."""

    def store(self, name: str, tensor: ttnn.Tensor) -> None:
        """Keeps a tensor, which is on the host."""


class DeviceWeights:
    """A cursor over a checkpoint, as `Weights` is, that also puts what parts make of its tensors on the device.

    Args:
        weights: cursor over the checkpoint.
        device: where the tensors go.
        cache: of converted tensors; None to convert every time.
        clone_from: what was uploaded of the same checkpoint to another chip: it is copied from there, and converted no more.
        stock: whether those who compute with them use ttnn's own programs only, see `Programs`.

    Attributes:
        programs: That whoever computes with these tensors uses.
        uploaded: What this cursor and those below it have put on the device, by full name.
    """

    def __init__(
        self,
        weights: Weights,
        device: ttnn.Device,
        cache: Cache | None = None,
        clone_from: Mapping[str, ttnn.Tensor] | None = None,
        *,
        stock: bool = False,
    ) -> None:
        self.device = device
        self.programs = Programs(device, stock=stock)
        self.uploaded: dict[str, ttnn.Tensor] = {}
        self._weights = weights
        self._cache = cache
        self._clone_from = clone_from

    def at(self, name: str) -> "DeviceWeights":
        """Returns the cursor that stands at `name` below this one."""
        cursor = copy(self)
        cursor._weights = self._weights.at(name)
        return cursor

    def take(self, name: str, dtype: torch.dtype = torch.float32) -> Tensor:
        """Returns the checkpoint's tensor `name` below this cursor, on the host."""
        return self._weights.take(name, dtype)

    def upload(
        self, name: str, make: Make, dtype: ttnn.DataType, *, layout: ttnn.Layout = ttnn.TILE_LAYOUT
    ) -> ttnn.Tensor:
        """Returns what `make` makes, rounded to `dtype`, in the device's DRAM.

        Args:
            name: what the tensor is, below this cursor; the cache keeps it under this name.
            make: makes it on the host.
            dtype: of the result.
            layout: of the result.
        """
        full_name = self._weights.at(name).name
        tensor = self.uploaded[full_name] = self._on_device(full_name, make, dtype, layout)
        return tensor

    def _on_device(self, full_name: str, make: Make, dtype: ttnn.DataType, layout: ttnn.Layout) -> ttnn.Tensor:
        if self._clone_from is not None:
            converted = ttnn.from_device(self._clone_from[full_name])
        elif self._cache is None:
            return to_device(make(), dtype, self.device, layout=layout)
        else:
            cached = self._cache.load(full_name, self.device)
            if cached is not None:
                return cached
            converted = on_host(make(), dtype, layout=layout)
            self._cache.store(full_name, converted)
        return ttnn.to_device(converted, self.device, memory_config=ttnn.DRAM_MEMORY_CONFIG)


def on_host(tensor: Tensor, dtype: ttnn.DataType, *, layout: ttnn.Layout = ttnn.TILE_LAYOUT) -> ttnn.Tensor:
    """Returns `tensor` on the host as the device will have it."""
    return ttnn.from_torch(tensor, dtype=dtype, layout=layout)


def to_device(
    tensor: Tensor, dtype: ttnn.DataType, device: ttnn.Device, *, layout: ttnn.Layout = ttnn.TILE_LAYOUT
) -> ttnn.Tensor:
    """Returns `tensor` on the device, in its DRAM."""
    return ttnn.from_torch(tensor, dtype=dtype, layout=layout, device=device, memory_config=ttnn.DRAM_MEMORY_CONFIG)
