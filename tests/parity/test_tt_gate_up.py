"""Our own program for gate, up, GELU and product against torch and ttnn's own operations, on whatever board there is."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

ttnn = pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

from lerobot_pi0_ttnn.tt.ops.gate_up import gate_up  # noqa: E402
from lerobot_pi0_ttnn.tt.precision import preset  # noqa: E402
from lerobot_pi0_ttnn.tt.program import Programs  # noqa: E402
from lerobot_pi0_ttnn.tt.weights import to_device  # noqa: E402

from ..quality import assert_quality  # noqa: E402


class Case:
    """x in shards as the expert has it, and weights, on the device and as torch reads them back."""

    def __init__(self, board, precision, rows, width, columns, batch=1):
        torch.manual_seed(0)
        self.precision = preset(precision, board.device.arch()).expert
        self.programs = Programs(board.device)
        weights = [torch.randn(width, columns) * 2 * width**-0.5 for _ in range(2)]
        self.gate, self.up = (to_device(weight, self.precision.weights, board.device) for weight in weights)
        self.memory = self.programs.in_shards(batch * rows, width)
        self.x = self.in_shards(torch.randn(batch, 1, rows, width))
        self.plan = self.programs.gate_up(self.x, self.gate)

    def in_shards(self, x):
        return ttnn.to_memory_config(to_device(x, ttnn.float32, self.gate.device()), self.memory)

    def ours(self, x=None):
        return gate_up(x or self.x, self.gate, self.up, self.plan, self.precision.fidelity)

    def expected(self, x=None):
        x, gate, up = (ttnn.to_torch(tensor).float() for tensor in (x or self.x, self.gate, self.up))
        return F.gelu(x @ gate, approximate="tanh") * (x @ up)


@pytest.mark.parametrize("precision", ["accurate", "balanced"])
@pytest.mark.parametrize(
    ("batch", "rows", "width", "columns"),
    [
        pytest.param(1, 64, 256, 512, id="actions"),
        pytest.param(1, 32, 256, 512, id="state"),
        pytest.param(1, 64, 128, 3200, id="two-columns-on-some-cores"),
        pytest.param(3, 32, 128, 64, id="three-rows-of-tiles"),
        pytest.param(2, 64, 128, 64, id="batch"),
    ],
)
def test_values(board, precision, batch, rows, width, columns):
    case = Case(board, precision, rows, width, columns, batch)
    got = case.ours()
    assert (tuple(got.shape), got.dtype) == ((batch, 1, rows, columns), ttnn.bfloat16)
    # Rounding to bfloat16 costs 1.7e-3; a matrix engine reads x as TF32.
    assert_quality(ttnn.to_torch(got).float(), case.expected(), pcc=0.99999, rel_rmse=0.003)


def test_beside_ttnns_own(board):
    """Three operations, which round gate and up to bfloat16 before they multiply."""
    case = Case(board, "balanced", 64, 256, 512)
    kernel = case.precision.kernel
    gate, up = (
        ttnn.linear(
            ttnn.to_memory_config(case.x, ttnn.L1_MEMORY_CONFIG),
            weight,
            dtype=ttnn.bfloat16,
            activation=activation,
            compute_kernel_config=kernel,
        )
        for weight, activation in ((case.gate, "gelu_tanh"), (case.up, None))
    )
    stock = ttnn.to_torch(ttnn.multiply(gate, up)).float()
    assert_quality(stock, ttnn.to_torch(case.ours()).float(), pcc=0.9999, rel_rmse=0.005)


def test_again_with_other_tensors_elsewhere(board):
    """A program is kept by ttnn for its shapes: what a second call is handed lies elsewhere and has other values."""
    case = Case(board, "balanced", 64, 128, 256)
    first, between, other = (
        case.ours(),
        case.in_shards(torch.zeros(1, 1, 64, 128)),
        case.in_shards(torch.randn(1, 1, 64, 128)),
    )
    second = case.ours(other)
    assert between.buffer_address() != other.buffer_address() != case.x.buffer_address()
    assert first.buffer_address() != second.buffer_address()
    assert_quality(ttnn.to_torch(second).float(), case.expected(other), pcc=0.99999, rel_rmse=0.003)
    again = ttnn.to_torch(case.ours())
    assert torch.equal(again, ttnn.to_torch(first)), "the same inputs give the same bits"


@pytest.mark.parametrize("wrong", ["plan", "dtype", "shape", "interleaved"])
def test_what_it_cannot_do_is_rejected(board, wrong):
    case = Case(board, "balanced", 64, 128, 256)
    if wrong == "plan":
        case.plan = replace(case.plan, rows=1)
    elif wrong == "dtype":
        case.up = to_device(torch.zeros(128, 256), ttnn.bfloat16, board.device)
    elif wrong == "shape":
        case.up = to_device(torch.zeros(128, 128), ttnn.bfloat8_b, board.device)
    else:
        case.x = ttnn.to_memory_config(case.x, ttnn.L1_MEMORY_CONFIG)
    with pytest.raises(ValueError, match="gate_up: expected"):
        case.ours()
