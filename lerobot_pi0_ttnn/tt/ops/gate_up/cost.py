"""What a run of `gate_up` takes."""

from collections.abc import Sequence
from math import ceil

from ....ttnn_api.own_program import Handed, Work
from ....ttnn_api.tiles import tiles
from .plan import READ_AT_ONCE


def cost(tensors: Sequence[Handed]) -> Work:
    """Returns the work: a unit is a column of tiles of the product, for which a column of each weight is read once.

    x, which the cores that have it hand to all others, and the product lie in L1. Their product is taken for a pass.

    Args:
        tensors: x, gate, up, product.
    """
    x, gate, up, product = tensors
    (rows, columns), (inner, _) = tiles(product.shape), tiles(gate.shape)
    return Work(
        columns,
        tuple((weight.dtype, weight.bytes) for weight in (gate, up)),
        near=product.bytes,
        waits=ceil(inner / READ_AT_ONCE),
        products=2 * rows * inner,
        passes=rows,
        vector={"GELU_TANH(1)": rows},
        fed=x.bytes,
        blocks=x.shards,
    )
