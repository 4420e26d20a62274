"""What a run of `add_projection` takes."""

from collections.abc import Sequence

from ....ttnn_api.own_program import Handed, Work
from ....ttnn_api.tiles import tiles
from .plan import FEWEST


def cost(tensors: Sequence[Handed]) -> Work:
    """Returns the work: a unit is as many tiles of a column of the weight as are worth a core, of which a core takes some.

    x, the stream and the sum lie in L1; the weight is read once, x once for each column.

    Args:
        tensors: x, weight, stream, sum.
    """
    x, weight, stream, total = tensors
    (rows, columns), (inner, _) = tiles(stream.shape), tiles(weight.shape)
    parts = max(1, inner // FEWEST)
    near = columns * x.bytes + stream.bytes + total.bytes
    return Work(columns * parts, ((weight.dtype, weight.bytes),), near, products=rows * inner // parts)
