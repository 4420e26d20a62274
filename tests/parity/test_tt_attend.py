"""Our own program for attention of few queries, against torch and ttnn's own operation, on whatever board there is."""

import pytest
import torch

ttnn = pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

from lerobot_pi0_ttnn.tt.layers import attention  # noqa: E402
from lerobot_pi0_ttnn.tt.ops.attend import attend, attend_plan  # noqa: E402
from lerobot_pi0_ttnn.tt.precision import preset  # noqa: E402
from lerobot_pi0_ttnn.tt.program import Programs  # noqa: E402
from lerobot_pi0_ttnn.tt.weights import to_device  # noqa: E402

from ..quality import assert_quality  # noqa: E402


class Case:
    """Queries, keys, values and a mask: on the device and as torch reads them back."""

    def __init__(self, board, length, tokens, size, heads=8, scale=1.0):
        generator = torch.Generator().manual_seed(0)
        self.device = board.device
        self.precision = preset("accurate", board.device.arch()).expert
        self.queries = self.put(scale * torch.randn(1, heads, length, size, generator=generator), ttnn.L1_MEMORY_CONFIG)
        self.keys, self.values = (self.put(torch.randn(1, 1, tokens, size, generator=generator)) for _ in range(2))
        mask = torch.zeros(1, 1, length, tokens)
        mask[..., tokens // 3 : tokens // 2] = -1e4
        mask[..., length // 2 :, :7] = -1e4
        self.mask = self.put(mask)
        self.plan = Programs(board.device).attend(self.queries, self.keys)

    def put(self, x, memory=None):
        on_device = to_device(x, ttnn.bfloat16, self.device)
        return on_device if memory is None else ttnn.to_memory_config(on_device, memory)

    def ours(self):
        return attend(self.queries, self.keys, self.values, self.mask, self.plan, self.precision.exact_fidelity)

    def expected(self):
        queries, keys, values, mask = (
            ttnn.to_torch(x).double() for x in (self.queries, self.keys, self.values, self.mask)
        )
        return (torch.softmax(queries @ keys.mT + mask, dim=-1) @ values).float()


@pytest.mark.parametrize(
    ("length", "tokens", "size"),
    [
        pytest.param(64, 160, 64, id="actions"),
        pytest.param(32, 96, 32, id="state"),
        pytest.param(64, 640, 256, id="pi0"),
        pytest.param(32, 1024, 128, id="more-keys-than-registers"),
    ],
)
def test_values(board, length, tokens, size):
    case = Case(board, length, tokens, size, scale=size**-0.5)
    got = case.ours()
    assert (tuple(got.shape), got.dtype) == ((1, 8, length, size), ttnn.bfloat16)
    # Rounding to bfloat16 costs 1.7e-3.
    assert_quality(ttnn.to_torch(got).float(), case.expected(), pcc=0.99999, rel_rmse=0.004)


def test_beside_ttnns_own(board):
    case = Case(board, 64, 160, 64, scale=1 / 8)
    stock = attention(case.queries, case.keys, case.values, mask=case.mask, scale=1.0, precision=case.precision)
    joined = ttnn.to_torch(case.ours()).float().transpose(1, 2).flatten(-2)[:, None]
    assert_quality(joined, ttnn.to_torch(stock).float(), pcc=0.9999, rel_rmse=0.01)


@pytest.mark.parametrize("shift", [-200.0, 200.0])
def test_scores_far_from_zero(board, shift):
    """Of which no exponential is a number: the maximum of all keys is taken off, wherever it is, in each part alike."""
    case = Case(board, 64, 160, 64)
    queries, keys = ttnn.to_torch(case.queries).float() / 8, ttnn.to_torch(case.keys).float()
    queries[..., 0], keys[..., 0] = shift, 1.0
    # One key that outweighs the others of its row, in the last part.
    keys[..., -1, 0] = 1.0 + 16.0 / abs(shift) * (1 if shift > 0 else -1)
    case.queries, case.keys = case.put(queries, ttnn.L1_MEMORY_CONFIG), case.put(keys)
    assert_quality(ttnn.to_torch(case.ours()).float(), case.expected(), pcc=0.999, rel_rmse=0.03)


def test_a_row_that_sees_nothing_is_finite(board):
    """A row of padding, which nobody reads: but what is not a number would spread."""
    case = Case(board, 64, 160, 64)
    mask = ttnn.to_torch(case.mask).float()
    mask[..., 50:, :] = -1e4
    case.mask = case.put(mask)
    assert ttnn.to_torch(case.ours()).isfinite().all()


def test_again_with_other_tensors_elsewhere(board):
    """A program is kept by ttnn for its shapes: what a second call is handed lies elsewhere and has other values."""
    case, kept = Case(board, 32, 96, 64, scale=1 / 8), []
    first = case.ours()
    kept.append((case.queries, case.keys, case.values, case.mask, first))
    for name in ("queries", "keys", "values"):
        memory = getattr(case, name).memory_config()
        other = ttnn.to_torch(getattr(case, name)).flip(-2)
        setattr(case, name, case.put(other, memory))
    second = case.ours()
    assert_quality(ttnn.to_torch(second).float(), case.expected(), pcc=0.99999, rel_rmse=0.004)
    places = [
        [tensor.buffer_address() for tensor in call] for call in (kept[0], (case.queries, case.keys, case.values))
    ]
    assert all(here != there for here, there in zip(*places, strict=False))
    assert torch.equal(ttnn.to_torch(case.ours()), ttnn.to_torch(second)), "the same inputs give the same bits"


@pytest.mark.parametrize("wrong", ["queries", "keys", "values", "mask"])
def test_what_it_cannot_do_is_rejected(board, wrong):
    case = Case(board, 32, 96, 64)
    shape = tuple(getattr(case, wrong).shape)
    setattr(case, wrong, to_device(torch.zeros(shape), ttnn.float32, board.device))
    with pytest.raises(ValueError, match=f"attend: expected {wrong} "):
        case.ours()


@pytest.mark.parametrize(
    ("grid", "rows", "parts"),
    [((8, 8), 2, 4), ((8, 7), 2, 3), ((11, 10), 2, 5), ((11, 10), 1, 10), ((13, 10), 2, 5), ((8, 8), 17, None)],
)
def test_plan(grid, rows, parts):
    """Of 640 keys, on the grids of all boards; a prefix has more rows than cores could divide keys among."""
    plan = attend_plan(1, 8, rows, 8, 20, grid, 1_395_424)
    assert (plan and plan.parts) == parts
    if plan:
        spans = [plan.span(part) for part in range(parts)]
        assert [begin for begin, _ in spans[1:]] == [end for _, end in spans[:-1]]
        assert (spans[0][0], spans[-1][1], plan.longest) == (0, 20, max(end - begin for begin, end in spans))
        assert sum(plan.columns(part) for part in range(parts)) == 8


def test_more_than_one_row_of_a_batch_is_left_to_ttnn():
    assert attend_plan(2, 8, 2, 8, 20, (8, 8), 1_395_424) is None
