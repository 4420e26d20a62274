"""Traces on real kernels: whatever is replayed is what the twin computes for these inputs."""

import pytest
import torch

ttnn = pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

from lerobot_pi0_ttnn.device.executor import PI0ModelTTNN  # noqa: E402
from lerobot_pi0_ttnn.latency import Stopwatch  # noqa: E402
from lerobot_pi0_ttnn.model.config import TINY  # noqa: E402
from lerobot_pi0_ttnn.model.rtc import make_guidance  # noqa: E402
from tests.oracle import CAMERAS, make_batch, make_noise, model_inputs, only_row, state_dict  # noqa: E402
from tests.quality import assert_quality  # noqa: E402

LIMITS = {"pcc": 0.9995, "rel_rmse": 0.02}


@pytest.fixture(scope="module")
def traces(board):
    if board.traces is None:
        pytest.skip(f"{board.name}: {board.why_no_trace}")
    return board.traces[0]


@pytest.fixture(scope="module")
def model(board, policy, traces):
    return PI0ModelTTNN(TINY, state_dict(policy), board.device, precision="accurate", traces=[traces])


def row(policy, seed, cameras=2, tokens=10):
    batch = make_batch(batch=1, cameras=CAMERAS[:cameras], lengths=[tokens], seed=seed)
    return model_inputs(policy, batch)


def test_replays_follow_their_inputs(model, twin, policy, traces):
    """Other pixels, prompts, masks, states and noises through the same trace."""
    for seed, tokens in ((1, 10), (2, 10), (3, 31), (4, 1), (5, 32)):
        inputs, noise = row(policy, seed, tokens=tokens), make_noise(1, seed=seed)
        got = model.sample_actions(**inputs, noise=noise, num_steps=2)
        assert_quality(got, twin.sample_actions(**inputs, noise=noise, num_steps=2), **LIMITS)
    assert traces.captured == 1


def test_a_new_shape_gives_up_the_old_traces(model, twin, policy, traces):
    """What it allocates may lie where the old traces compute; all are captured anew, and go on being right."""
    cases = [row(policy, 6, cameras=1), row(policy, 7, cameras=2), row(policy, 8, cameras=2, tokens=40)]
    noise = make_noise(1)
    for inputs in cases:
        model.sample_actions(**inputs, noise=noise, num_steps=2)
    assert traces.captured == 0
    for _ in range(2):
        for inputs in cases:
            got = model.sample_actions(**inputs, noise=noise, num_steps=2)
            assert_quality(got, twin.sample_actions(**inputs, noise=noise, num_steps=2), **LIMITS)
    assert traces.captured == 3


def test_rows_of_a_batch_share_a_trace(model, twin, policy, traces):
    inputs = model_inputs(policy, make_batch(batch=3, lengths=(10, 23)))
    noise = make_noise(3)
    want = twin.sample_actions(**inputs, noise=noise, num_steps=2)
    for _ in range(2):
        assert_quality(model.sample_actions(**inputs, noise=noise, num_steps=2), want, **LIMITS)
    one = only_row(inputs, 2)
    assert_quality(model.sample_actions(**one, noise=noise[2:], num_steps=2), want[2:], **LIMITS)


def test_guidance_is_an_input_too(model, twin, policy):
    inputs, noise = row(policy, 9), make_noise(1)
    for seed, delay in ((1, 2), (2, 5), (3, 0)):
        guidance = make_guidance(
            torch.randn(30, 32, generator=torch.Generator().manual_seed(seed)),
            (1, 50, 32),
            widths=(32,),
            delay=delay,
            execution_horizon=20,
            schedule="LINEAR",
            max_gain=10.0,
        )
        got = model.sample_actions(**inputs, noise=noise, num_steps=2, guidance=guidance)
        want = twin.sample_actions(**inputs, noise=noise, num_steps=2, guidance=guidance)
        assert_quality(got, want, **LIMITS)


def test_eager(model, policy, traces, monkeypatch):
    inputs, noise = row(policy, 10), make_noise(1)
    want = [model.sample_actions(**inputs, noise=noise, num_steps=2) for _ in range(3)][-1]
    stopwatch = Stopwatch()
    monkeypatch.setattr(model, "eager", True)
    got = model.sample_actions(**inputs, noise=noise, num_steps=2, stage=stopwatch.stage)
    assert torch.equal(got, want)
    assert traces.captured == 0
    assert "step 2" in stopwatch.summaries()


def test_another_model_on_the_board(model, twin, policy, board, traces):
    """Its weights may lie where the first one's traces compute."""
    inputs, noise = row(policy, 11), make_noise(1)
    want = twin.sample_actions(**inputs, noise=noise, num_steps=2)
    for _ in range(3):
        model.sample_actions(**inputs, noise=noise, num_steps=2)
    assert traces.captured == 1
    other = PI0ModelTTNN(TINY, state_dict(policy), board.device, precision="balanced", traces=[traces])
    assert traces.captured == 0
    for _ in range(3):
        for which, limits in ((model, LIMITS), (other, {"pcc": 0.999, "rel_rmse": 0.05})):
            assert_quality(which.sample_actions(**inputs, noise=noise, num_steps=2), want, **limits)
    assert traces.captured == 2


def test_one_that_does_not_fit_is_captured_where_another_was(model, policy, board, monkeypatch, caplog):
    """Room for one trace and a half: two sets of shapes give way to one another, and the board is no worse for it."""
    noise = make_noise(1)
    cases = [row(policy, 12, cameras=cameras) for cameras in (1, 2)]
    want = [[model.sample_actions(**inputs, noise=noise, num_steps=2) for _ in range(3)][-1] for inputs in cases]
    (own,) = board.traces
    sizes = [entry.size for entry in own._entries.values() if entry.size]
    own.release()
    monkeypatch.setattr(own, "_region", int(1.5 * max(sizes)))
    for _ in range(2):
        for inputs, actions in zip(cases, want, strict=True):
            assert torch.equal(model.sample_actions(**inputs, noise=noise, num_steps=2), actions)
            assert own.captured == 1
    assert own._lost == 0
    assert caplog.text.count("traces give way to one another") == 1
