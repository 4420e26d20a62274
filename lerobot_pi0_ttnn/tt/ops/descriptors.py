"""What the host code of each program of our own tells ttnn: where tensors and cores are, what a core keeps in buffers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import ttnn

from ...ttnn_api.tiles import TILE_BYTES

PROGRAMS_KEPT = 128
"""Descriptors that each program of our own keeps: one chunk of pi0_base, whose steps are alike, has fewer of each.

They take 10 to 16 KB outside Python's heap for the tiny pi0 on an n150. A tensor that lies elsewhere has another, so that every
new context and model brings some: what keeps many of them grows for hours, and pins what glibc would give back around them.
"""


@dataclass(frozen=True)
class Buffer:
    """What a kernel has to know of a tensor to find its tiles."""

    address: int
    accessor: tuple[int, ...]
    dtype: ttnn.DataType

    @classmethod
    def of(cls, tensor: ttnn.Tensor) -> "Buffer":
        """Returns that of a tensor on the device."""
        accessor = tuple(ttnn.TensorAccessorArgs(tensor).get_compile_time_args())
        return cls(tensor.buffer_address(), accessor, tensor.dtype)


def on_network(device: ttnn.Device, cores: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Returns where workers are on the chip's network, (x, y) each, as other cores address them.

    Args:
        device: whose workers they are.
        cores: column and row of each in the grid of workers.
    """
    places = (device.worker_core_from_logical_core(ttnn.CoreCoord(x, y)) for x, y in cores)
    return tuple((place.x, place.y) for place in places)


def circular_buffer(
    indices: int | Sequence[int], dtype: ttnn.DataType, tiles: int, cores: ttnn.CoreRangeSet
) -> ttnn.CBDescriptor:
    """Returns a circular buffer of so many tiles on each of the cores.

    Args:
        indices: as the kernels number it; several where the same tiles have several numbers.
        dtype: of the tiles.
        tiles: that it holds.
        cores: that have one.
    """
    page = TILE_BYTES[dtype.name]
    numbers = [indices] if isinstance(indices, int) else indices
    return ttnn.CBDescriptor(
        total_size=tiles * page,
        core_ranges=cores,
        format_descriptors=[
            ttnn.CBFormatDescriptor(buffer_index=number, data_format=dtype, page_size=page) for number in numbers
        ],
    )
