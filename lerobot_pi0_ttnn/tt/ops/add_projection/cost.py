"""What a run of `add_projection` takes."""

from collections.abc import Sequence

from ....ttnn_api.own_program import Handed, Work
from ....ttnn_api.tiles import tiles
from .plan import FEWEST


def cost(tensors: Sequence[Handed]) -> Work:
    """Returns the work: a unit is as many tiles of a column of the weight as are worth a core, of which a core takes some.

    x, the stream and the sum lie in L1; the weight is read once, x once for each column.

    Args:
        tensors: x, weight, stream, gate where there is one, sum.
    """
    x, weight, stream, *gate, total = tensors
    (rows, columns), (inner, _) = tiles(stream.shape), tiles(weight.shape)
    parts = max(1, inner // FEWEST)
    near = columns * x.bytes + stream.bytes + total.bytes
    traffic = tuple((tensor.dtype, tensor.bytes) for tensor in (weight, *gate))
    return Work(columns * parts, traffic, near, products=rows * inner // parts)
