"""Our own program for a projection that is added to the stream, against torch and ttnn's own operations, on whatever board."""

from dataclasses import replace

import pytest
import torch

ttnn = pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

from lerobot_pi0_ttnn.tt.ops.add_projection import add_projection  # noqa: E402
from lerobot_pi0_ttnn.tt.precision import preset  # noqa: E402
from lerobot_pi0_ttnn.tt.program import Programs  # noqa: E402
from lerobot_pi0_ttnn.tt.weights import to_device  # noqa: E402

from ..quality import assert_quality  # noqa: E402


class Case:
    """A stream in shards as the expert has it, x beside it, and a weight: on the device and as torch reads them back."""

    def __init__(self, board, precision, rows, width, heads, size, batch=1):
        torch.manual_seed(0)
        self.device = board.device
        self.precision = preset(precision, board.device.arch()).expert
        self.programs = Programs(board.device)
        self.memory = self.programs.in_shards(batch * rows, width)
        self.stream = self.in_shards(torch.randn(batch, 1, rows, width))
        self.x = self.near(torch.randn(batch, heads, rows, size))
        inner = heads * size
        self.weight = to_device(torch.randn(inner, width) * inner**-0.5, self.precision.weights, board.device)
        self.plan = self.programs.add_projection(self.stream, self.x, self.weight)

    def in_shards(self, stream):
        return ttnn.to_memory_config(to_device(stream, ttnn.float32, self.device), self.memory)

    def near(self, x):
        return ttnn.to_memory_config(to_device(x, ttnn.bfloat16, self.device), ttnn.L1_MEMORY_CONFIG)

    def ours(self, stream=None, x=None):
        stream, x = stream or self.stream, x or self.x
        return add_projection(stream, x, self.weight, self.plan, self.precision.fidelity)

    def expected(self, stream=None, x=None):
        stream, x, weight = (ttnn.to_torch(y).float() for y in (stream or self.stream, x or self.x, self.weight))
        return stream + x.transpose(1, 2).flatten(-2)[:, None] @ weight


@pytest.mark.parametrize("precision", ["accurate", "balanced"])
@pytest.mark.parametrize(
    ("batch", "rows", "width", "heads", "size"),
    [
        pytest.param(1, 64, 256, 1, 512, id="down"),
        pytest.param(1, 64, 256, 8, 64, id="heads"),
        pytest.param(1, 32, 64, 1, 1024, id="many-parts"),
        pytest.param(1, 64, 128, 1, 96, id="one-part"),
        pytest.param(3, 32, 128, 2, 160, id="three-rows-of-tiles"),
        pytest.param(2, 64, 128, 4, 64, id="batch"),
    ],
)
def test_values(board, precision, batch, rows, width, heads, size):
    case = Case(board, precision, rows, width, heads, size, batch)
    got = case.ours()
    assert (tuple(got.shape), got.dtype) == ((batch, 1, rows, width), ttnn.float32)
    assert got.memory_config() == case.stream.memory_config()
    # Products of bfloat16 are exact, and nothing is rounded before the sum: but HiFi3 leaves out the lowest bits of both.
    assert_quality(ttnn.to_torch(got).float(), case.expected(), pcc=0.9999999, rel_rmse=2e-4)
