"""What a run of `split_heads` takes."""

from collections.abc import Sequence

from ....ttnn_api.own_program import Handed, Work
from ....ttnn_api.tiles import tiles


def cost(tensors: Sequence[Handed]) -> Work:
    """Returns the work: a unit is a row of tiles of one head, key and value being one.

    Each unit reads its tiles twice, as they are and swapped, and its row of both tables, and waits once for all of that; it
    multiplies each tile with a cosine and each swapped one with a sine.

    Args:
        tensors: qkv, cos, sin, queries (where there are any), keys, values.
    """
    qkv, cos, sin, *written = tensors
    rows, width = tiles(qkv.shape)
    heads = width // tiles(cos.shape)[1]
    rotated, head_bytes = heads - 1, qkv.bytes // heads
    *queries, keys, values = written
    moved = [
        (qkv, (2 * rotated + 1) * head_bytes),
        (cos, rotated * cos.bytes),
        (sin, rotated * sin.bytes),
        *((tensor, (heads - 2) * head_bytes) for tensor in queries),
        (keys, head_bytes),
        (values, head_bytes),
    ]
    traffic = tuple((tensor.dtype, size) for tensor, size in moved if tensor.memory != "L1")
    near = sum(size for tensor, size in moved if tensor.memory == "L1")
    return Work(rows * rotated, traffic, near, passes=2 * (width // heads))
