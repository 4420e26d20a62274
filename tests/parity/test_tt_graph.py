"""What ttnn's own graph capture sees of a step, and what it says of an operation."""

import pytest
import torch

ttnn = pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")


from lerobot_pi0_ttnn.analysis.graph import Operand, captured, summary  # noqa: E402
from lerobot_pi0_ttnn.device.executor import PI0ModelTTNN  # noqa: E402
from lerobot_pi0_ttnn.model.config import TINY  # noqa: E402
from lerobot_pi0_ttnn.model.flow import schedule  # noqa: E402
from lerobot_pi0_ttnn.model.sampling import denoise  # noqa: E402
from lerobot_pi0_ttnn.tt.weights import to_device  # noqa: E402

from ..oracle import make_noise  # noqa: E402
from .tt import (  # noqa: E402
    prefilled,
    random_inputs,
    random_weights,
    upload_row,
)


@pytest.fixture
def emulated(board):
    if board.kind != "emulated":
        pytest.skip(f"only an emulated board follows shapes without values, this is a {board.kind}")
    return board


@pytest.fixture(scope="module")
def tiny(board) -> PI0ModelTTNN:
    return PI0ModelTTNN(TINY, random_weights(TINY), board.device)


def test_all_of_a_step_depends_on_x_t(emulated, tiny):
    """What does not could be computed once for all steps. Followed through the board's memory, from x_t on."""
    with emulated.shapes_only():
        row = upload_row(tiny, random_inputs(TINY, 2, 23), 0, make_noise(batch=1))
        prefix = prefilled(tiny, row)
        times = schedule(2)
        steps = tiny.chips[0].steps(times)
        with captured() as graph:
            denoise(tiny.chips[0].graph, prefix, row.inputs.noise, steps, times)
    dependent = {("DRAM", row.inputs.noise.buffer_address())}
    assert len(graph.operations) == 2 * (8 * TINY.expert.depth + 6)
    for number, operation in enumerate(graph.operations):
        assert dependent & set(operation.inputs), (
            f"operation {number}, {operation.name}, depends on nothing but constants"
        )
        written = set(operation.outputs)
        if operation.own:
            written |= set(list(operation.inputs)[-operation.own.writes :])
        dependent |= written
    assert set(graph.operations[-1].outputs) <= dependent


def test_a_call_may_be_several_operations_or_none(board):
    """An activation that is not fused, the scaling of a mask, a view; counted with their bytes."""
    x, weight = (
        ttnn.from_torch(torch.zeros(shape), dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=board.device)
        for shape in ((1, 1, 64, 96), (96, 128))
    )
    with captured() as graph:
        y = ttnn.linear(x, weight, activation="silu")
        ttnn.reshape(y, [1, 64, 128])
    assert summary(graph.operations) == {
        "Matmul": {"count": 1, "bytes_in": 2 * (64 * 96 + 96 * 128), "bytes_out": 2 * 64 * 128},
        "Unary": {"count": 1, "bytes_in": 2 * 64 * 128, "bytes_out": 2 * 64 * 128},
    }
    with captured() as graph:
        ttnn.linear(x, weight, activation="silu", core_grid=ttnn.CoreGrid(x=2, y=2))
    assert [operation.name for operation in graph.operations] == ["Matmul"]


def test_what_the_cost_of_an_operation_depends_on(board):
    """Shapes, dtypes, the program and its attributes, as ttnn itself prints them."""
    x = ttnn.from_torch(torch.zeros(1, 1, 64, 96), dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=board.device)
    weight = ttnn.from_torch(torch.zeros(96, 1024), dtype=ttnn.bfloat8_b, layout=ttnn.TILE_LAYOUT, device=board.device)
    q, k = (
        ttnn.from_torch(torch.zeros(shape), dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=board.device)
        for shape in ((1, 8, 64, 32), (1, 1, 256, 32))
    )
    kernel = ttnn.WormholeComputeKernelConfig(math_fidelity=ttnn.MathFidelity.HiFi2, fp32_dest_acc_en=True)
    chunks = ttnn.SDPAProgramConfig(compute_with_storage_grid_size=(8, 8), q_chunk_size=32, k_chunk_size=128)
    with captured() as graph:
        ttnn.linear(x, weight, compute_kernel_config=kernel)
        ttnn.transformer.scaled_dot_product_attention(q, k, ttnn.clone(k), is_causal=False, program_config=chunks)
    matmul, attention = graph.operations[0], graph.operations[-1]
    assert list(matmul.operands.values()) == [Operand((1, 1, 64, 96), "BFLOAT16"), Operand((96, 1024), "BFLOAT8_B")]
    assert list(matmul.inputs) == list(matmul.operands)
    assert matmul.program == "MatmulMultiCoreReuseMcast1DProgramFactory"
    assert (matmul.fidelity, matmul.accumulates_float32, matmul.chunks) == ("HiFi2", True, None)
    assert [operand.shape for operand in attention.operands.values()] == [(1, 8, 64, 32), *[(1, 1, 256, 32)] * 2]
    assert (attention.chunks, attention.accumulates_float32) == ((32, 128), False)


def test_a_result_that_is_given_is_written_and_not_read(board):
    x, y, z = (to_device(torch.ones(1, 1, 32, 64), ttnn.bfloat16, board.device) for _ in range(3))
    with captured() as graph:
        ttnn.add(x, y)
        ttnn.add(x, y, output_tensor=z)
        ttnn.multiply(x, y, output_tensor=x)
    for operation in graph.operations:
        assert len(operation.operands) == 2
        assert sum(operation.outputs.values()) == 2 * 2048
    assert [place for operation in graph.operations[1:] for place in operation.outputs] == [
        ("DRAM", tensor.buffer_address()) for tensor in (z, x)
    ]
