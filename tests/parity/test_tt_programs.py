"""What the device is told of programs and of where tensors lie; a program that ttnn refuses costs its speed, and no more."""

import logging

import pytest
import torch

ttnn = pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

from lerobot_pi0_ttnn.analysis.graph import captured  # noqa: E402
from lerobot_pi0_ttnn.device.executor import PI0ModelTTNN  # noqa: E402
from lerobot_pi0_ttnn.model.config import TINY  # noqa: E402
from lerobot_pi0_ttnn.model.tensors import Weights  # noqa: E402
from lerobot_pi0_ttnn.tt import program  # noqa: E402
from lerobot_pi0_ttnn.tt.blocking import Blocks  # noqa: E402
from lerobot_pi0_ttnn.tt.layers import Linear  # noqa: E402
from lerobot_pi0_ttnn.tt.model import Step  # noqa: E402
from lerobot_pi0_ttnn.tt.ops.heads import SPLIT_HEADS  # noqa: E402
from lerobot_pi0_ttnn.tt.precision import preset  # noqa: E402
from lerobot_pi0_ttnn.tt.weights import DeviceWeights, to_device  # noqa: E402

from ..oracle import make_noise  # noqa: E402
from ..quality import assert_quality  # noqa: E402
from .tt import down, prefilled, random_inputs, random_weights, upload_row  # noqa: E402

TOO_MANY_CORES = Blocks((20, 20), 2, 1, 1, (1, 1), is_2d=False)
TOO_MUCH_MEMORY = Blocks((2, 1), 2, 64, 32, (1, 4), is_2d=False)


def linear(board, *, inner=1024, columns=4096, activation=ttnn.UnaryOpType.SILU):
    weight = torch.randn(columns, inner, generator=torch.Generator().manual_seed(3)) / inner**0.5
    weights = DeviceWeights(Weights({}), board.device)
    precision = preset("accurate", board.device.arch()).expert
    return Linear(weights, "it", lambda: weight, None, precision, activation=activation), weight


@pytest.fixture
def x():
    return torch.randn(64, 1024, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("blocks", [TOO_MANY_CORES, TOO_MUCH_MEMORY])
def test_a_program_that_ttnn_refuses_is_left_to_ttnn_and_reported(board, x, monkeypatch, caplog, blocks):
    layer, weight = linear(board)
    on_device = to_device(x[None, None], ttnn.bfloat16, board.device)
    monkeypatch.setattr(program, "matmul_blocks", lambda *_, **__: blocks)
    with caplog.at_level(logging.WARNING, logger=program.__name__), board.in_use("refusing"):
        first, again = layer(on_device), layer(on_device)
    want = torch.nn.functional.silu(x @ weight.T)
    for got in (first, again):
        assert_quality(down(got, 64), want, pcc=0.9999, rel_rmse=0.006)
    what = "linear 1x1x64x1024 BFLOAT16 to 4096 BFLOAT16"
    assert list(layer.programs.refused) == [what]
    assert len(caplog.records) == 1
    assert what in caplog.text
    assert layer.programs.refused[what] in caplog.text
    assert board.failure is None
    with board.in_use("going on"):
        layer(on_device)


def test_an_error_that_is_no_refusal_is_not_caught(board, x):
    layer, _ = linear(board)

    def broken(config):
        if config:
            raise RuntimeError("TT_THROW: device timeout")

    with pytest.raises(RuntimeError, match="device timeout"):
        layer.programs.run("it", object(), broken)
    assert layer.programs.refused == {}


def test_what_is_wrong_without_a_program_too_is_no_matter_of_the_program(board, x):
    """The caller's error, as ttnn words it, and nothing is reported."""
    layer, _ = linear(board)
    on_device = to_device(x[None, None, :, :512], ttnn.bfloat16, board.device)
    with pytest.raises(RuntimeError, match="TT_FATAL"):
        layer(on_device)
    assert layer.programs.refused == {}


def test_matmuls_are_run_as_they_are_cut_up(board, x):
    layer, _ = linear(board)
    with captured() as graph:
        layer(to_device(x[None, None], ttnn.bfloat16, board.device))
    (matmul,) = graph.operations
    columns, rows = board.grid
    assert matmul.blocks.grid == (columns, rows)
    assert (matmul.blocks.rows, matmul.blocks.columns) == (2, -(-128 // (columns * rows)))
    assert (matmul.blocks.inner, matmul.blocks.is_2d, matmul.blocks.passes) == (8, False, 1)


def test_a_core_that_is_short_of_memory_makes_its_columns_in_passes(board, x):
    layer, weight = linear(board, columns=8192)
    layer.programs.memory = 45_000
    with captured() as graph:
        got = layer(to_device(x[None, None], ttnn.bfloat16, board.device))
    (matmul,) = graph.operations
    assert matmul.blocks.passes > 1
    assert matmul.blocks.columns % matmul.blocks.passes == 0
    assert_quality(down(got, 64), torch.nn.functional.silu(x @ weight.T), pcc=0.9999, rel_rmse=0.006)
    assert layer.programs.refused == {}


def test_of_the_expert_nothing_but_weights_masks_and_caches_is_in_dram(board):
    """In a step, from x_t to the velocity; no operation is there to move or convert."""
    model = PI0ModelTTNN(TINY, random_weights(TINY), board.device)
    row = upload_row(model, random_inputs(TINY, 2, 23), 0, make_noise(batch=1))
    prefix = prefilled(model, row)
    (bias,) = model.suffix_embedding.time_bias([1.0])
    with captured() as graph:
        model.chips[0].graph.velocity(row.inputs.noise, Step(time_bias=bias), prefix)
    assert {op.name for op in graph.operations} == {"Matmul", "Ternary", "LayerNorm", "GenericOp"}
    made = [place for op in graph.operations[:-1] for place in op.outputs]
    assert {memory for memory, _ in made} == {"L1"}, "but for the velocity, which is last"
    for op in graph.operations:
        first = next(iter(op.operands.values()))
        if op.own:
            # The last thing that it writes; of heads, which are last written to a cache, the queries.
            written, _ = list(op.inputs)[-3 if op.own is SPLIT_HEADS else -1]
            assert written == "L1"
        if op.name == "LayerNorm":
            assert first.shards == 2, "64 columns are two tiles"
