"""What a run of `add_projection` takes."""

from collections.abc import Sequence

from ....ttnn_api.own_program import Handed, Work
from ....ttnn_api.tiles import tiles


def cost(tensors: Sequence[Handed]) -> Work:
    """Returns the work: a unit is a tile of the weight, with which all rows of x are multiplied.

    x, the stream and the sum lie in L1; the weight is read once.

    Args:
        tensors: x, weight, stream, sum.
    """
    _, weight, stream, _ = tensors
    (rows, columns), (inner, _) = tiles(stream.shape), tiles(weight.shape)
    return Work(columns * inner, ((weight.dtype, weight.bytes),), products=rows)
