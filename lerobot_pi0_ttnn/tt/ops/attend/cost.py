"""What a run of `attend` takes."""

from collections.abc import Sequence

from ....ttnn_api.own_program import Handed, Work
from ....ttnn_api.tiles import TILE_BYTES, tiles


def cost(tensors: Sequence[Handed]) -> Work:
    """Returns the work: a unit is a tile of keys for a row of tiles of one head, of which a core takes some.

    Keys and values are read once, by one core of each part, which hands them to all others of it; the mask once for each head.
    A part is taken for a quarter of the keys. What cores add up is taken for four tiles of float32 that each unit is sent.

    Args:
        tensors: queries, keys, values, mask, result.
    """
    queries, keys, values, mask, result = tensors
    _, heads, *_ = queries.shape
    (rows, width), (length, _) = tiles(queries.shape), tiles(keys.shape)
    units = rows * length
    return Work(
        units,
        ((keys.dtype, keys.bytes + values.bytes), (mask.dtype, heads * mask.bytes)),
        near=queries.bytes + result.bytes + units * 4 * TILE_BYTES["FLOAT32"],
        products=2 * width + 1,
        # The mask, the maximum, two for the difference, a maximum of others, and four that are added.
        passes=9,
        vector={"EXP": 1},
        first=keys.bytes // 4,
        exchanges=2,
    )
