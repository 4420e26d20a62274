"""How `gate_up` is laid out on the cores: a pure function of shapes, grid and memory, in tiles. No ttnn here."""

from dataclasses import dataclass
from functools import cache
from math import ceil

from ....ttnn_api.tiles import TILE_BYTES
from ..memory import MEMORY_SHARE

READ_AT_ONCE = 8
"""Tiles of each weight that a core asks DRAM for before it waits: each wait costs the latency of DRAM."""

SEMAPHORES = 16
"""Of a core."""

PRODUCT = TILE_BYTES["BFLOAT16"]


@dataclass(frozen=True)
class GateUpPlan:
    """What each core does, in tiles.

    Attributes:
        rows: of x and of the product, those of all batches.
        shards: cores of the first row that have x in their L1, whole columns each.
        shard_columns: of x that each of them has.
        columns: of the product, of which a core makes whole ones.
        grid: columns and rows of the rectangle of cores that are handed x.
        block: of a column of a weight that is read at once.
        depth: columns of both weights that a core has room for.
    """

    rows: int
    shards: int
    shard_columns: int
    columns: int
    grid: tuple[int, int]
    block: int
    depth: int

    @property
    def inner(self) -> int:
        """Tiles of the dimension that is summed over."""
        return self.shards * self.shard_columns


@cache
def gate_up_plan(
    rows: int,
    shards: int,
    shard_columns: int,
    columns: int,
    bytes: tuple[int, int],
    grid: tuple[int, int],
    memory: int,
) -> GateUpPlan | None:
    """Returns the plan, or None where all of x and one column of the weights do not fit into a core's memory.

    What lies there already is x and the residual stream in shards alike, and the product.

    Args:
        rows: of x, as in `GateUpPlan`, as are those that follow.
        shards: as there.
        shard_columns: as there.
        columns: as there.
        bytes: of a tile of x and of a weight.
        grid: columns and rows of workers.
        memory: bytes of a core's L1.
    """
    inner = shards * shard_columns
    height = min(grid[1], ceil(columns / grid[0]))
    block = next(size for size in range(min(inner, READ_AT_ONCE), 0, -1) if inner % size == 0)
    tensors = 2 * rows * shard_columns * bytes[0] + ceil(rows * columns / (grid[0] * grid[1])) * PRODUCT
    for depth in (2, 1):
        buffers = rows * inner * bytes[0] + depth * 2 * inner * bytes[1] + 2 * rows * PRODUCT
        if shards < SEMAPHORES and tensors + buffers <= MEMORY_SHARE * memory:
            return GateUpPlan(rows, shards, shard_columns, columns, (grid[0], height), block, depth)
    return None
