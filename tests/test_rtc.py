"""Real-time chunking against LeRobot's, which differentiates where we have a closed form; and the TTNN twin against ours."""

import itertools
import json
import logging
import math

import pytest
import torch
from lerobot.configs import RTCAttentionSchedule
from lerobot.policies.common import flow_matching as lerobot_flow
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.rtc import reanchor_relative_rtc_prefix
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.policies.rtc.modeling_rtc import RTCProcessor
from lerobot.processor import NormalizerProcessorStep, RelativeActionsProcessorStep
from lerobot.rollout.inference.rtc import _normalize_prev_actions_length, supports_rtc_inference

from lerobot_pi0_ttnn import PI0TTNNConfig, PI0TTNNPolicy, load_policy
from lerobot_pi0_ttnn.model.config import TINY
from lerobot_pi0_ttnn.model.flow import schedule
from lerobot_pi0_ttnn.model.rtc import ATTENTION_SCHEDULES, Guidance, gains, make_guidance, prefix_weights
from tests import oracle
from tests.checkpoints import STATS, edit_json, lerobots_processors, save_lerobot_checkpoint, with_quantiles
from tests.models import MODELS
from tests.oracle import ACTION_DIM, integrate, make_lerobot_policy, make_noise, only_row, state_dict
from tests.quality import assert_quality

CAMERAS = ("front",)
"""One is enough: guidance knows nothing of them."""

SCHEDULES = pytest.mark.parametrize("attention", list(RTCAttentionSchedule), ids=lambda attention: attention.value)
DELAYS = (0, 4, 12, 60)
"""None, one within every horizon, one beyond the shortest, one beyond the chunk."""
HORIZONS = (None, 0, 17, 50, 80)
"""LeRobot's 10; nothing; a part; the chunk; beyond it."""
PREFIXES = {
    "rows-shared": (25, ACTION_DIM),
    "shorter-than-the-horizon": (2, 6, ACTION_DIM),
    "one-row": (1, 25, ACTION_DIM),
    "whole-chunk": (2, 50, ACTION_DIM),
    "padded-width": (2, 25, 32),
    "as-the-model-sees-it": (2, 50, 32),
    "used-up": (2, 0, ACTION_DIM),
}


def randn(*shape: int, seed: int = 5) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make_batch(batch: int = 2, seed: int = 1) -> dict[str, torch.Tensor]:
    return oracle.make_batch(batch, CAMERAS, seed=seed)


def enable(ours, **rtc):
    """As LeRobot's rollout does it, after loading."""
    ours.config.rtc_config = RTCConfig(**rtc)
    ours.init_rtc_processor()


@pytest.fixture(scope="module")
def lerobot_policy():
    return make_lerobot_policy(cameras=CAMERAS)


@pytest.fixture(scope="module")
def loaded(lerobot_policy):
    features = {name: getattr(lerobot_policy.config, name) for name in ("input_features", "output_features")}
    config = PI0TTNNConfig(architecture="tiny", backend="torch", **features)
    return PI0TTNNPolicy(config, state_dict(lerobot_policy))


@pytest.fixture
def ours(loaded):
    """Ours, with LeRobot's defaults."""
    enable(loaded)
    return loaded


class TestFormula:
    @pytest.mark.parametrize(
        ("attention", "want"),
        [
            ("ZEROS", [1, 1, 0, 0, 0, 0]),
            ("ONES", [1, 1, 1, 1, 1, 0]),
            ("LINEAR", [1, 1, 0.75, 0.5, 0.25, 0]),
            ("EXP", [1, 1] + [x * math.expm1(x) / (math.e - 1) for x in (0.75, 0.5, 0.25)] + [0]),
        ],
    )
    def test_weights_by_hand(self, attention, want):
        torch.testing.assert_close(prefix_weights(attention, 2, 5, 6), torch.tensor(want, dtype=torch.float32))

    @SCHEDULES
    def test_weights_are_lerobots(self, attention):
        theirs = RTCProcessor(RTCConfig(prefix_attention_schedule=attention))
        for delay, end, horizon in itertools.product(range(12), range(11), (10, 50)):
            want = theirs.get_prefix_weights(delay, end, horizon)
            assert torch.equal(prefix_weights(attention, delay, end, horizon), want)

    def test_gains_by_hand(self):
        want = [10, 9.111, 4.25, 2.762, 2.167, 2, 2.167, 2.762, 4.25, 9.111]
        assert gains(schedule(10), 10.0) == pytest.approx(want, abs=1e-3)

    @pytest.mark.parametrize("max_gain", [0.5, 5.0, 10.0, 1000.0])
    @pytest.mark.parametrize("num_steps", [1, 2, 10, 100])
    def test_gains_are_lerobots(self, num_steps, max_gain):
        """To the bit: a field that is 0, so that a prefix of ones comes out as minus the gain."""
        theirs = RTCProcessor(RTCConfig(max_guidance_weight=max_gain, execution_horizon=1))
        zero, one = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
        want = [theirs.denoise_step(zero, one, 1, time, lambda x: x * 0).item() for time in schedule(num_steps)]
        assert [-gain for gain in gains(schedule(num_steps), max_gain)] == want

    @SCHEDULES
    @pytest.mark.parametrize("num_steps", [1, 4, 10])
    def test_loop_is_lerobots(self, attention, num_steps):
        """A field that is not linear and differs from step to step, for all delays, horizons, limits and prefixes."""
        noise, times = make_noise(), schedule(num_steps)
        for max_gain, delay, end, shape in itertools.product((0.5, 10.0), DELAYS, HORIZONS, PREFIXES.values()):
            rtc = RTCConfig(prefix_attention_schedule=attention, max_guidance_weight=max_gain)
            want = lerobot_flow.euler_integrate(
                lambda x, time: torch.sin(x) * time[:, None, None] + 0.3,
                noise,
                num_steps,
                rtc_processor=RTCProcessor(rtc),
                rtc_enabled=True,
                inference_delay=delay,
                prev_chunk_left_over=randn(*shape),
                execution_horizon=end,
            )
            guidance = make_guidance(
                randn(*shape),
                (2, 50, 32),
                widths=(ACTION_DIM, 32),
                delay=delay,
                execution_horizon=rtc.execution_horizon if end is None else end,
                schedule=attention,
                max_gain=max_gain,
            )
            got = integrate(lambda x, step: torch.sin(x) * times[step] + 0.3, noise, num_steps, guidance)
            torch.testing.assert_close(got, want, rtol=0, atol=1e-6)

    def test_settled_actions_are_kept(self):
        """Whatever the model says: in ten steps what is settled comes to within 0.1 % of the former chunk."""
        weights = prefix_weights("ZEROS", 4, 10, 50)[:, None]
        guidance = Guidance(randn(1, 50, 32), weights, 10.0)
        got = integrate(lambda x, step: torch.zeros_like(x), make_noise(1), 10, guidance)
        torch.testing.assert_close(got[:, :4], randn(1, 50, 32)[:, :4], rtol=0, atol=1e-3)
        assert torch.equal(got[:, 4:], make_noise(1)[:, 4:])

    def test_schedules_are_lerobots(self):
        assert tuple(attention.value for attention in RTCAttentionSchedule) == ATTENTION_SCHEDULES


class TestPolicy:
    """Ours against LeRobot's `PI0Policy`: same weights, batch and noise, max abs <= 1e-5."""

    @pytest.mark.parametrize("shape", PREFIXES.values(), ids=PREFIXES)
    @SCHEDULES
    def test_it_is_lerobots(self, ours, lerobot_policy, attention, shape):
        batch, noise = make_batch(), make_noise()
        for both in (ours, lerobot_policy):
            enable(both, prefix_attention_schedule=attention)
        # The judge is slow: each prefix gets a seventh of the pairs, so that each schedule sees all of them.
        start = list(PREFIXES.values()).index(shape)
        for delay, end in itertools.islice(itertools.product(DELAYS, HORIZONS), start, None, len(PREFIXES)):
            call = {"inference_delay": delay, "prev_chunk_left_over": randn(*shape), "execution_horizon": end}
            got = ours.predict_action_chunk(batch, noise=noise, num_steps=4, **call)
            want = lerobot_policy.predict_action_chunk(batch, noise=noise, num_steps=4, **call)
            assert (got - want).abs().max() <= 1e-5, call

    @pytest.mark.parametrize(("num_steps", "max_gain"), [(None, 100.0), (1, 10.0), (20, 0.5)])
    def test_steps_and_limits(self, ours, lerobot_policy, num_steps, max_gain):
        for both in (ours, lerobot_policy):
            enable(both, max_guidance_weight=max_gain, execution_horizon=20)
        call = {"inference_delay": 4, "prev_chunk_left_over": randn(30, ACTION_DIM), "num_steps": num_steps}
        got = ours.predict_action_chunk(make_batch(), noise=make_noise(), **call)
        want = lerobot_policy.predict_action_chunk(make_batch(), noise=make_noise(), **call)
        # One step with a gain of 10 goes ten times too far, with actions of size 25 and rounding errors to match.
        assert (got - want).abs().max() <= 1e-5 * max(1.0, want.abs().max() / 5)

    def test_chunk_after_chunk(self, ours, lerobot_policy):
        """As the engine runs it: each chunk follows on from what is left of its own predecessor."""
        enable(lerobot_policy)
        left_over = {id(both): None for both in (ours, lerobot_policy)}
        for tick in range(4):
            chunks = []
            for both in (ours, lerobot_policy):
                call = {"inference_delay": 3, "prev_chunk_left_over": left_over[id(both)]}
                chunk = both.predict_action_chunk(make_batch(1, seed=tick), noise=make_noise(1, seed=tick), **call)
                left_over[id(both)] = chunk[0, 20:]
                chunks.append(chunk)
            assert (chunks[0] - chunks[1]).abs().max() <= 1e-5

    @pytest.mark.parametrize("left", [0, 1, 6, 10], ids=lambda left: f"{left}-of-10")
    @SCHEDULES
    def test_padding_is_absent(self, ours, lerobot_policy, attention, left):
        """LeRobot's engine pads to the horizon. Ours is LeRobot's policy on what is left, not on what was padded."""
        for both in (ours, lerobot_policy):
            enable(both, prefix_attention_schedule=attention)
        left_over = randn(left, ACTION_DIM)
        padded = _normalize_prev_actions_length(left_over, target_steps=10)

        def chunk(policy, former):
            call = {"inference_delay": 4, "prev_chunk_left_over": former}
            return policy.predict_action_chunk(make_batch(), noise=make_noise(), num_steps=4, **call)

        got = chunk(ours, padded)
        assert (got - chunk(lerobot_policy, left_over)).abs().max() <= 1e-5
        settled = 4 if attention == RTCAttentionSchedule.ZEROS else 10
        if left < settled:
            assert (got - chunk(lerobot_policy, padded)).abs().max() > 0.1
        if left == 0:
            plain = ours.predict_action_chunk(make_batch(), noise=make_noise(), num_steps=4)
            assert torch.equal(got, plain)

    def test_rows_have_padding_of_their_own(self, ours, lerobot_policy):
        enable(lerobot_policy)
        left_over, batch = randn(2, 10, ACTION_DIM), make_batch()
        left_over[0, 3:], left_over[1, 8:] = 0.0, 0.0
        got = ours.predict_action_chunk(batch, noise=make_noise(), prev_chunk_left_over=left_over, inference_delay=2)
        for row, length in enumerate((3, 8)):
            pick = slice(row, row + 1)
            want = lerobot_policy.predict_action_chunk(
                {key: value[pick] for key, value in batch.items()},
                noise=make_noise()[pick],
                prev_chunk_left_over=left_over[row, :length],
                inference_delay=2,
            )
            assert (got[pick] - want).abs().max() <= 1e-5

    def test_without_a_former_chunk_it_is_plain(self, ours):
        plain = ours.predict_action_chunk(make_batch(), noise=make_noise())
        first = ours.predict_action_chunk(
            make_batch(), noise=make_noise(), inference_delay=4, prev_chunk_left_over=None, execution_horizon=10
        )
        assert torch.equal(first, plain)
        guided_chunk = ours.predict_action_chunk(
            make_batch(), noise=make_noise(), prev_chunk_left_over=randn(25, ACTION_DIM), inference_delay=4
        )
        assert (guided_chunk - plain).abs().max() > 0.1

    def test_without_weight_it_is_plain(self, ours):
        plain = ours.predict_action_chunk(make_batch(), noise=make_noise())
        enable(ours, prefix_attention_schedule=RTCAttentionSchedule.ZEROS)
        call = {"prev_chunk_left_over": randn(25, ACTION_DIM), "inference_delay": 0}
        assert torch.equal(ours.predict_action_chunk(make_batch(), noise=make_noise(), **call), plain)

    def test_switched_off_it_is_plain(self, ours):
        call = {"prev_chunk_left_over": randn(25, ACTION_DIM), "inference_delay": 4}
        ours.config.rtc_config.enabled = False
        plain = ours.predict_action_chunk(make_batch(), noise=make_noise())
        assert torch.equal(ours.predict_action_chunk(make_batch(), noise=make_noise(), **call), plain)

    def test_no_delay_is_none(self, ours):
        """LeRobot's fails there with a TypeError."""
        call = {"prev_chunk_left_over": randn(25, ACTION_DIM)}
        got = ours.predict_action_chunk(make_batch(), noise=make_noise(), **call)
        want = ours.predict_action_chunk(make_batch(), noise=make_noise(), inference_delay=0, **call)
        assert torch.equal(got, want)

    def test_inference_mode(self, ours):
        call = {"prev_chunk_left_over": randn(25, ACTION_DIM), "inference_delay": 4}
        want = ours.predict_action_chunk(make_batch(), noise=make_noise(), **call)
        with torch.inference_mode():
            call["prev_chunk_left_over"] = randn(25, ACTION_DIM)
            got = ours.predict_action_chunk(make_batch(), noise=make_noise(), **call)
        assert torch.equal(got, want)

    def test_the_former_chunk_is_not_changed(self, ours):
        left_over = randn(2, 50, 32)
        ours.predict_action_chunk(make_batch(), prev_chunk_left_over=left_over)
        assert torch.equal(left_over, randn(2, 50, 32))

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            ({"prev_chunk_left_over": randn(7)}, r"expected \(T, A\) or \(B, T, A\), got 1 dim"),
            ({"prev_chunk_left_over": randn(25, 6)}, r"expected \(2 or 1, at most 50, 7 or 32\), got \(1, 25, 6\)"),
            ({"prev_chunk_left_over": randn(25, 33)}, r"got \(1, 25, 33\)"),
            ({"prev_chunk_left_over": randn(51, 7)}, r"got \(1, 51, 7\)"),
            ({"prev_chunk_left_over": randn(3, 25, 7)}, r"got \(3, 25, 7\)"),
            ({"prev_chunk_left_over": torch.full((25, 7), math.nan)}, "not finite"),
            ({"prev_chunk_left_over": torch.full((25, 7), math.inf)}, "not finite"),
            ({"prev_chunk_left_over": randn(25, 7), "inference_delay": -1}, "inference_delay: expected a number"),
            ({"prev_chunk_left_over": randn(25, 7), "execution_horizon": -1}, "execution_horizon: expected a number"),
        ],
    )
    def test_bad_input(self, ours, monkeypatch, call, message):
        monkeypatch.setattr(ours.model, "sample_actions", lambda *_, **__: pytest.fail("the model was run"))
        with pytest.raises(ValueError, match=message):
            ours.predict_action_chunk(make_batch(), **call)

    @pytest.mark.parametrize("max_gain", [math.inf, math.nan])
    def test_bad_config(self, ours, max_gain):
        enable(ours, max_guidance_weight=max_gain)
        with pytest.raises(ValueError, match="max_guidance_weight: expected a positive number"):
            ours.predict_action_chunk(make_batch(), prev_chunk_left_over=randn(25, ACTION_DIM))
        enable(ours, prefix_attention_schedule="COSINE")
        with pytest.raises(ValueError, match="expected one of ZEROS, ONES, LINEAR, EXP, got 'COSINE'"):
            ours.predict_action_chunk(make_batch(), prev_chunk_left_over=randn(25, ACTION_DIM))


@pytest.mark.parametrize("relative", [False, True], ids=["absolute", "relative"])
@pytest.mark.parametrize("model", MODELS)
def test_the_engines_loop(model, relative, tmp_path):
    """LeRobot's `inference/rtc.py` step by step, an arm that moves, each policy with its own pipelines and its own past."""
    lerobot_policy = make_lerobot_policy(CAMERAS, ACTION_DIM, model=MODELS[model], use_relative_actions=relative)
    stats = {feature: {name: value[:ACTION_DIM] for name, value in of.items()} for feature, of in STATS.items()}
    folder = save_lerobot_checkpoint(lerobot_policy, tmp_path / "saved", stats)
    ours = load_policy(folder, architecture="tiny", backend="torch", warm_up=False)
    theirs_too = lerobots_processors(lerobot_policy.config, with_quantiles(stats), folder / "tokenizer")
    pipelines = {id(ours): make_pre_post_processors(ours.config, str(folder)), id(lerobot_policy): theirs_too}
    left, chunks = {}, []
    for tick in range(3):
        for both in (ours, lerobot_policy):
            enable(both)
            preprocess, postprocess = pipelines[id(both)]
            image = torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(tick))
            seen = {"observation.images.front": image, "observation.state": torch.full((1, ACTION_DIM), 0.1 * tick)}
            batch = preprocess({**seen, "task": ["push"]})
            prefix = left.get(id(both))
            if prefix is not None and relative:
                makes, normalizes = (
                    next(step for step in preprocess.steps if isinstance(step, kind))
                    for kind in (RelativeActionsProcessorStep, NormalizerProcessorStep)
                )
                prefix = reanchor_relative_rtc_prefix(prefix[1], makes.get_cached_state(), makes, normalizes, "cpu")
            elif prefix is not None:
                prefix = prefix[0]
            call = {"inference_delay": 3, "prev_chunk_left_over": prefix, "noise": make_noise(1, seed=tick)}
            chunk = both.predict_action_chunk(batch, **call)
            actions = postprocess(chunk)
            chunks.append(actions)
            left[id(both)] = (chunk[0, 20:], actions[0, 20:])
        assert (chunks[-2] - chunks[-1]).abs().max() <= 5e-5
    assert (chunks[-1] - chunks[0]).abs().max() > 0.1


class TestContract:
    def test_lerobots_engine_takes_it(self, ours):
        assert ours.supports_rtc() is True
        assert supports_rtc_inference(ours)

    def test_the_processor_follows_the_config(self, ours, caplog):
        assert ours.rtc_processor.rtc_config is ours.config.rtc_config
        assert ours.model.rtc_processor is ours.rtc_processor
        with caplog.at_level(logging.WARNING):
            enable(ours, debug=True)
        assert "rtc_config.debug has no effect" in caplog.text
        ours.config.rtc_config = None
        ours.init_rtc_processor()
        assert ours.rtc_processor is None
        assert ours.model.rtc_processor is None
        assert ours._rtc_enabled() is False

    def test_select_action_is_refused(self, ours):
        with pytest.raises(RuntimeError, match=r"real-time chunking is enabled.*--inference\.type=rtc"):
            ours.select_action(make_batch())
        ours.config.rtc_config.enabled = False
        assert ours.select_action(make_batch()).shape == (2, ACTION_DIM)

    def test_saved_and_loaded(self, ours, tmp_path):
        enable(ours, execution_horizon=7, prefix_attention_schedule=RTCAttentionSchedule.EXP)
        ours.save_pretrained(tmp_path)
        assert json.loads((tmp_path / "config.json").read_text())["rtc_config"]["execution_horizon"] == 7
        again = PI0TTNNPolicy.from_pretrained(tmp_path)
        assert again.config.rtc_config == ours.config.rtc_config
        assert again.rtc_processor.rtc_config.enabled


class TestTTNN:
    """On an emulated n150. The bounds are those of plain sampling: guidance is float32 and brings no error of its own."""

    @pytest.fixture(scope="class")
    def on_board(self, board, lerobot_policy, tmp_path_factory):
        folder = save_lerobot_checkpoint(lerobot_policy, tmp_path_factory.mktemp("pi0"))
        edit_json(folder / "config.json", architecture="tiny", rtc_config=None)
        ours = PI0TTNNPolicy.from_pretrained(folder, board=board.name, cache_weights=False)
        yield ours
        ours.close()

    @pytest.mark.parametrize(
        "shape", [PREFIXES["rows-shared"], PREFIXES["as-the-model-sees-it"]], ids=["short", "whole"]
    )
    @SCHEDULES
    def test_it_is_the_twin(self, on_board, ours, attention, shape):
        call = {"inference_delay": 4, "prev_chunk_left_over": randn(*shape), "execution_horizon": 20}
        for both in (ours, on_board):
            enable(both, prefix_attention_schedule=attention)
        got = on_board.predict_action_chunk(make_batch(), noise=make_noise(), **call)
        want = ours.predict_action_chunk(make_batch(), noise=make_noise(), **call)
        assert_quality(got, want, pcc=0.999, rel_rmse=0.05)

    def test_padding_is_absent(self, on_board):
        """Of two rows that differ, to the bit: what is padded is what is not there."""
        left_over = randn(2, 10, ACTION_DIM)
        left_over[0, 3:], left_over[1, 8:] = 0.0, 0.0
        enable(on_board)
        call = {"num_steps": 2, "inference_delay": 2}
        got = on_board.predict_action_chunk(make_batch(), noise=make_noise(), prev_chunk_left_over=left_over, **call)
        for row, length in enumerate((3, 8)):
            rest = left_over[row, :length]
            want = on_board.predict_action_chunk(make_batch(), noise=make_noise(), prev_chunk_left_over=rest, **call)
            assert torch.equal(got[row], want[row])

    def test_without_weight_it_is_plain(self, on_board):
        enable(on_board, prefix_attention_schedule=RTCAttentionSchedule.ZEROS)
        call = {"prev_chunk_left_over": randn(25, ACTION_DIM), "inference_delay": 0}
        got = on_board.predict_action_chunk(make_batch(), noise=make_noise(), num_steps=3, **call)
        assert torch.equal(got, on_board.predict_action_chunk(make_batch(), noise=make_noise(), num_steps=3))

    def test_the_loop_is_float32(self, tt_model, inputs, monkeypatch):
        """A model whose velocity is 0 leaves the guidance alone: with a bfloat16 prefix it would be off by 4e-3."""
        model = tt_model("accurate")
        velocity = model.suffix_embedding.velocity
        monkeypatch.setattr(model.suffix_embedding, "velocity", lambda expert_output: 0.0 * velocity(expert_output))
        guidance = Guidance(randn(1, 50, 32), prefix_weights("EXP", 4, 40, 50)[:, None], 10.0)
        got = model.sample_actions(**only_row(inputs, 0), noise=make_noise(1), num_steps=10, guidance=guidance)
        want = integrate(lambda x, step: torch.zeros_like(x), make_noise(1), 10, guidance)
        torch.testing.assert_close(got, want, rtol=0, atol=2e-6)

    @pytest.mark.parametrize("num_steps", [2, 3])
    def test_transfers_and_operations(self, board, tt_model, inputs, num_steps):
        """Two more uploads for each row, however many steps there are; six more operations for each step of each row."""
        model, guidance = tt_model("accurate"), Guidance(randn(2, 50, 32), torch.ones(50, 1), 10.0)
        counts = []
        for guided_by in (None, guidance):
            model.sample_actions(**inputs, noise=make_noise(), num_steps=num_steps, guidance=guided_by)
            with board.record() as counted:
                model.sample_actions(**inputs, noise=make_noise(), num_steps=num_steps, guidance=guided_by)
            counts.append(counted)
        plain, with_guidance = counts
        per_row = model.describe()["transfers"]["uploads_per_pass"]
        assert plain.uploads.count == per_row * 2
        assert with_guidance.uploads.count == (per_row + 2) * 2
        assert with_guidance.readbacks.count == 1
        assert with_guidance.operations.total() - plain.operations.total() == 6 * num_steps * 2

    def test_rows_are_apart(self, tt_model, inputs):
        model, guidance = tt_model("accurate"), Guidance(randn(2, 50, 32), torch.ones(50, 1), 10.0)
        both = model.sample_actions(**inputs, noise=make_noise(), num_steps=2, guidance=guidance)
        for row in range(2):
            pick = slice(row, row + 1)
            alone = model.sample_actions(
                **only_row(inputs, row),
                noise=make_noise()[pick],
                num_steps=2,
                guidance=Guidance(guidance.prefix[pick], guidance.weights, guidance.max_gain),
            )
            assert torch.equal(alone[0], both[row])


def test_sizes_that_are_no_whole_tiles(board):
    """The weights of the padding are 0 and its columns are read by nobody."""
    from dataclasses import replace

    from lerobot_pi0_ttnn.device.executor import PI0ModelTTNN
    from lerobot_pi0_ttnn.reference import PI0ModelTorch
    from tests.parity.tt import random_inputs, random_weights

    config = replace(TINY, action_dim=7, horizon=33)
    weights, inputs, noise = random_weights(config), random_inputs(config, 1, 7), randn(1, 33, 7)
    call = {"num_steps": 3, "guidance": Guidance(randn(1, 33, 7, seed=6), torch.ones(33, 1), 10.0)}
    got = PI0ModelTTNN(config, weights, board.device, precision="accurate").sample_actions(
        **inputs, noise=noise, **call
    )
    want = PI0ModelTorch(config, weights).sample_actions(**inputs, noise=noise, **call)
    assert_quality(got, want, pcc=0.9999, rel_rmse=0.01)
