"""How `group_matmul` is laid out on the cores: a pure function of shapes, grid and memory, in tiles. No ttnn here."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import ceil

from ....ttnn_api.tiles import TILE_BYTES
from ...blocking import CYCLES_PER_PRODUCT, CYCLES_PER_ROUND
from ..memory import MEMORY_SHARE

BLOCK = (4, 8)
"""The fewest and the most tiles of the inner dimension at a time: more make the first wait longer; for fewer the packing of
partial sums takes as long as multiplying."""

ROUNDS = 4
"""The fewest blocks: while the first ones come nobody multiplies."""

PASSES = 8
"""The most that are tried."""

NETWORKS = 2
"""Of a chip; each brings in every second block."""

SLOTS = 2
"""Blocks that a core has room for, of each network."""

FED_BYTES_PER_CYCLE = 22
READ_BYTES_PER_CYCLE = 190
"""What weighs bringing in against multiplying, besides what `blocking.py` has: the bytes in a cycle that one network of a
Wormhole hands to a group, and those that its DRAM gives to all cores (`analysis/chips.py`)."""

SUM = TILE_BYTES["FLOAT32"]
RESULTS = 4
"""Tiles of the result that wait to be written."""


@dataclass(frozen=True)
class GroupMatmulPlan:
    """What each core does, in tiles.

    Attributes:
        rows: of x and of the result, those of all batches.
        inner: of the dimension that is summed over.
        columns: of the result.
        groups: of cores, each of which makes some rows of the result, all of their columns.
        grid: columns and rows of the cores of one group; the groups lie one below the other.
        block: of the inner dimension that is brought in at a time.
        passes: in which a core makes its columns, one after the other: each is handed x again.
    """

    rows: int
    inner: int
    columns: int
    groups: int
    grid: tuple[int, int]
    block: int
    passes: int = 1

    @property
    def workers(self) -> int:
        """Cores of a group."""
        return self.grid[0] * self.grid[1]

    @property
    def senders(self) -> int:
        """Cores of a group that hand on blocks of x in turn: an even number, so that each does by one network."""
        return self.workers - self.workers % NETWORKS

    @property
    def high(self) -> int:
        """Rows of the core that has most."""
        return ceil(self.rows / self.groups)

    @property
    def wide(self) -> int:
        """Columns of the core that has most, in a pass."""
        return ceil(self.columns / (self.workers * self.passes))

    @property
    def tiles(self) -> int:
        """Of the result, that the busiest core makes in all passes."""
        return self.passes * self.high * self.wide

    @property
    def waiting(self) -> int:
        """Tiles of the result that a core has room for: those of a pass are written while the next one is on its way."""
        return RESULTS if self.passes == 1 else self.high * self.wide

    @property
    def blocks(self) -> int:
        """In which the inner dimension is brought in; the last may be smaller."""
        return ceil(self.inner / self.block)

    def rows_of(self, group: int) -> tuple[int, int]:
        """Returns where the rows of a group begin and end."""
        return group * self.rows // self.groups, (group + 1) * self.rows // self.groups

    def columns_of(self, worker: int, number: int = 0) -> tuple[int, int]:
        """Returns where the columns of a core begin and end in a pass: those of the core in its place in any other group."""
        part, parts = number * self.workers + worker, self.passes * self.workers
        return part * self.columns // parts, (part + 1) * self.columns // parts


@cache
def group_matmul_plan(
    rows: int,
    inner: int,
    columns: int,
    bytes: tuple[int, int, int],
    grid: tuple[int, int],
    memory: int,
    *,
    adds: bool = False,
    is_near: bool = True,
) -> GroupMatmulPlan | None:
    """Returns the quickest plan, or None where none fits into the cores' memory, or the inner dimension is short.

    Args:
        rows: of x, as in `GroupMatmulPlan`, as are those that follow.
        inner: as there.
        columns: as there.
        bytes: of a tile of x, of the weight and of the result.
        grid: columns and rows of workers.
        memory: bytes of a core's L1 that no tensor takes.
        adds: whether what the result is added to, as large as it, is brought in.
        is_near: whether the result is left in L1.
    """
    plans = _plans(rows, inner, columns, bytes, grid, MEMORY_SHARE * memory, adds=adds)
    moved = (*bytes[:2], 0 if is_near else bytes[2])
    return min(plans, key=lambda plan: cycles(plan, moved), default=None)


def cycles(plan: GroupMatmulPlan, bytes: tuple[int, int, int]) -> float:
    """Returns about how many cycles the busiest core multiplies, or is handed its operands, or DRAM is read: the longest.

    And those that come after, in which the results of the last pass are written, where that is to DRAM.

    Args:
        plan: of the matmul.
        bytes: of a tile of x, of the weight and of the result, 0 of one that is left in L1.
    """
    handed = plan.passes * plan.inner * (plan.high * bytes[0] + (plan.groups - 1) * plan.wide * bytes[1])
    read = plan.inner * (plan.passes * plan.rows * bytes[0] + plan.columns * bytes[1])
    waits = plan.passes * plan.blocks / NETWORKS * CYCLES_PER_ROUND
    brought = max(handed / NETWORKS / FED_BYTES_PER_CYCLE + waits, read / READ_BYTES_PER_CYCLE)
    written = written_cycles(plan.rows * plan.columns, bytes[2])
    return max(plan.tiles * plan.inner * CYCLES_PER_PRODUCT, brought) + written / plan.passes


def written_cycles(tiles: int, bytes: int) -> float:
    """Returns about how many cycles it takes all cores to write so many tiles of so many bytes to DRAM."""
    return tiles * bytes / READ_BYTES_PER_CYCLE


def circular_buffers(plan: GroupMatmulPlan, bytes: tuple[int, int, int], *, adds: bool) -> int:
    """Returns the bytes that a core needs: blocks of both operands, one of x to hand on, sums, what is added, results."""
    x, weight, result = bytes
    brought = plan.block * ((NETWORKS * SLOTS + 1) * plan.high * x + NETWORKS * SLOTS * plan.wide * weight)
    return brought + plan.high * plan.wide * (SUM + adds * result) + plan.waiting * result


def _plans(
    rows: int,
    inner: int,
    columns: int,
    bytes: tuple[int, int, int],
    grid: tuple[int, int],
    memory: float,
    *,
    adds: bool,
) -> Iterator[GroupMatmulPlan]:
    """The plans that fit, with the longest blocks of each number of groups and passes."""
    for groups in range(1, min(rows, grid[1]) + 1):
        for passes in range(1, PASSES + 1):
            for longest in range(min(BLOCK[1], inner // ROUNDS), BLOCK[0] - 1, -1):
                block = ceil(inner / ceil(inner / longest))
                plan = GroupMatmulPlan(rows, inner, columns, groups, (grid[0], grid[1] // groups), block, passes)
                if plan.senders and circular_buffers(plan, bytes, adds=adds) <= memory:
                    yield plan
                    break
