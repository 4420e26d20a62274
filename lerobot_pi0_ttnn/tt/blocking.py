"""How a matmul is blocked for the cores: pure functions of its shape, the grid and the memory, in tiles. No ttnn here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import ceil, log2, prod

from ..ttnn_api.tiles import TILE_BYTES

ROUNDS = 4
"""In how many blocks the inner dimension is read, as nearly as may be: a core multiplies one while the next is on its way.

Each block costs a wait for DRAM and a multicast, about a microsecond (`cost.py`), which is why there are not more.
"""

SUBBLOCK = 4
"""Tiles of a result that are accumulated at a time, in float32: half of the destination registers."""

FEW_ROWS = 4
"""Tiles of rows that are not worth dividing among cores."""

CYCLES_PER_PRODUCT = 32
FED_BYTES_PER_CYCLE = 11
"""What weighs multiplying against feeding where a cut is chosen: HiFi2's cycles for two tiles, and the bytes that a core of a
Wormhole reads and hands on in one (`chips.py`)."""

CYCLES_PER_ROUND = 1400
"""In which a core waits for a block of the inner dimension: a microsecond, see `ROUNDS`."""

MEMORY_SHARE = 0.9
"""Of a core's L1, for the circular buffers of a matmul; the rest is for tensors and what a program needs besides."""

INTERMEDIATE = TILE_BYTES["FLOAT32"]
"""Bytes of a tile of float32, in which partial sums are kept."""


@dataclass(frozen=True)
class Matmul:
    """A matmul as ttnn is asked for it, in tiles of so many bytes.

    Attributes:
        rows: of the result, those of all batches.
        inner: of the dimension that is summed over.
        columns: of the result.
        bytes: of a tile of each operand and of the result.
        shards: cores in a row that have the first operand in their L1, whole columns each; 0 where it is interleaved.
    """

    rows: int
    inner: int
    columns: int
    bytes: tuple[int, int, int] = (2048, 1088, 2048)
    shards: int = 0


@dataclass(frozen=True)
class Blocks:
    """What one core does of a matmul, in tiles.

    Attributes:
        grid: columns and rows of cores.
        rows: of the result that a core makes.
        columns: of the result that a core makes.
        inner: of the dimension that is summed over, at a time.
        subblock: rows and columns of the result that are accumulated at a time.
        is_2d: rows of cores share rows of the result, columns of cores its columns; else all cores have all of its rows.
        passes: in which a core makes its columns, equal parts one after the other: each is handed the first operand again.
    """

    grid: tuple[int, int]
    rows: int
    columns: int
    inner: int
    subblock: tuple[int, int]
    is_2d: bool
    passes: int = 1


@cache
def matmul_blocks(matmul: Matmul, grid: tuple[int, int], memory: int, *, out_shards: int = 0) -> Blocks | None:
    """Returns how to cut a matmul up, or None where no blocks of it fit into the cores' memory.

    Either each core is given all rows, which are handed to all of them, and some columns; or rows of cores share rows, and
    columns of cores share columns. What keeps the busiest core shorter is chosen; few rows are never divided.

    Args:
        matmul: what is to be cut.
        grid: columns and rows of workers.
        memory: bytes of a core's L1.
        out_shards: cores in a row that the result is to be left in, whole columns each; 0 for an interleaved one.
    """
    x, y = grid
    if out_shards:
        return _fitted(matmul, (out_shards, 1), matmul.rows, matmul.columns // out_shards, memory, is_2d=False)
    by_columns = _fitted(matmul, grid, matmul.rows, ceil(matmul.columns / (x * y)), memory, is_2d=False)
    if matmul.shards or matmul.rows <= FEW_ROWS:
        return by_columns
    by_both = _fitted(matmul, grid, ceil(matmul.rows / y), ceil(matmul.columns / x), memory, is_2d=True)
    cuts = [blocks for blocks in (by_columns, by_both) if blocks]
    return min(cuts, key=lambda blocks: busy(matmul, blocks), default=None)


def busy(matmul: Matmul, blocks: Blocks) -> float:
    """Returns about how many cycles the busiest core multiplies, or feeds the others, whichever takes longer."""
    first, second, _ = matmul.bytes
    fed = matmul.rows * matmul.inner * first
    if blocks.is_2d:
        down, across = ceil(matmul.rows / blocks.rows), ceil(matmul.columns / blocks.columns)
        fed = max(blocks.passes * fed // down, matmul.inner * matmul.columns * second // across)
    else:
        fed *= blocks.passes
    return max(blocks.rows * blocks.columns * matmul.inner * CYCLES_PER_PRODUCT, fed / FED_BYTES_PER_CYCLE)


def _fitted(
    matmul: Matmul, grid: tuple[int, int], rows: int, columns: int, memory: int, *, is_2d: bool
) -> Blocks | None:
    """Returns the quickest blocks for these rows and columns of a core, or for some columns more where there are passes."""
    fitting = []
    for passes in range(1, columns + 1):
        wide = ceil(columns / passes)
        while passes > 1 and prod(subblock(rows, wide)) == 1:
            wide += 1
        for inner in inner_blocks(matmul):
            if circular_buffers(matmul, rows, wide, inner) <= MEMORY_SHARE * memory:
                fitting.append(Blocks(grid, rows, wide * passes, inner, subblock(rows, wide), is_2d, passes))
                break

    def cycles(blocks: Blocks) -> float:
        return busy(matmul, blocks) + blocks.passes * matmul.inner // blocks.inner * CYCLES_PER_ROUND

    return min(fitting, key=cycles, default=None)


def inner_blocks(matmul: Matmul) -> list[int]:
    """Returns the tiles of the inner dimension that may be taken at a time, the preferred first.

    They are whole parts of it; of an operand in shards whole parts of a shard, the whole shard preferred.
    """
    whole = matmul.inner // matmul.shards if matmul.shards else matmul.inner
    parts = [inner for inner in range(whole, 0, -1) if whole % inner == 0]
    return parts if matmul.shards else sorted(parts, key=lambda inner: (abs(log2(whole / inner / ROUNDS)), inner))


def circular_buffers(matmul: Matmul, rows: int, columns: int, inner: int) -> int:
    """Returns the bytes that a core needs: two blocks of each operand, the result, its partial sums, and a bias."""
    first, second, result = matmul.bytes
    sums = 0 if result == INTERMEDIATE else rows * columns * INTERMEDIATE
    return 2 * inner * (rows * first + columns * second) + rows * columns * result + sums + columns * INTERMEDIATE


def subblock(rows: int, columns: int) -> tuple[int, int]:
    """Returns the rows and columns that are accumulated at a time: whole parts, as many as the registers hold.

    More rows than one only with all columns, since ttnn lays a result out by whole rows of a core's columns.
    """
    whole = [(high, wide) for high in range(1, rows + 1) for wide in range(1, columns + 1)]
    legal = [
        (high, wide)
        for high, wide in whole
        if high * wide <= SUBBLOCK and rows % high == 0 and columns % wide == 0 and (high == 1 or wide == columns)
    ]
    return max(legal, key=lambda size: (size[0] * size[1], size[1]))


def ttnn_inner_block(inner: int, columns: int, *, is_2d: bool) -> int:
    """Returns the tiles of the inner dimension that ttnn takes at a time where all is left to it and all is in DRAM.

    Source: tt-metal `matmul_program_config.cpp`, `create_simple_matmul_program_config` and `get_mcast_1d_config`.

    Args:
        inner: tiles of the inner dimension.
        columns: of the grid.
        is_2d: the program that ttnn chose.
    """
    if is_2d:
        return inner // columns if inner % columns == 0 else 1
    return 2 if inner % 2 == 0 else 1


def shard_count(columns: int, grid: tuple[int, int]) -> int:
    """Returns among how many cores of one row so many columns of tiles are cut into equal shards: the most that divide them."""
    return next(count for count in range(min(grid[0], columns), 0, -1) if columns % count == 0)
