"""How `add_projection` is laid out on the cores: a pure function of shapes, grid and memory, in tiles. No ttnn here."""

from dataclasses import dataclass
from functools import cache
from math import ceil

from ....ttnn_api.tiles import TILE_BYTES
from ..memory import MEMORY_SHARE

READ_AT_ONCE = 8
"""Tiles of a column of the weight that a core asks DRAM for before it waits: each wait costs the latency of DRAM."""

FEWEST = 8
"""Tiles of a column that are worth a core: what it sums has to be handed to another."""

STREAM = TILE_BYTES["FLOAT32"]


@dataclass(frozen=True)
class AddProjectionPlan:
    """What each core does, in tiles.

    Attributes:
        rows: of x and of the stream, those of all batches.
        inner: of the dimension that is summed over.
        columns: of the stream; a core makes one, or a part of its sum.
        parts: in which a column is summed, each by a core of its own.
        grid: columns and rows of workers.
    """

    rows: int
    inner: int
    columns: int
    parts: int
    grid: tuple[int, int]

    def span(self, part: int) -> tuple[int, int]:
        """Returns where a part of the dimension that is summed over begins and ends."""
        return part * self.inner // self.parts, (part + 1) * self.inner // self.parts

    @property
    def longest(self) -> int:
        """Tiles of the longest part."""
        return ceil(self.inner / self.parts)


@cache
def add_projection_plan(
    rows: int,
    inner: int,
    columns: int,
    shards: int,
    bytes: tuple[int, int],
    grid: tuple[int, int],
    memory: int,
) -> AddProjectionPlan | None:
    """Returns the plan, or None where there are more columns than cores, or one's part does not fit into a core's memory.

    Args:
        rows: of x, as in `AddProjectionPlan`, as are those that follow.
        inner: as there.
        columns: as there.
        shards: cores that have the stream, whole columns each.
        bytes: of a tile of x and of the weight.
        grid: columns and rows of workers.
        memory: bytes of a core's L1.
    """
    cores = grid[0] * grid[1]
    if columns > cores:
        return None
    parts = max(1, min(cores // columns, inner // FEWEST))
    plan = AddProjectionPlan(rows, inner, columns, parts, grid)
    buffers = plan.longest * (rows * bytes[0] + bytes[1]) + (parts + 1) * rows * STREAM
    # The stream as it was and as it becomes, and x.
    tensors = 2 * rows * ceil(columns / shards) * STREAM + ceil(rows * inner / cores) * bytes[0]
    return plan if buffers + tensors <= MEMORY_SHARE * memory else None
