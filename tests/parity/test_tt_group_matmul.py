"""Our own program for a matmul in groups of cores, against torch and ttnn's own operations, on whatever board there is."""

from dataclasses import replace

import pytest
import torch

ttnn = pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

from lerobot_pi0_ttnn.analysis.graph import captured  # noqa: E402
from lerobot_pi0_ttnn.model.tensors import Weights  # noqa: E402
from lerobot_pi0_ttnn.tt.layers import BranchLinear, Linear  # noqa: E402
from lerobot_pi0_ttnn.tt.ops.group_matmul import GROUP_MATMUL, GroupMatmulPlan, group_matmul  # noqa: E402
from lerobot_pi0_ttnn.tt.precision import preset  # noqa: E402
from lerobot_pi0_ttnn.tt.program import Programs  # noqa: E402
from lerobot_pi0_ttnn.tt.weights import DeviceWeights, to_device  # noqa: E402

from ..quality import assert_quality  # noqa: E402

TILE = 32
LIMITS = {"accurate": 0.003, "balanced": 0.006}
"""Relative RMSE: rounding to bfloat16 costs 0.0017; HiFi2 leaves out the low bits of one operand."""


class Case:
    """x, a weight and a stream of so many tiles, on the device and as torch reads them back."""

    def __init__(self, board, precision, plan, *, adds=True, dtype=None):
        torch.manual_seed(0)
        self.device = board.device
        self.precision = preset(precision, board.device.arch()).vlm
        self.plan = plan
        self.output = dtype or ttnn.bfloat16
        inner = TILE * plan.inner
        self.x = self.near(torch.randn(1, 1, TILE * plan.rows, inner))
        weight = torch.randn(inner, TILE * plan.columns) * inner**-0.5
        self.weight = to_device(weight, self.precision.weights, board.device)
        self.stream = self.near(self.made(torch.randn), self.output) if adds else None

    def made(self, values):
        return values(1, 1, TILE * self.plan.rows, TILE * self.plan.columns)

    def near(self, x, dtype=ttnn.bfloat16):
        return ttnn.to_memory_config(to_device(x, dtype, self.device), ttnn.L1_MEMORY_CONFIG)

    def ours(self, x=None, stream=None):
        return group_matmul(
            x or self.x,
            self.weight,
            self.plan,
            self.precision.fidelity,
            output=self.output,
            memory=ttnn.L1_MEMORY_CONFIG,
            stream=stream or self.stream,
        )

    def expected(self, x=None, stream=None):
        x, weight = (ttnn.to_torch(tensor).double() for tensor in (x or self.x, self.weight))
        stream = stream or self.stream
        return x @ weight + (0.0 if stream is None else ttnn.to_torch(stream).double())


@pytest.mark.parametrize("precision", ["accurate", "balanced"])
@pytest.mark.parametrize(
    ("plan", "adds"),
    [
        pytest.param(
            GroupMatmulPlan(17, 16, 16, 2, (8, 3), block=4), True, id="seventeen-rows-and-cores-without-columns"
        ),
        pytest.param(GroupMatmulPlan(5, 6, 21, 2, (8, 2), block=2), False, id="cores-with-one-column-and-with-two"),
        pytest.param(
            GroupMatmulPlan(3, 13, 10, 1, (2, 1), block=3), True, id="one-group-of-two-five-columns-a-last-block"
        ),
        pytest.param(GroupMatmulPlan(7, 11, 3, 3, (3, 1), block=2), True, id="three-groups-of-three"),
        pytest.param(GroupMatmulPlan(5, 3, 8, 2, (4, 1), block=3), False, id="one-block"),
        pytest.param(GroupMatmulPlan(5, 9, 20, 2, (3, 1), block=2, passes=3), True, id="passes-of-five-blocks"),
        pytest.param(GroupMatmulPlan(3, 8, 24, 1, (4, 1), block=2, passes=2), False, id="passes-of-four-blocks"),
    ],
)
def test_values(board, precision, plan, adds):
    case = Case(board, precision, plan, adds=adds)
    got = case.ours()
    assert (tuple(got.shape), got.dtype) == ((1, 1, TILE * plan.rows, TILE * plan.columns), ttnn.bfloat16)
    assert_quality(ttnn.to_torch(got).float(), case.expected().float(), pcc=0.9999, rel_rmse=LIMITS[precision])


def test_sums_are_float32(board):
    """Of small integers, over five blocks, and the stream keeps all of its 24 bits."""
    case = Case(board, "accurate", GroupMatmulPlan(3, 20, 4, 2, (2, 1), block=4), dtype=ttnn.float32)
    x, weight = (
        torch.randint(-3, 4, tuple(case.x.shape)).float(),
        torch.randint(-3, 4, tuple(case.weight.shape)).float(),
    )
    case.weight = to_device(weight, ttnn.bfloat16, board.device)
    stream = case.made(torch.randn).sign() * 4097.0
    got = ttnn.to_torch(case.ours(case.near(x), case.near(stream, ttnn.float32)))
    assert torch.equal(got, stream + x @ weight)


def test_again_with_other_tensors_elsewhere(board):
    """A program is kept by ttnn for its shapes: what a second call is handed lies elsewhere and has other values."""
    case = Case(board, "balanced", GroupMatmulPlan(5, 8, 8, 2, (4, 1), block=2))
    first = case.ours()
    other = case.near(torch.randn(tuple(case.x.shape))), case.near(case.made(torch.randn))
    second = case.ours(*other)
    places = [[tensor.buffer_address() for tensor in call] for call in ((case.x, case.stream, first), (*other, second))]
    assert all(here != there for here, there in zip(*places, strict=True))
    assert_quality(ttnn.to_torch(second).float(), case.expected(*other).float(), pcc=0.9999, rel_rmse=0.006)
    assert torch.equal(ttnn.to_torch(case.ours()), ttnn.to_torch(first)), "the same inputs give the same bits"


def test_beside_ttnns_own(board):
    """Two operations, at the same fidelity; between them the product is rounded."""
    case = Case(board, "balanced", GroupMatmulPlan(5, 8, 8, 2, (4, 1), block=2))
    product = ttnn.linear(case.x, case.weight, dtype=ttnn.bfloat16, compute_kernel_config=case.precision.kernel)
    stock = ttnn.to_torch(ttnn.add(case.stream, product)).float()
    assert_quality(ttnn.to_torch(case.ours()).float(), stock, pcc=0.9999, rel_rmse=0.004)


class TestWhereItRuns:
    """Seventeen rows of tiles on eight rows of cores, as `o_proj` and `qkv_proj` of the prefix on an n150 but narrower."""

    @pytest.fixture
    def case(self, board, monkeypatch):
        if board.grid[0] < 8 or board.grid[1] < 8:
            pytest.skip(f"for 8 x 8 cores, the board has {board.grid}")
        monkeypatch.setattr(Programs, "grid", property(lambda _: (8, 8), lambda *_: None), raising=False)
        return Case(board, "balanced", GroupMatmulPlan(17, 16, 64, 2, (8, 4), block=4))

    def layer(self, case, make=BranchLinear):
        weight = ttnn.to_torch(case.weight).float().T
        weights = DeviceWeights(Weights({"o_proj.weight": weight}), case.device)
        if make is BranchLinear:
            return BranchLinear(weights, "o_proj", case.precision)
        return Linear(weights, "o_proj", lambda: weight, None, case.precision)

    def test_a_branch_is_added_to_the_stream_by_it(self, case):
        layer = self.layer(case)
        with captured() as graph:
            got = layer.add_to(case.stream, case.x, None)
        assert [operation.title for operation in graph.operations] == ["group_matmul"]
        assert got.memory_config() == ttnn.L1_MEMORY_CONFIG
        assert_quality(ttnn.to_torch(got).float(), case.expected().float(), pcc=0.9999, rel_rmse=0.006)

    def test_a_linear_without_a_stream(self, case):
        case.stream = None
        layer = self.layer(case, Linear)
        with captured() as graph:
            got = layer(case.x)
        assert [operation.title for operation in graph.operations] == ["group_matmul"]
        assert_quality(ttnn.to_torch(got).float(), case.expected().float(), pcc=0.9999, rel_rmse=0.006)
        with captured() as graph:
            layer(case.x, activation=ttnn.UnaryOpType.SILU)
        assert "Matmul" in [operation.title for operation in graph.operations], "it applies no function"

    def test_where_ttnn_is_to_choose_it_is_two_operations(self, case):
        layer = self.layer(case)
        layer.programs.stock = True
        with captured() as graph:
            got = layer.add_to(case.stream, case.x, None)
        assert [operation.title for operation in graph.operations] == ["Matmul", "BinaryNg"]
        assert_quality(ttnn.to_torch(got).float(), case.expected().float(), pcc=0.9999, rel_rmse=0.006)

    @pytest.mark.parametrize("make", [BranchLinear, Linear])
    def test_what_is_refused_is_left_to_ttnn_and_reported(self, case, monkeypatch, make):
        too_large = replace(case.plan, block=16)
        monkeypatch.setattr("lerobot_pi0_ttnn.tt.program.group_matmul_plan", lambda *_, **__: too_large)
        layer = self.layer(case, make)
        case.stream = case.stream if make is BranchLinear else None
        got = layer.add_to(case.stream, case.x, None) if make is BranchLinear else layer(case.x)
        refusals = layer.programs.refused.values()
        assert refusals
        assert all("circular buffers" in refusal for refusal in refusals)
        assert_quality(ttnn.to_torch(got).float(), case.expected().float(), pcc=0.9999, rel_rmse=0.006)


@pytest.mark.parametrize("wrong", ["plan", "x", "weight", "stream", "result"])
def test_what_it_cannot_do_is_rejected(board, wrong):
    case = Case(board, "balanced", GroupMatmulPlan(5, 4, 8, 2, (4, 1), block=2))
    if wrong == "plan":
        case.plan = replace(case.plan, rows=4)
    elif wrong == "x":
        case.x = case.near(torch.zeros(tuple(case.x.shape)), ttnn.float32)
    elif wrong == "weight":
        case.weight = to_device(torch.zeros(128, 256), ttnn.float32, board.device)
    elif wrong == "stream":
        case.stream = case.near(torch.zeros(1, 1, 32, 256))
    else:
        case.output, case.stream = ttnn.bfloat8_b, None
    with pytest.raises(ValueError, match="group_matmul: expected"):
        case.ours()


def test_it_is_one_program(board):
    """Which says what a run takes, by its plan."""
    case = Case(board, "balanced", GroupMatmulPlan(5, 4, 8, 2, (4, 1), block=2))
    with captured() as graph:
        case.ours()
    (operation,) = graph.operations
    assert (operation.own.name, operation.own.kernels) == (GROUP_MATMUL.name, GROUP_MATMUL.kernels)
    assert len(operation.operands) == 4
