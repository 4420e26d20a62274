"""How gate, up and their product are laid out on the cores of each board: no board needed."""

import pytest

from lerobot_pi0_ttnn.tt.ops.gate_up.plan import GateUpPlan, gate_up_plan

BFLOAT8_B, BFLOAT16, FLOAT32 = 1088, 2048, 4096
WORMHOLE, BLACKHOLE = 1_395_424, 1_468_960
"""Bytes of L1 that ttnn leaves to tensors and circular buffers, about."""


def pi0(rows, grid, memory, weight=BFLOAT8_B):
    return gate_up_plan(rows, shards=8, shard_columns=4, columns=128, bytes=(FLOAT32, weight), grid=grid, memory=memory)


@pytest.mark.parametrize(
    ("grid", "memory"),
    [((8, 8), WORMHOLE), ((8, 7), WORMHOLE), ((11, 10), BLACKHOLE), ((12, 10), BLACKHOLE), ((13, 10), BLACKHOLE)],
)
@pytest.mark.parametrize("weight", [BFLOAT8_B, BFLOAT16])
def test_all_cores_of_a_board(grid, memory, weight):
    assert pi0(2, grid, memory, weight) == GateUpPlan(2, 8, 4, 128, grid, block=8, depth=2)


def test_few_columns_take_whole_rows_of_cores():
    plan = gate_up_plan(2, 2, 1, columns=9, bytes=(FLOAT32, BFLOAT16), grid=(8, 8), memory=WORMHOLE)
    assert (plan.grid, plan.block) == ((8, 2), 2)


@pytest.mark.parametrize(
    ("rows", "weight", "depth"), [(4, BFLOAT16, 2), (6, BFLOAT8_B, 2), (6, BFLOAT16, 1), (8, BFLOAT8_B, None)]
)
def test_more_rows_leave_less_room_for_weights(rows, weight, depth):
    """Eight would fit beside the weights, but not beside x in its shards, the residual stream, and the product."""
    plan = pi0(rows, (8, 8), WORMHOLE, weight)
    assert (plan and plan.depth) == depth


def test_a_semaphore_for_each_shard():
    assert gate_up_plan(2, 16, 1, 64, (FLOAT32, BFLOAT16), (16, 8), BLACKHOLE) is None
