"""How matmuls are cut up, on all the grids that boards have: pure functions, no board needed."""

from math import ceil

import pytest

from lerobot_pi0_ttnn.tt.blocking import (
    FEW_ROWS,
    MEMORY_SHARE,
    SUBBLOCK,
    Blocks,
    Matmul,
    busy,
    circular_buffers,
    inner_blocks,
    matmul_blocks,
    shard_count,
    subblock,
)

GRIDS = {"8x8": (8, 8), "8x7": (8, 7), "11x10": (11, 10), "12x10": (12, 10), "13x10": (13, 10)}
WORMHOLE, BLACKHOLE = 1_393_312, 1_461_120
"""Bytes of L1 that ttnn 0.81.1 has for tensors and programs on an emulated n150 and p150."""

F32, BF16, BFP8 = 4096, 2048, 1088

EXPERT = {
    "qkv": Matmul(2, 32, 80, (F32, BFP8, BF16), shards=8),
    "o": Matmul(2, 64, 32, (BF16, BFP8, F32)),
    "gate": Matmul(2, 32, 128, (F32, BFP8, BF16), shards=8),
    "down": Matmul(2, 128, 32, (BF16, BFP8, F32)),
}
PREFIX = {
    "vlm qkv": Matmul(17, 64, 80),
    "vlm o": Matmul(17, 64, 64),
    "vlm gate": Matmul(17, 64, 512),
    "vlm down": Matmul(17, 512, 64),
    "three cameras, gate": Matmul(26, 64, 512),
    "four rows of a batch, gate": Matmul(68, 64, 512),
    "siglip qkv": Matmul(16, 36, 144),
    "siglip out": Matmul(16, 48, 36),
    "siglip fc1": Matmul(16, 36, 136),
    "siglip fc2": Matmul(16, 136, 36),
    "patches": Matmul(16, 19, 36, (BF16, BF16, BF16)),
}


def memory(grid: str) -> int:
    return WORMHOLE if grid.startswith("8x") else BLACKHOLE


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("role", [*EXPERT, *PREFIX])
def test_every_tile_is_somebodys_and_fits(role, grid):
    """The rules that ttnn's validation has, and that all of the result is computed."""
    matmul = (EXPERT | PREFIX)[role]
    blocks = matmul_blocks(matmul, GRIDS[grid], memory(grid))
    assert blocks is not None
    x, y = GRIDS[grid]
    assert blocks.grid[0] <= x
    assert blocks.grid[1] <= y
    down, across = ceil(matmul.rows / blocks.rows), ceil(matmul.columns / blocks.columns)
    if blocks.is_2d:
        assert down <= y
        assert across <= x
    else:
        assert down == 1
        assert across <= x * y
    assert matmul.inner % blocks.inner == 0
    assert (matmul.inner // max(matmul.shards, 1)) % blocks.inner == 0
    high, wide = blocks.subblock
    assert blocks.rows % high == 0
    assert blocks.columns // blocks.passes % wide == 0
    assert blocks.columns % blocks.passes == 0
    assert high * wide <= 4, "float32 has half of the eight destination registers"
    assert circular_buffers(matmul, blocks.rows, blocks.columns // blocks.passes, blocks.inner) <= 0.9 * memory(grid)


@pytest.mark.parametrize(
    ("role", "grid", "expected"),
    [
        # Each of 128 columns of tiles, two to a core; a shard of four tiles of the inner dimension at a time.
        ("gate", "8x8", Blocks((8, 8), 2, 2, 4, (2, 2), False)),
        ("gate", "8x7", Blocks((8, 7), 2, 3, 4, (1, 3), False)),
        ("gate", "11x10", Blocks((11, 10), 2, 2, 4, (2, 2), False)),
        ("gate", "13x10", Blocks((13, 10), 2, 1, 4, (2, 1), False)),
        # A quarter of the inner dimension at a time.
        ("down", "8x8", Blocks((8, 8), 2, 1, 32, (2, 1), False)),
        ("o", "12x10", Blocks((12, 10), 2, 1, 16, (2, 1), False)),
        # Wide: all rows to every core, and as much of the inner dimension as fits beside 17 x 8 sums.
        ("vlm gate", "8x8", Blocks((8, 8), 17, 8, 4, (1, 4), False)),
        ("vlm gate", "11x10", Blocks((11, 10), 17, 5, 8, (1, 1), False)),
        # Handing 17.8 MB to all of them would take longer than multiplying: two dimensions.
        ("vlm down", "8x8", Blocks((8, 8), 3, 8, 32, (1, 4), True)),
        ("siglip qkv", "11x10", Blocks((11, 10), 2, 14, 9, (1, 2), True)),
        # 26 rows: sums of 4 x 64 tiles do not fit. 32 columns twice leave room for two tiles of the inner dimension, and each
        # block of it is waited for: 16 columns four times, each handed the rows.
        ("three cameras, gate", "8x8", Blocks((8, 8), 4, 64, 8, (1, 4), True, passes=4)),
        # 47 columns are prime: 48, in passes of 16.
        ("four rows of a batch, gate", "11x10", Blocks((11, 10), 7, 48, 8, (1, 4), True, passes=3)),
        # 19 is prime: all of it, or one at a time.
        ("patches", "11x10", Blocks((11, 10), 2, 4, 19, (1, 4), True)),
    ],
)
def test_blocks(role, grid, expected):
    assert matmul_blocks((EXPERT | PREFIX)[role], GRIDS[grid], memory(grid)) == expected


def test_a_result_in_shards_is_made_where_it_is_left():
    blocks = matmul_blocks(Matmul(2, 32, 32, (F32, F32, F32)), (11, 10), BLACKHOLE, out_shards=8)
    assert blocks == Blocks((8, 1), 2, 4, 8, (1, 4), False)


def test_less_memory_smaller_blocks_more_passes_and_at_last_none():
    matmul = Matmul(2, 64, 512)
    blocks = [matmul_blocks(matmul, (8, 8), kilobytes * 1024) for kilobytes in (1000, 250, 150, 20)]
    assert [(b.inner, b.passes) for b in blocks[:3]] == [(16, 1), (8, 2), (4, 2)]
    assert blocks[3] is None


def test_circular_buffers():
    """Two blocks of each operand, result, float32 sums unless the result is them, one row of bias."""
    matmul = Matmul(2, 8, 3, (1, 10, 100))
    assert circular_buffers(matmul, 2, 3, 4) == 2 * 4 * (2 * 1 + 3 * 10) + 6 * 100 + 6 * 4096 + 3 * 4096
    assert circular_buffers(Matmul(2, 8, 3, (1, 10, F32)), 2, 3, 4) == 2 * 4 * 32 + 6 * 4096 + 3 * 4096
    assert MEMORY_SHARE < 1


def test_inner_blocks():
    assert inner_blocks(Matmul(1, 32, 1))[:2] == [8, 4], "four blocks, or twice as many, or half"
    assert set(inner_blocks(Matmul(1, 36, 1))) == {1, 2, 3, 4, 6, 9, 12, 18, 36}
    assert inner_blocks(Matmul(1, 32, 1, shards=8)) == [4, 2, 1]


@pytest.mark.parametrize(
    ("rows", "columns", "size"),
    [(2, 2, (2, 2)), (2, 1, (2, 1)), (17, 5, (1, 1)), (17, 8, (1, 4)), (2, 6, (1, 3)), (4, 1, (4, 1)), (8, 2, (2, 2))],
)
def test_subblock(rows, columns, size):
    assert subblock(rows, columns) == size
    assert SUBBLOCK == 4


def test_the_busiest_core():
    matmul = Matmul(16, 36, 144, (BF16, BFP8, BF16))
    wide, square = Blocks((8, 8), 16, 3, 9, (1, 3), False), Blocks((8, 8), 2, 18, 9, (1, 3), True)
    assert busy(matmul, wide) == pytest.approx(16 * 36 * 2048 / 11), "one core hands all of the first operand on"
    assert busy(matmul, square) == pytest.approx(36 * 144 * 1088 / 8 / 11), "eight cores an eighth of the second each"
    assert busy(Matmul(17, 64, 512), Blocks((8, 8), 17, 8, 4, (1, 4), False)) == 17 * 8 * 64 * 32


@pytest.mark.parametrize(
    ("columns", "counts"), [(32, (8, 8, 8, 8, 8)), (2, (2,) * 5), (36, (6, 6, 9, 12, 12)), (11, (1, 1, 11, 11, 11))]
)
def test_shard_count(columns, counts):
    assert tuple(shard_count(columns, grid) for grid in GRIDS.values()) == counts
    assert FEW_ROWS >= 2, "the actions' rows"
