"""From a checkpoint's tensors to tensors on the device, by way of a cache of converted ones on disk."""

from collections.abc import Callable

import torch
import ttnn
from torch import Tensor

from ..weights import Weights
from .program import Programs
from .weight_cache import WeightCache

Make = Callable[[], Tensor]
"""Makes a tensor on the host: called only where the cache does not have what would become of it."""


class DeviceWeights:
    """A cursor over a checkpoint, as `Weights` is, that also puts what parts make of its tensors on the device.

    Args:
        weights: cursor over the checkpoint.
        device: where the tensors go.
        cache: of converted tensors; None to convert every time.
        programs: of the device; new ones by default.

    Attributes:
        programs: That whoever computes with these tensors uses.
    """

    def __init__(
        self, weights: Weights, device: ttnn.Device, cache: WeightCache | None = None, programs: Programs | None = None
    ) -> None:
        self.device = device
        self.programs = programs or Programs(device)
        self._weights = weights
        self._cache = cache

    def at(self, name: str) -> "DeviceWeights":
        """Returns the cursor that stands at `name` below this one."""
        return DeviceWeights(self._weights.at(name), self.device, self._cache, self.programs)

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
        if self._cache is None:
            return to_device(make(), dtype, self.device, layout=layout)
        full_name = self._weights.at(name).name
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
