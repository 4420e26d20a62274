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


CIRCULAR_BUFFERS = 64
"""That a core may have, by ttnn's account."""


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


def compute_config(fidelity: ttnn.MathFidelity, exact: Iterable[int] = ()) -> ttnn.ComputeConfigDescriptor:
    """Returns the config of a compute kernel that adds in float32.

    Args:
        fidelity: of its products.
        exact: circular buffers whose tiles of float32 go to the registers as they are: what passes through the multiplier's own
            loses 13 bits.
    """
    config = ttnn.ComputeConfigDescriptor(math_fidelity=fidelity, fp32_dest_acc_en=True, math_approx_mode=False)
    if exact:
        modes = [ttnn.UnpackToDestMode.Default] * CIRCULAR_BUFFERS
        for index in exact:
            modes[index] = ttnn.UnpackToDestMode.UnpackToDestFp32
        config.unpack_to_dest_mode = ttnn._ttnn.program_descriptor.VectorUnpackToDestMode(modes)
    return config


def throttle_defines(throttle: ttnn.ThrottleLevel) -> list[tuple[str, str]]:
    """Returns how a compute kernel is told how much its matmuls are slowed down, see `precision.throttled`."""
    level = list(ttnn.ThrottleLevel.__members__.values()).index(throttle)
    return [("MM_THROTTLE", str(level))] if level else []


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
