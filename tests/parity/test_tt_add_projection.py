"""Our own program for a projection that is added to the stream, against torch and ttnn's own operations, on whatever board."""

from dataclasses import replace

import pytest
import torch

ttnn = pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

from lerobot_pi0_ttnn.model.tensors import Weights  # noqa: E402
from lerobot_pi0_ttnn.tt.layers import BranchLinear  # noqa: E402
from lerobot_pi0_ttnn.tt.ops.add_projection import add_projection  # noqa: E402
from lerobot_pi0_ttnn.tt.precision import preset  # noqa: E402
from lerobot_pi0_ttnn.tt.program import Programs  # noqa: E402
from lerobot_pi0_ttnn.tt.weights import DeviceWeights, to_device  # noqa: E402

from ..quality import assert_quality  # noqa: E402


class Case:
    """A stream in shards as the expert has it, x beside it, and a weight: on the device and as torch reads them back."""

    def __init__(self, board, precision, rows, width, heads, size, batch=1, gated=False):
        torch.manual_seed(0)
        self.device = board.device
        self.precision = preset(precision, board.device.arch()).expert
        self.programs = Programs(board.device)
        self.memory = self.programs.in_shards(batch * rows, width)
        self.stream = self.in_shards(torch.randn(batch, 1, rows, width))
        self.x = self.near(torch.randn(batch, heads, rows, size))
        inner = heads * size
        self.weight = to_device(torch.randn(inner, width) * inner**-0.5, self.precision.weights, board.device)
        self.gate = to_device(torch.randn(1, width), ttnn.float32, board.device) if gated else None
        self.plan = self.programs.add_projection(self.stream, self.x, self.weight)

    def in_shards(self, stream):
        return ttnn.to_memory_config(to_device(stream, ttnn.float32, self.device), self.memory)

    def near(self, x):
        return ttnn.to_memory_config(to_device(x, ttnn.bfloat16, self.device), ttnn.L1_MEMORY_CONFIG)

    def ours(self, stream=None, x=None):
        stream, x = stream or self.stream, x or self.x
        return add_projection(stream, x, self.weight, self.gate, self.plan, self.precision.fidelity)

    def expected(self, stream=None, x=None):
        stream, x, weight = (ttnn.to_torch(y).float() for y in (stream or self.stream, x or self.x, self.weight))
        gate = 1.0 if self.gate is None else ttnn.to_torch(self.gate)
        return stream + gate * (x.transpose(1, 2).flatten(-2)[:, None] @ weight)


@pytest.mark.parametrize("precision", ["accurate", "balanced"])
@pytest.mark.parametrize(
    ("batch", "rows", "width", "heads", "size", "gated"),
    [
        pytest.param(1, 64, 256, 1, 512, False, id="down"),
        pytest.param(1, 64, 256, 8, 64, False, id="heads"),
        pytest.param(1, 32, 64, 1, 1024, False, id="many-parts"),
        pytest.param(1, 64, 128, 1, 96, False, id="one-part"),
        pytest.param(3, 32, 128, 2, 160, True, id="three-rows-of-tiles"),
        pytest.param(2, 64, 128, 4, 64, False, id="batch"),
        pytest.param(1, 64, 256, 1, 512, True, id="gated"),
    ],
)
def test_values(board, precision, batch, rows, width, heads, size, gated):
    case = Case(board, precision, rows, width, heads, size, batch, gated)
    got = case.ours()
    assert (tuple(got.shape), got.dtype) == ((batch, 1, rows, width), ttnn.float32)
    assert got.memory_config() == case.stream.memory_config()
    # Products of bfloat16 are exact, and nothing is rounded before the sum: but HiFi3 leaves out the lowest bits of both.
    assert_quality(ttnn.to_torch(got).float(), case.expected(), pcc=0.999999, rel_rmse=5e-4)


def test_sums_are_float32(board):
    """Of small integers, which every part's sum holds exactly, and the stream keeps all of its 24 bits."""
    case = Case(board, "accurate", 64, 128, 2, 256)
    assert case.plan.parts > 1
    stream = torch.randn(1, 1, 64, 128)
    zero = case.ours(case.in_shards(stream), case.near(torch.zeros(1, 2, 64, 256)))
    assert torch.equal(ttnn.to_torch(zero), stream)
    x, weight = torch.randint(-3, 4, (1, 2, 64, 256)).float(), torch.randint(-3, 4, (512, 128)).float()
    case.weight = to_device(weight, ttnn.bfloat16, board.device)
    got = ttnn.to_torch(case.ours(case.in_shards(stream.sign() * 4097.0), case.near(x)))
    assert torch.equal(got, stream.sign() * 4097.0 + x.transpose(1, 2).flatten(-2)[:, None] @ weight)


def test_again_with_other_tensors_elsewhere(board):
    """A program is kept by ttnn for its shapes: what a second call is handed lies elsewhere and has other values."""
    case = Case(board, "balanced", 64, 128, 2, 256)
    first = case.ours()
    other = case.in_shards(torch.randn(1, 1, 64, 128)), case.near(torch.randn(1, 2, 64, 256))
    second = case.ours(*other)
    places = [[tensor.buffer_address() for tensor in call] for call in ((case.stream, case.x, first), (*other, second))]
    assert all(here != there for here, there in zip(*places, strict=True))
    assert_quality(ttnn.to_torch(second).float(), case.expected(*other), pcc=0.999999, rel_rmse=5e-4)
    assert torch.equal(ttnn.to_torch(case.ours()), ttnn.to_torch(first)), "the same inputs give the same bits"


def test_beside_ttnns_own(board):
    """Two operations, which add float32 as well."""
    case = Case(board, "balanced", 64, 128, 1, 512)
    branch = ttnn.linear(
        case.x, case.weight, dtype=ttnn.float32, memory_config=case.memory, compute_kernel_config=case.precision.kernel
    )
    stock = ttnn.to_torch(ttnn.add(case.stream, branch))
    assert_quality(ttnn.to_torch(case.ours()), stock, pcc=0.999999, rel_rmse=5e-4)


def test_where_it_is_not_run_heads_are_joined(board, monkeypatch):
    """As where ttnn refuses it, or a core's memory does not hold it."""
    case = Case(board, "balanced", 64, 128, 4, 64)
    weight = ttnn.to_torch(case.weight).float()
    layer = BranchLinear(DeviceWeights(Weights({"o_proj.weight": weight.T}), board.device), "o_proj", case.precision)
    ours = layer.add_to(case.stream, case.x, None)
    monkeypatch.setattr(Programs, "add_projection", lambda *_: None)
    stock = layer.add_to(case.stream, case.x, None)
    assert_quality(ttnn.to_torch(stock), case.expected(), pcc=0.99999, rel_rmse=2e-3)
    assert_quality(ttnn.to_torch(ours), case.expected(), pcc=0.99999, rel_rmse=2e-3)


@pytest.mark.parametrize("wrong", ["plan", "heads", "stream", "x"])
def test_what_it_cannot_do_is_rejected(board, wrong):
    case = Case(board, "balanced", 64, 128, 2, 64)
    if wrong == "plan":
        case.plan = replace(case.plan, rows=1)
    elif wrong == "heads":
        case.x = case.near(torch.zeros(1, 4, 64, 64))
    elif wrong == "stream":
        case.stream = to_device(torch.zeros(1, 1, 64, 128), ttnn.bfloat16, board.device)
    else:
        case.x = to_device(torch.zeros(1, 2, 64, 64), ttnn.float32, board.device)
    with pytest.raises(ValueError, match="add_projection: expected"):
        case.ours()
