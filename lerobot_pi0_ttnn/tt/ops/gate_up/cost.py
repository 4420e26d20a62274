"""What a run of `gate_up` takes."""

from collections.abc import Sequence

from ....ttnn_api.own_program import Handed, Work
from ....ttnn_api.tiles import tiles


def cost(tensors: Sequence[Handed]) -> Work:
    """Returns the work: a unit is a column of tiles of the product, for which a column of each weight is read once.

    x and the product lie in L1.

    Args:
        tensors: x, gate, up, product.
    """
    x, gate, up, product = tensors
    (rows, columns), (inner, _) = tiles(product.shape), tiles(gate.shape)
    traffic = tuple((weight.dtype, weight.bytes) for weight in (gate, up))
    return Work(columns, traffic, products=2 * rows * inner, handed=(x.bytes, x.shards))
