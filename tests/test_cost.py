"""The cost model: arithmetic against numbers by hand, and against what others measured on cards."""

from dataclasses import replace
from functools import partial

import pytest

from benchmarks.cases import BF16, BFP4, BFP8, N150, P100A, P150, P150_130
from benchmarks.profiled import PROFILED
from benchmarks.published import BOUNDS, CASES, attention, matmul, norm, operation, pointwise
from lerobot_pi0_ttnn.analysis.chips import CHIPS, Chip
from lerobot_pi0_ttnn.analysis.cost import Machine, cost, machine
from lerobot_pi0_ttnn.analysis.errors import ERRORS, OWN
from lerobot_pi0_ttnn.analysis.prediction import floor
from lerobot_pi0_ttnn.tt.blocking import Blocks, ttnn_inner_block
from lerobot_pi0_ttnn.tt.ops.add_projection import ADD_PROJECTION
from lerobot_pi0_ttnn.tt.ops.attend import ATTEND
from lerobot_pi0_ttnn.tt.ops.gate_up import GATE_UP
from lerobot_pi0_ttnn.tt.ops.group_matmul import GROUP_MATMUL, GroupMatmulPlan
from lerobot_pi0_ttnn.tt.ops.group_matmul.cost import cost as cost_in_groups
from lerobot_pi0_ttnn.tt.ops.heads import SPLIT_HEADS

PLAIN = Chip(
    clock=1.0,
    dram_bank=100.0,
    matmul={"LoFi": 1.0, "HiFi2": 0.5, "HiFi4": 1.0},
    dram={BF16: 1.0, BFP8: 0.5, BFP4: 1.0, "FLOAT32": 1.0, "UINT32": 1.0},
    read=10,
    read_l1=40,
    multicast=20,
    read_latency=3,
    write_latency=5,
    multicast_latency=4,
    tile_pass=7,
    vector={"GELU": 50},
    attention_step=100,
    score_tile=6,
    mask_tile=10,
    float32_attention=2,
    start=1.0,
    gap=2.0,
    host=25,
)
"""Round numbers, to reckon with by hand: a cycle is a nanosecond, DRAM gives 100 bytes in one."""

SMALL = Machine(PLAIN, columns=4, rows=2, dram_banks=1)


def test_a_matmul_of_few_rows():
    """1 x 3 tiles times 3 x 9: nine columns of tiles on eight cores, so that one has two, and three have none to do."""
    thin = matmul(32, 96, 288, BF16, BFP8, "HiFi2")
    assert thin.program.endswith("1DProgramFactory")
    spent = cost(thin, SMALL)
    assert spent.flops == 2 * 32 * 96 * 288
    assert spent.bytes == 3 * 2048 + 27 * 1088 + 9 * 2048
    assert spent.cores == 5
    assert {what: 1e9 * seconds for what, seconds in spent.times.items()} == pytest.approx(
        {
            "compute": 1 * 2 * 3 * 32 / 0.5,
            "vector": 0,
            "DRAM": (3 * 2048 + 27 * 1088 / 0.5) / 100,
            "readers": (3 * 2048 + 27 * 1088) / 5 / 10,
            # Three tiles of the inner dimension for eight cores: ttnn takes one at a time.
            "multicast": 3 * 2048 / 10 + 3 * 2048 / 20 + 3 * (3 + 4),
        }
    )
    # The first of three blocks is multiplied by nobody; five cores write two tiles at most.
    assert {what: 1e9 * seconds for what, seconds in spent.alone.items()} == pytest.approx(
        {"first block": 1e9 * spent.times["compute"] / 3, "function": 0, "result": 9 * 2048 / 5 / 10}
    )
    assert spent.bound == "launch"
    assert spent.busy == pytest.approx(1e-6 + max(spent.times.values()) + sum(spent.alone.values()))
    assert spent.seconds == pytest.approx(spent.busy + 2e-6)
    with_gelu = cost(replace(thin, functions=("GELU",)), SMALL)
    assert with_gelu.seconds - spent.seconds == pytest.approx(2 * 50e-9), "of each of two tiles, after all"
    assert cost(replace(thin, functions=("NEG",)), SMALL).seconds - spent.seconds == pytest.approx(2 * 7e-9), "a pass"


def test_a_matmul_of_many_rows():
    """9 x 1 tiles times 1 x 5, on 4 columns and 2 rows of cores: blocks of 5 x 2, six of them."""
    square = matmul(288, 32, 160, BF16, BF16, "LoFi")
    assert square.program.endswith("2DProgramFactory")
    spent = cost(square, SMALL)
    assert spent.flops == 2 * 288 * 32 * 160
    assert spent.cores == 6
    assert 1e9 * spent.times["compute"] == pytest.approx(5 * 2 * 16)
    assert 1e9 * spent.times["multicast"] == pytest.approx(9 * 2048 / 2 * (1 / 10 + 1 / 20) + 7)


def test_a_matmul_that_is_tall():
    """One core reads the smaller side for all of them."""
    tall = matmul(32 * 40, 32, 32, BF16, BF16, "LoFi")
    assert 1e9 * cost(tall, SMALL).times["multicast"] == pytest.approx(2048 * (1 / 10 + 1 / 20) + 7)
    assert 1e9 * cost(tall, SMALL).times["compute"] == pytest.approx(5 * 16)


def test_a_matmul_that_is_told_how():
    """12 tiles of the inner dimension, four at a time: three blocks; the cores and the columns of each are as told."""
    blocks = Blocks((2, 2), rows=1, columns=3, inner=4, subblock=(1, 3), is_2d=False)
    told = matmul(32, 384, 288, BF16, BFP8, "LoFi", blocks=blocks)
    spent = cost(told, SMALL)
    assert spent.cores == 3
    assert 1e9 * spent.times["compute"] == pytest.approx(3 * 12 * 16)
    assert 1e9 * spent.times["multicast"] == pytest.approx(12 * 2048 * (1 / 10 + 1 / 20) + 3 * (3 + 4))

    place, operand = next(iter(told.operands.items()))
    near = {("L1", 7) if p == place else p: size for p, size in told.inputs.items()}
    for shards, expected in ((0, 12 * 2048 * (1 / 40 + 1 / 20) + 3 * (5 + 4)), (3, 12 * 2048 / 20 + 3 * (5 + 4))):
        operands = {
            ("L1", 7): replace(operand, shards=shards),
            **{p: o for p, o in told.operands.items() if p != place},
        }
        here = replace(told, inputs=near, operands=operands)
        assert 1e9 * cost(here, SMALL).times["multicast"] == pytest.approx(expected)
    twice = replace(told, blocks=replace(blocks, columns=4, passes=2))
    assert 1e9 * cost(twice, SMALL).times["multicast"] == pytest.approx(
        2 * (12 * 2048 * (1 / 10 + 1 / 20) + 3 * (3 + 4))
    )
    alone = replace(told, blocks=replace(blocks, columns=9))
    assert cost(alone, SMALL).times["multicast"] == 0, "one core hands nothing on"


def test_what_lies_in_shards_is_work_for_the_cores_that_have_them():
    for whole, passes in ((norm(64, 1024), 3), (pointwise(64, 1024), 1)):
        shards = {place: replace(operand, shards=4) for place, operand in whole.operands.items()}
        spent = cost(replace(whole, operands=shards), SMALL)
        assert spent.cores == 4
        exchange = 2 * (5 + 4) if whole.name == "LayerNorm" else 0
        assert 1e9 * spent.times["vector"] == pytest.approx(2 * 8 * passes * 7 + exchange)


def near(there):
    """The same operation on tensors in L1."""

    def moved(kept):
        return {("L1", at): value for (_, at), value in kept.items()}

    return replace(there, operands=moved(there.operands), inputs=moved(there.inputs), outputs=moved(there.outputs))


def test_elementwise():
    """64 tiles on eight cores, eight each: a core asks for a tile of each operand, waits, and makes a pass."""
    assert cost(pointwise(64, 1024), SMALL).cores == 8
    here = near(pointwise(64, 1024))
    assert 1e9 * cost(here, SMALL).times["readers"] == pytest.approx(8 * (5 + 2 * 2048 / 40 + 7))
    assert cost(here, SMALL).bytes == 0
    assert 1e9 * cost(replace(here, functions=("GELU",)), SMALL).times["vector"] == pytest.approx(8 * (7 + 50))
    moved = replace(here, name="Concat")
    assert 1e9 * cost(moved, SMALL).times["readers"] == pytest.approx(8 * (5 + 2 * 2048 / 40)), "nothing is computed"


def test_a_split_into_heads():
    """48 tiles in each of two rows: by heads of three tiles on eight cores four heads each, by rows 48 tiles on two cores."""
    split = near(operation("NlpCreateHeads", [((64, 1536), BF16)], made=96 * 2048, heads=16))
    one_by_one = 5 + 2048 / 40
    assert 1e9 * cost(split, SMALL).times["readers"] == pytest.approx(4 * 3 * one_by_one)
    assert (cost(split, SMALL).cores, cost(replace(split, heads=0), SMALL).cores) == (8, 2)
    assert 1e9 * cost(replace(split, heads=0), SMALL).times["readers"] == pytest.approx(48 * one_by_one)


@pytest.mark.parametrize(
    ("inner", "columns", "is_2d", "block"),
    [(32, 11, False, 2), (33, 11, False, 1), (128, 8, True, 16), (36, 8, True, 1), (208, 13, True, 16)],
)
def test_the_blocks_that_ttnn_takes(inner, columns, is_2d, block):
    assert ttnn_inner_block(inner, columns, is_2d=is_2d) == block


def test_attention():
    """8 heads of 256, 64 queries, 640 keys: eight units for eight cores, 2 x 20 x 16 tile products each."""
    exact = attention((1, 8, 64, 256), (1, 640), BF16, "HiFi4", chunks=(64, 128))
    spent = cost(exact, SMALL)
    assert spent.flops == 4 * 8 * 64 * 640 * 256
    assert spent.cores == 8
    assert 1e9 * spent.times["compute"] == pytest.approx(2 * 2 * 20 * 8 * 64 + 5 * 100 + 2 * 20 * 6)
    # A chunk of queries, two by eight tiles, and one of keys, four by eight; then the result of a chunk.
    assert 1e9 * spent.alone["first block"] == pytest.approx(3 + (2 + 4) * 8 * 2048 / 10)
    assert 1e9 * spent.alone["result"] == pytest.approx(2 * 8 * 2048 / 10)
    masked = attention((1, 8, 64, 256), (1, 640), BF16, "HiFi4", chunks=(64, 128), mask=BF16)
    assert cost(masked, SMALL).times["compute"] - spent.times["compute"] == pytest.approx(2 * 20 * 10e-9)
    assert cost(masked, SMALL).bytes - spent.bytes == 2 * 20 * 2048
    slow = replace(exact, accumulates_float32=True)
    assert cost(slow, SMALL).times["compute"] == pytest.approx(2 * spent.times["compute"])
    more = attention((1, 9, 64, 256), (1, 640), BF16, "HiFi4", chunks=(64, 128))
    assert cost(more, SMALL).times["compute"] == pytest.approx(2 * spent.times["compute"]), "the ninth head waits"


def test_attention_without_chunks_is_an_error():
    with pytest.raises(ValueError, match="SDPA: expected the chunks"):
        cost(attention((1, 8, 64, 256), (1, 640), BF16, "HiFi4"), SMALL)


def test_a_norm_has_work_for_as_many_cores_as_rows_of_tiles():
    spent = cost(norm(64, 1024), SMALL)
    assert (spent.flops, spent.cores, spent.bytes) == (0, 2, 2 * 64 * 1024 * 2)
    assert 1e9 * spent.times["readers"] == pytest.approx(2 * 64 * 1024 * 2 / 2 / 10)
    # A row of 32 tiles: squares, their sum, the product; the mean before it, and off, in a layer norm.
    assert 1e9 * spent.times["vector"] == pytest.approx(32 * 3 * 7)
    assert 1e9 * cost(replace(norm(64, 1024), centred=True), SMALL).times["vector"] == pytest.approx(32 * 5 * 7)
    row = ((1, 1024), BF16)
    modulated = operation("LayerNorm", [((64, 1024), BF16), row, row], made=64 * 1024 * 2)
    assert 1e9 * cost(modulated, SMALL).times["vector"] == pytest.approx(32 * 5 * 7)


def test_of_a_table_only_a_part_is_moved():
    table = operation("Embeddings", [((1, 64), "FLOAT32"), ((100_000, 64), BF16)], made=8192)
    spent = cost(table, SMALL)
    assert spent.bytes == 2 * 4096 + 8192 + 8192
    assert 1e9 * spent.times["readers"] < 2 * (3 + 2048 / 10) * 20, "two tiles come out, whatever the table's size"
    indices, rows = (((1, 64), "FLOAT32"), ((100_000, 64), BF16))
    given = operation("Embeddings", [indices, rows, ((64, 64), BF16)], made=0)
    assert cost(given, SMALL).times["readers"] > 0, "the result may be an operand, as in pi0.5's prompt"


def split_heads_of(queries: int, *, in_l1: int = 0):
    """Eight heads at most of 256, 64 tokens, a cache of 8192; so many of the tensors in L1: the projection, the queries."""
    projection, table = ((1, 1, 64, 256 * (queries + 2)), BF16), ((1, 1, 64, 256), "FLOAT32")
    made, cache = [((1, queries, 64, 256), BF16)] if queries else [], ((1, 1, 8192, 256), BF16)
    handed = operation("GenericOp", [projection, table, table, *made, cache, cache], made=0, own=SPLIT_HEADS)
    moved = {("DRAM", 0): ("L1", 0), ("DRAM", 3): ("L1", 3)}
    moved = dict(list(moved.items())[:in_l1])
    inputs, operands = (
        {moved.get(place, place): value for place, value in kept.items()} for kept in (handed.inputs, handed.operands)
    )
    return replace(handed, inputs=inputs, operands=operands)


def test_heads_apart():
    """A unit for each rotated head and row of tiles; it reads its tiles twice and its row of both tables."""
    head, table = 2 * 8 * 2048, 2 * 8 * 4096
    spent = cost(split_heads_of(8), replace(SMALL, rows=100))
    assert spent.cores == 2 * 9
    assert spent.bytes == (2 * 9 + 1) * head + 2 * 9 * table + 8 * head + 2 * head
    # A unit: its tiles, twice, of the tables, and where they go; two products for each of eight tiles.
    assert 1e9 * spent.times["readers"] == pytest.approx(3 + spent.bytes / 18 / 10)
    assert 1e9 * spent.times["vector"] == pytest.approx(2 * 8 * 7)
    there = cost(split_heads_of(8, in_l1=1), replace(SMALL, rows=100))
    less = (2 * 9 + 1) * head / 18 * (1 / 10 - 1 / 40)
    assert 1e9 * (spent.times["readers"] - there.times["readers"]) == pytest.approx(less)
    assert cost(split_heads_of(8, in_l1=1), SMALL).bytes == 2 * 9 * table + 8 * head + 2 * head
    assert cost(split_heads_of(8, in_l1=2), SMALL).bytes == 2 * 9 * table + 2 * head
    alone = cost(split_heads_of(0), replace(SMALL, rows=100))
    assert (alone.cores, alone.bytes) == (2, 3 * head + 2 * table + 2 * head), "the key and the value alone"


def test_gate_and_up():
    """2 x 3 tiles times 3 x 9 twice: nine columns on eight cores, so that one has two; three cores hand x to all."""
    weight = ((96, 288), BFP8)
    handed = operation("GenericOp", [((64, 96), "FLOAT32"), weight, weight, ((64, 288), BF16)], made=0, own=GATE_UP)
    x, *others = handed.inputs
    near = {x: ("L1", 0), others[-1]: ("L1", 1)}
    inputs, operands = (
        {near.get(place, place): value for place, value in kept.items()} for kept in (handed.inputs, handed.operands)
    )
    operands[("L1", 0)] = replace(operands[("L1", 0)], shards=3)
    spent = cost(replace(handed, inputs=inputs, operands=operands, fidelity="HiFi2"), SMALL)
    assert spent.flops == 2 * 2 * 64 * 96 * 288
    assert (spent.bytes, spent.cores) == (2 * 27 * 1088, 8)
    function = 2 * 7
    product = 2 * 7
    assert {what: 1e9 * seconds for what, seconds in spent.times.items()} == pytest.approx(
        {
            "compute": 2 * (2 * 2 * 3 * 32 / 0.5 + function + product),
            "vector": 2 * (function + product),
            "DRAM": 2 * 27 * 1088 / 50,
            "readers": 2 * (3 + (2 * 27 * 1088 / 10 + 2 * 9 * 2048 / 40) / 9),
            "multicast": 6 * 4096 * (1 / 40 + 1 / 20) + 3 * (5 + 4),
        }
    )
    assert 1e9 * spent.alone["function"] == pytest.approx(function), "of the last column, behind everything else"


def test_a_projection_that_is_added():
    """2 x 16 tiles times 16 x 3: of each column two parts of eight, so that six cores have work, and read x each."""
    tensors = [((64, 512), BF16), ((512, 96), BFP8), ((64, 96), "FLOAT32"), ((64, 96), "FLOAT32")]
    handed = operation("GenericOp", tensors, made=0, own=ADD_PROJECTION)
    inputs, operands = (
        {("L1", at) if at != 1 else place: value for at, (place, value) in enumerate(kept.items())}
        for kept in (handed.inputs, handed.operands)
    )
    spent = cost(replace(handed, inputs=inputs, operands=operands, fidelity="HiFi2"), SMALL)
    assert (spent.flops, spent.bytes, spent.cores) == (2 * 64 * 512 * 96, 48 * 1088, 6)
    assert 1e9 * spent.times["compute"] == pytest.approx(2 * 8 * 32 / 0.5)
    near = 3 * 2 * 16 * 2048 + 2 * 2 * 3 * 4096
    assert 1e9 * spent.times["readers"] == pytest.approx(3 + (48 * 1088 / 10 + near / 40) / 6)


def test_a_matmul_in_groups_of_cores():
    """3 x 8 tiles times 8 x 5, added to a stream: the rows by two groups of four cores, so that one core has 2 x 2 tiles."""
    plan = GroupMatmulPlan(rows=3, inner=8, columns=5, groups=2, grid=(4, 1), block=2)
    tensors = [((96, 256), BF16), ((256, 160), BFP8), ((96, 160), BF16), ((96, 160), BF16)]
    own = replace(GROUP_MATMUL, cost=partial(cost_in_groups, plan))
    handed = operation("GenericOp", tensors, made=0, own=own)
    inputs, operands = (
        {("L1", at) if at > 1 else place: value for at, (place, value) in enumerate(kept.items())}
        for kept in (handed.inputs, handed.operands)
    )
    spent = cost(replace(handed, inputs=inputs, operands=operands, fidelity="HiFi2"), SMALL)
    assert (spent.flops, spent.bytes, spent.cores) == (2 * 96 * 256 * 160, 24 * 2048 + 40 * 1088, 8)
    # By each of two networks half of the rows of x, and half of the columns of the weight from the other group, in two blocks.
    fed = (2 * 8 * 2048 + 2 * 8 * 1088) / 2 / 20
    assert {what: 1e9 * seconds for what, seconds in spent.times.items()} == pytest.approx(
        {
            "compute": 4 * (8 * 32 / 0.5 + 2 * 7),
            "vector": 4 * 2 * 7,
            "DRAM": 24 * 2048 / 100 + 40 * 1088 / 50,
            "readers": 4 * ((24 * 2048 + 40 * 1088) / 10 + 15 * 2048 / 40) / 15,
            "multicast": fed + 2 * (5 + 4),
        }
    )
    assert spent.alone["first block"] == pytest.approx(spent.times["compute"] / 2), "reading would take longer"
    assert 1e9 * spent.alone["result"] == pytest.approx(15 * 2048 / 8 / 40)
    # In two passes x is read and handed on twice, to make one column each; half of a result in DRAM is written in the end.
    twice = replace(plan, passes=2)
    spent = cost(replace(handed, own=replace(own, cost=partial(cost_in_groups, twice)), fidelity="HiFi2"), SMALL)
    assert spent.flops == 2 * 96 * 256 * 160
    assert 1e9 * spent.times["compute"] == pytest.approx(4 * (8 * 32 / 0.5 + 2 * 7)), "as many tiles"
    assert 1e9 * spent.times["multicast"] == pytest.approx(2 * (2 * 8 * 2048 + 8 * 1088) / 2 / 20 + 4 * (5 + 4))
    assert 1e9 * spent.times["DRAM"] == pytest.approx((2 * 24 * 2048 + 15 * 2048 * 1.5) / 100 + 40 * 1088 / 50)
    assert 1e9 * spent.alone["result"] == pytest.approx(15 * 2048 / 2 / 8 / 10)


def test_attention_with_its_keys_divided():
    """Two heads of one tile of queries, 2 tiles wide, and eight tiles of keys: 16 units for eight cores, two each."""
    cached = ((1, 1, 256, 64), BF16)
    tensors = [((1, 2, 32, 64), BF16), cached, cached, ((1, 1, 32, 256), BF16), ((1, 2, 32, 64), BF16)]
    handed = operation("GenericOp", tensors, made=0, own=ATTEND)
    inputs, operands = (
        {("L1", at) if at in (0, 4) else place: value for at, (place, value) in enumerate(kept.items())}
        for kept in (handed.inputs, handed.operands)
    )
    spent = cost(replace(handed, inputs=inputs, operands=operands, fidelity="HiFi4"), SMALL)
    assert (spent.cores, spent.flops) == (8, 16 * 5 * 2 * 32**3)
    assert spent.bytes == 2 * 16 * 2048 + 2 * 8 * 2048, "keys and values once, the mask for each head"
    assert 1e9 * spent.times["compute"] == pytest.approx(2 * (5 * 64 + 10 * 7))
    # A quarter of the keys, read and handed on, before anything; twice all wait for each other.
    assert 1e9 * spent.alone["first block"] == pytest.approx(4 * 2048 * (1 / 10 + 1 / 20) + 3 + 4 + 2 * 2 * 5)


def test_a_program_without_a_cost_is_an_error():
    with pytest.raises(ValueError, match="GenericOp: expected a program with a cost"):
        cost(operation("GenericOp", [((64, 64), BF16)], made=0), SMALL)
    with pytest.raises(ValueError, match="GenericOp: expected a program with a cost"):
        cost(operation("GenericOp", [((64, 64), BF16)], made=0, own=GROUP_MATMUL), SMALL)


def test_what_lies_in_l1_is_not_read_from_dram():
    there = pointwise(64, 1024)
    place = next(iter(there.inputs))
    here = replace(
        there,
        inputs={("L1", 0) if p == place else p: size for p, size in there.inputs.items()},
        operands={("L1", 0) if p == place else p: operand for p, operand in there.operands.items()},
    )
    assert cost(there, SMALL).bytes - cost(here, SMALL).bytes == 64 * 1024 * 2


@pytest.mark.parametrize(
    ("board", "lofi", "hifi4", "dram"),
    [(N150, 262, 66, 288), (P100A, 608, 152, 448), (P150, 608, 152, 512), (P150_130, 719, 180, 512)],
)
def test_peaks(board, lofi, hifi4, dram):
    """TFLOP/s and GB/s as Tenstorrent's tech reports and product pages have them."""
    assert round(board.peak("LoFi") / 1e12) == pytest.approx(lofi, abs=1)
    assert round(board.peak("HiFi4") / 1e12) == pytest.approx(hifi4, abs=1)
    assert board.dram == pytest.approx(dram)


@pytest.mark.parametrize("chip", CHIPS.values(), ids=CHIPS)
def test_hifi3_takes_three_passes(chip):
    """48 cycles for two tiles, and a large matmul halfway between HiFi2's time and HiFi4's."""
    board = Machine(chip, columns=8, rows=8, dram_banks=12)
    assert board.peak("LoFi") == pytest.approx(3 * board.peak("HiFi3"))
    two, three, four = (1 / (board.peak(fidelity) * chip.matmul[fidelity]) for fidelity in ("HiFi2", "HiFi3", "HiFi4"))
    assert three - two == pytest.approx(four - three)


def test_a_machine_is_what_a_board_describes():
    described = {"arch": "blackhole", "grid": [11, 10], "dram_banks": 7, "name": "emulated:p100a"}
    assert machine(described) == P100A
    assert set(CHIPS) == {"wormhole_b0", "blackhole"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_nothing_is_quicker_than_its_chip(case):
    """Neither the prediction nor, which judges the peaks, what others measured."""
    limit = 1e3 * floor(case.operations, case.on)
    assert limit <= case.predicted()
    assert limit <= case.milliseconds


@pytest.mark.parametrize("case", [case for case in CASES if case.calibrates], ids=lambda case: case.what)
def test_what_calibrates_is_put_in_rightly(case):
    assert case.predicted() == pytest.approx(case.milliseconds, rel=0.03)


@pytest.mark.parametrize("case", [case for case in CASES if not case.calibrates], ids=lambda case: case.what)
def test_no_error_is_greater_than_is_said_of_its_class(case):
    """Of what was fitted to nothing: the bounds that stand beside every prediction."""
    least, most = (ERRORS | BOUNDS)[case.of]
    assert least <= case.predicted() / case.milliseconds - 1 <= most


def test_most_of_the_profile_is_held_out():
    """No class of operations is judged by the rows that its constants were taken from."""
    assert sum(case.calibrates for case in PROFILED) <= 5
    for of in {case.of for case in PROFILED}:
        assert [case for case in PROFILED if case.of == of and not case.calibrates], of
    assert {case.of for case in PROFILED} == set(ERRORS) - {OWN}


def test_what_others_measured_to_be_slower_is_predicted_to_be_slower():
    """Of any two, on whatever machine, one of which took half as long again as the other.

    But for the Wormhole matmuls of 512 rows, of which docs/prediction.md says that nobody knows why they take so long.
    """
    known = ("matmul 512 x 1024 x 2048, bfloat16, HiFi2, n150", "matmul 512 x 1024 x 1024, bfloat8_b, LoFi, n150")
    predicted = {case.what: case.predicted() for case in CASES}
    wrong = [
        f"{slow.what} ({predicted[slow.what]:.3g} ms) and {quick.what} ({predicted[quick.what]:.3g} ms)"
        for slow in CASES
        for quick in CASES
        if slow.what not in known
        and slow.milliseconds >= 1.5 * quick.milliseconds
        and predicted[slow.what] <= predicted[quick.what]
    ]
    assert wrong == []
