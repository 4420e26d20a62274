"""Rows of a batch in one pass: each as if it were alone, against LeRobot's policies, and each weight read once for all."""

import pytest
import torch

ttnn = pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

from lerobot_pi0_ttnn.analysis.report import STEP, made_up_weights, operations_by_stage  # noqa: E402
from lerobot_pi0_ttnn.device.executor import MAX_ROWS, PI0ModelTTNN, passes  # noqa: E402
from lerobot_pi0_ttnn.model.config import PI0_BASE, PI05_BASE  # noqa: E402
from lerobot_pi0_ttnn.model.observation import Observation  # noqa: E402
from lerobot_pi0_ttnn.model.rtc import make_guidance  # noqa: E402

from ..models import MODELS  # noqa: E402
from ..oracle import (  # noqa: E402
    ACTION_DIM,
    CAMERAS,
    make_batch,
    make_lerobot_policy,
    make_noise,
    model_inputs,
    only_row,
    state_dict,
)
from ..quality import assert_quality  # noqa: E402
from .test_tt_context import EmulatedTraces  # noqa: E402
from .tt import random_inputs  # noqa: E402

LENGTHS = (3, 40, 23)
"""Of prompts of one tile, of two, and of one: all three are padded to two."""
LIMITS = {"pcc": 0.9999, "rel_rmse": 0.008}


@pytest.fixture(scope="module", params=list(MODELS))
def policy(request):
    return make_lerobot_policy(model=MODELS[request.param]).requires_grad_(False)


@pytest.fixture(scope="module")
def config(policy):
    return MODELS["pi05" if policy.config.type == "pi05" else "pi0"]


@pytest.fixture(scope="module")
def model(board, policy, config):
    return PI0ModelTTNN(config, state_dict(policy), board.device, precision="accurate")


@pytest.fixture(scope="module")
def batch():
    return make_batch(3, lengths=LENGTHS)


@pytest.fixture(scope="module")
def alone(model, policy, batch):
    """Each row's chunk without the others."""
    inputs, noise = model_inputs(policy, batch), make_noise(3)
    rows = (model.sample_actions(**only_row(inputs, row), noise=noise[row : row + 1], num_steps=2) for row in range(3))
    return torch.cat(list(rows))


def test_one_pass_against_lerobot(model, policy, batch):
    """Ten steps, prompts of unlike length and of unlike tiles."""
    noise = make_noise(3)
    got = model.sample_actions(**model_inputs(policy, batch), noise=noise)[..., :ACTION_DIM]
    assert_quality(got, policy.predict_action_chunk(batch, noise=noise), **LIMITS)


def test_each_row_as_if_it_were_alone(model, policy, batch, alone):
    """Other blocks of the inner dimension, other roundings: no more than that, whoever the others are."""
    inputs, noise = model_inputs(policy, batch), make_noise(3)
    got = model.sample_actions(**inputs, noise=noise, num_steps=2)
    assert_quality(got, alone, pcc=0.99999, rel_rmse=0.004)
    last = Observation(**inputs).select([1, 0, 0])
    assert torch.equal(model.sample_actions(last, noise=noise[[1, 0, 0]], num_steps=2)[0], got[1])


def test_unlike_cameras(model, policy, twin_of):
    """One pass for each number of cameras; the chunks come back in the order of the rows."""
    inputs, noise = model_inputs(policy, make_batch(4, cameras=CAMERAS, lengths=LENGTHS)), make_noise(4)
    masks = [[True, False, True, True], [True, False, False, True], [False, True, True, False]]
    inputs = {**inputs, "img_masks": [torch.tensor(mask) for mask in masks]}
    assert passes(Observation(**inputs), 1) == [(0, [0, 2, 3]), (0, [1])]
    got = model.sample_actions(**inputs, noise=noise, num_steps=2)
    assert_quality(got, twin_of(policy).sample_actions(**inputs, noise=noise, num_steps=2), **LIMITS)


@pytest.fixture(scope="module")
def twin_of(config):
    from lerobot_pi0_ttnn.reference import PI0ModelTorch

    return lambda policy: PI0ModelTorch(config, state_dict(policy))


def test_guidance_of_each_row(model, policy, batch, config, twin_of):
    """Former chunks of unlike length: the weights differ from row to row."""
    left_over = torch.randn(3, 30, config.action_dim, generator=torch.Generator().manual_seed(4))
    left_over[1, 12:] = 0.0
    guidance = make_guidance(
        left_over,
        (3, config.horizon, config.action_dim),
        widths=(config.action_dim,),
        delay=3,
        execution_horizon=20,
        schedule="LINEAR",
        max_gain=10.0,
    )
    inputs, noise = model_inputs(policy, batch), make_noise(3)
    got = model.sample_actions(**inputs, noise=noise, num_steps=2, guidance=guidance)
    assert_quality(got, twin_of(policy).sample_actions(**inputs, noise=noise, num_steps=2, guidance=guidance), **LIMITS)


def test_a_trace_for_each_number_of_rows(board, policy, config, batch, monkeypatch):
    if board.kind != "emulated":
        if board.traces is None:
            pytest.skip(f"{board.name}: {board.why_no_trace}")
        traces = board.traces[0]
    else:
        traces = EmulatedTraces(board.device, monkeypatch)
    model = PI0ModelTTNN(config, state_dict(policy), board.device, precision="accurate", traces=[traces])
    inputs, noise = model_inputs(policy, batch), make_noise(3)
    eager = {}
    for call in range(3):
        for rows in (1, 3):
            some = Observation(**inputs).select(list(range(rows)))
            got = model.sample_actions(some, noise=noise[:rows], num_steps=2)
            assert torch.equal(got, eager.setdefault(rows, got)), (call, rows)
    assert traces.captured == 2
    model.release()


def test_stock_programs(board, policy, config, batch):
    model = PI0ModelTTNN(config, state_dict(policy), board.device, precision="accurate", programs="stock")
    noise = make_noise(3)
    got = model.sample_actions(**model_inputs(policy, batch), noise=noise)[..., :ACTION_DIM]
    assert_quality(got, policy.predict_action_chunk(batch, noise=noise), **LIMITS)


@pytest.mark.parametrize(
    ("rows", "chips", "cameras", "want"),
    [
        (1, 1, [2], [(0, [0])]),
        (1, 4, [2], [(0, [0])]),
        (3, 1, [2, 1, 2], [(0, [0, 2]), (0, [1])]),
        (5, 2, [2] * 5, [(0, [0, 2, 4]), (1, [1, 3])]),
        (4, 2, [1, 2, 2, 2], [(0, [0]), (1, [1, 3]), (0, [2])]),
        (9, 1, [1] * 9, [(0, [0, 1, 2, 3]), (0, [4, 5, 6, 7, 8])]),
        (8, 8, [1] * 8, [(chip, [chip]) for chip in range(8)]),
    ],
)
def test_who_computes_which_rows(rows, chips, cameras, want):
    masks = [torch.tensor([camera < count for count in cameras]) for camera in range(3)]
    blank = torch.zeros(rows, 1)
    assert passes(Observation([blank] * 3, masks, blank, blank, blank), chips) == want


@pytest.mark.parametrize("rows", [2, 4, MAX_ROWS])
@pytest.mark.parametrize(("full", "tokens"), [(PI0_BASE, 48), (PI05_BASE, 200)], ids=["pi0", "pi05"])
def test_full_size_fits(board, full, tokens, rows):
    """pi0_base and pi05_base: legal, none of our program configs is refused, and operations do not grow with the rows."""
    if board.kind != "emulated":
        pytest.skip(f"only an emulated board follows shapes without values, this is a {board.kind}")
    weights = made_up_weights(full)
    with board.shapes_only():
        model = PI0ModelTTNN(full, weights, board.device, precision="balanced")
        one, all_rows = (operations_by_stage(model, board, cameras=2, tokens=tokens, rows=count) for count in (1, rows))
        # Two rows are still few: our own programs take them, as one. More are ttnn's, 12 operations a layer.
        of_a_step = len(one[STEP].operations) if rows == 2 else 12 * full.expert.depth + 6 - 2 * (full is PI05_BASE)
        assert len(all_rows[STEP].operations) == of_a_step
        assert branches_apart(all_rows["prefill"]) == branches_apart(one["prefill"])
        with pytest.raises(RuntimeError, match="only shapes are followed"):
            model.sample_actions(**random_inputs(full, 3, tokens, batch=rows), noise=make_noise(rows), num_steps=1)
    assert model.describe()["programs_refused"] == {}
    assert board.describe()["dram_bytes_in_use"] < 9e9


def branches_apart(stage):
    """How many operations a stage has where a branch and its addition are two: for some numbers of rows they are one.

    But for the copies of RoPE's tables, which one row has room for in L1.
    """
    operations = [each for each in stage.operations if each.name != "Copy"]
    return len(operations) + sum(each.title == "group_matmul" and len(each.operands) == 4 for each in operations)
