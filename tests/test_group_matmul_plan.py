"""How the rows of a matmul are divided among groups of cores, on the grid of each board: no board needed."""

import pytest

from lerobot_pi0_ttnn.tt.blocking import Matmul, matmul_blocks
from lerobot_pi0_ttnn.tt.ops.group_matmul.plan import GroupMatmulPlan, circular_buffers, group_matmul_plan
from lerobot_pi0_ttnn.tt.program import WORTH_GROUPS, compared

TILES = (2048, 1088, 2048)
WORMHOLE, BLACKHOLE = 1_393_312, 1_461_120
"""Bytes of L1 that ttnn 0.81.1 has for tensors and programs on an emulated n150 and p150."""

N150, N300, P150, P150_130 = (8, 8), (8, 7), (11, 10), (13, 10)
PREFIX = {"qkv": (64, 80), "o": (64, 64), "down": (512, 64)}
"""Tiles of the inner dimension and columns."""


def planned(rows, inner, columns, grid, memory=1_150_000, **options):
    return group_matmul_plan(rows, inner, columns, TILES, grid, memory, **options)


def share(rows, inner, columns, grid):
    """What part of ttnn's program ours takes, the result in L1."""
    matmul = Matmul(rows, inner, columns)
    blocks = matmul_blocks(matmul, grid, WORMHOLE if grid[0] == 8 else BLACKHOLE)
    return compared(planned(rows, inner, columns, grid), blocks, matmul, is_near=True)


@pytest.mark.parametrize(
    ("role", "groups", "tiles"),
    [("qkv", (4, (8, 2)), (5, 5)), ("o", (2, (8, 4)), (9, 2)), ("down", (2, (8, 4)), (9, 2))],
)
def test_seventeen_rows_on_eight_rows_of_cores(role, groups, tiles):
    """18 tiles for a core where ttnn's program gives 48 cores 24 each, 25 where it gives 30."""
    inner, columns = PREFIX[role]
    plan = planned(17, inner, columns, N150, adds=True)
    assert plan == GroupMatmulPlan(17, inner, columns, *groups, block=8)
    assert (plan.high, plan.wide, plan.blocks) == (*tiles, inner // 8)
    assert share(17, inner, columns, N150) < WORTH_GROUPS
    if plan.groups == 2:
        assert [plan.rows_of(group) for group in range(2)] == [(0, 8), (8, 17)]


@pytest.mark.parametrize("grid", [N300, P150, P150_130], ids=["n300", "p150", "p150-130"])
@pytest.mark.parametrize("role", PREFIX)
def test_where_ttnns_program_is_as_good(role, grid):
    assert share(17, *PREFIX[role], grid) > WORTH_GROUPS


def test_rows_that_divide_evenly_are_left_to_ttnn():
    assert share(16, *PREFIX["down"], N150) == 1
    assert share(25, *PREFIX["down"], N150) < WORTH_GROUPS, "three cameras"


def test_gate_and_up_of_an_n150_are_made_in_passes():
    """Of 17 x 8 tiles a core, the float32 sums leave ttnn's program room for one tile of the inner dimension at a time."""
    gate, left = Matmul(17, 64, 512), 1_150_000
    blocks = matmul_blocks(gate, N150, left)
    assert (blocks.rows, blocks.columns, blocks.inner) == (17, 8, 1)
    plan = planned(17, 64, 512, N150, left, is_near=False)
    assert plan == GroupMatmulPlan(17, 64, 512, 1, (8, 8), block=4, passes=4)
    assert (plan.high, plan.wide, plan.tiles) == (17, 2, 17 * 8)
    assert compared(plan, blocks, gate, is_near=False) < WORTH_GROUPS, "most of the result is written meanwhile"
    assert compared(plan, blocks, gate, is_near=True) == 1, "as many products"


@pytest.mark.parametrize("grid", [N150, N300, P150, (8, 3)])
@pytest.mark.parametrize(("rows", "columns"), [(17, 64), (5, 3), (7, 300)])
def test_every_tile_is_somebodys_and_fits(rows, columns, grid):
    memory = 500_000
    plan = planned(rows, 19, columns, grid, memory, adds=True)
    assert plan.groups * plan.grid[1] <= grid[1]
    assert plan.grid[0] == grid[0]
    made = [
        (row, column)
        for group in range(plan.groups)
        for worker in range(plan.workers)
        for number in range(plan.passes)
        for row in range(*plan.rows_of(group))
        for column in range(*plan.columns_of(worker, number))
    ]
    assert sorted(made) == [(row, column) for row in range(rows) for column in range(columns)]
    assert max(end - begin for begin, end in map(plan.rows_of, range(plan.groups))) == plan.high
    widths = [plan.columns_of(worker, number) for worker in range(plan.workers) for number in range(plan.passes)]
    assert max(end - begin for begin, end in widths) == plan.wide
    assert plan.senders % 2 == 0 < plan.senders <= plan.workers
    assert circular_buffers(plan, TILES, adds=True) <= 0.9 * memory


def test_less_memory_makes_shorter_blocks_and_none_no_plan():
    assert planned(17, 512, 64, N150, 1_100_000).block == 8
    assert 4 <= planned(17, 512, 64, N150, 700_000).block < 8
    assert planned(17, 512, 64, N150, 10_000) is None


def test_few_tiles_are_left_to_ttnn():
    assert planned(17, 15, 64, N150) is None
    assert planned(17, 16, 64, N150).block == 4
    assert planned(17, 512, 64, (1, 1)) is None, "a core of its own hands nothing to anybody"
