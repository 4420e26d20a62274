"""What a run of `split_heads` takes."""

from collections.abc import Sequence

from ....ttnn_api.own_program import Handed, Work
from ....ttnn_api.tiles import tiles


def cost(tensors: Sequence[Handed]) -> Work:
    """Returns the work: a unit is a row of tiles of one head, key and value being one.

    Args:
        tensors: qkv, cos, sin, and what is written.
    """
    qkv, cos = tensors[0], tensors[1]
    rows, width = tiles(qkv.shape)
    moved = [(tensor.dtype, tensor.bytes) for tensor in tensors if tensor.memory != "L1"]
    return Work(rows * (width // tiles(cos.shape)[1] - 1), (*moved[:3], moved[0]))
