"""pi0.5 in the PyTorch twin against LeRobot's own `PI05Policy` with the same weights, in float32: parts, then the whole."""

import dataclasses
import functools

import pytest
import torch
from lerobot.policies.common.vla_utils import prepare_attention_masks_4d
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from lerobot.policies.pi05.modeling_pi05 import PI05Policy, PI05Pytorch
from torch import Tensor

from lerobot_pi0_ttnn.model.config import PI05_BASE, TINY, TINY_PI05
from lerobot_pi0_ttnn.model.observation import Observation
from lerobot_pi0_ttnn.model.tensors import expected_shapes
from lerobot_pi0_ttnn.reference import PI0ModelTorch
from lerobot_pi0_ttnn.reference.gemma import KeyValueCache, TokenBlock, rotary_tables
from lerobot_pi0_ttnn.reference.layers import RMSNorm
from lerobot_pi0_ttnn.reference.paligemma import make_context

from ..oracle import (
    ACTION_DIM,
    CAMERAS,
    LeRobotPrefix,
    ModelInputs,
    lerobot_prefill,
    make_batch,
    make_lerobot_policy,
    make_noise,
    model_inputs,
    state_dict,
)
from ..quality import assert_quality

# As for pi0: both sides are float32 and differ by the order of their sums.
assert_near = functools.partial(torch.testing.assert_close, rtol=0.0, atol=1e-5)

FRONT, WRIST, SIDE = CAMERAS
TIMES = pytest.mark.parametrize("time", [1.0, 0.5, 0.1])


@pytest.fixture(scope="module")
def policy() -> PI05Policy:
    return make_lerobot_policy(model=TINY_PI05).requires_grad_(False)


@pytest.fixture(scope="module")
def twin(policy) -> PI0ModelTorch:
    return PI0ModelTorch(TINY_PI05, state_dict(policy))


@pytest.fixture(scope="module")
def inputs(policy) -> ModelInputs:
    """Prompts of 10 and 23 of 48 tokens, the first camera in one row, the last in none."""
    masks = [[True, False], [True, True], [False, False]]
    return {**model_inputs(policy, make_batch(cameras=CAMERAS)), "img_masks": [torch.tensor(mask) for mask in masks]}


@pytest.fixture(scope="module")
def lerobot_prefix(policy, inputs) -> LeRobotPrefix:
    return lerobot_prefill(policy, inputs)


def timestep(time: float) -> Tensor:
    return torch.tensor(time).expand(2)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def lerobot_actions(policy: PI05Policy, inputs: ModelInputs, noise: Tensor) -> Tensor:
    images, masks = inputs["images"], inputs["img_masks"]
    return policy.model.sample_actions(images, masks, inputs["lang_tokens"], inputs["lang_masks"], noise=noise)


class TestConfig:
    def test_tensors_are_the_tiny_policys(self, policy):
        assert expected_shapes(TINY_PI05) == {name: tuple(t.shape) for name, t in state_dict(policy).items()}

    def test_tensors_are_pi05_bases(self):
        with torch.device("meta"):
            lerobot = PI05Pytorch(PI05Config(device="cpu"))
        assert expected_shapes(PI05_BASE) == {name: tuple(t.shape) for name, t in state_dict(lerobot).items()}

    def test_a_pi0_model_is_rejected(self, policy):
        pi0 = {name: torch.empty(shape, device="meta") for name, shape in expected_shapes(TINY).items()}
        with pytest.raises(ValueError, match=r"not a complete pi0\.5 model(.|\n)*missing time_mlp_in\.bias") as error:
            PI0ModelTorch(TINY_PI05, pi0)
        assert "unexpected state_proj.weight: (64, 32)" in str(error.value)
        with pytest.raises(ValueError, match=r"not a complete pi0 model(.|\n)*unexpected time_mlp_in\.bias"):
            PI0ModelTorch(TINY, state_dict(policy))

    def test_what_is_computed_once_cannot_depend_on_the_time(self):
        with pytest.raises(ValueError, match=r"state_dim: expected 0 .* got 32"):
            dataclasses.replace(TINY_PI05, state_dim=32)
        with pytest.raises(ValueError, match=r"vlm\.adaptive_norms: expected False"):
            dataclasses.replace(TINY_PI05, vlm=dataclasses.replace(TINY.vlm, adaptive_norms=True))

    def test_a_state_is_rejected(self, twin, inputs):
        with pytest.raises(ValueError, match=r"state: expected \(B, 0\), got \(2, 32\)"):
            twin.sample_actions(**{**inputs, "state": torch.zeros(2, 32)})


class TestParts:
    @TIMES
    def test_suffix(self, policy, twin, time):
        x_t = make_noise()
        actions, *_, conditions = policy.model.embed_suffix(x_t, timestep(time))
        assert_near(twin.suffix_embedding.embed_actions(x_t, None), actions)
        assert_near(twin.suffix_embedding.time_conditions([time]).expand(2, -1), conditions)

    # Where the mean square is as small as epsilon, epsilon shows.
    @pytest.mark.parametrize("scale", [1.0, 1e-3])
    @pytest.mark.parametrize("name", ["input_layernorm", "post_attention_layernorm", "last"])
    def test_adaptive_norm(self, policy, twin, name, scale):
        expert = policy.model.paligemma_with_expert.gemma_expert.model
        theirs = expert.norm if name == "last" else getattr(expert.layers[1], name)
        ours = twin.backbone.expert_norm if name == "last" else getattr(twin.backbone.expert_layers[1], name)
        x, conditions = random(2, 7, TINY.expert.width) * scale, random(3, TINY.expert.width)
        for condition, modulation in zip(conditions, ours.modulations(conditions), strict=True):
            want, gate = theirs(x, cond=condition.expand(2, -1))
            assert_near(ours(x, modulation), want)
            assert_near(modulation.gate.expand(2, 1, -1), gate)

    def test_expert_block(self, policy, twin):
        expert, config = policy.model.paligemma_with_expert.gemma_expert.model, TINY_PI05.expert
        expert.config._attn_implementation = "eager"
        x, places = random(2, 50, config.width), torch.arange(50).expand(2, -1)
        conditions, ours = twin.suffix_embedding.time_conditions([1.0, 0.5, 0.1]), twin.backbone.expert_layers[1]
        for condition, modulations in zip(conditions, ours.modulations(conditions), strict=True):
            block = TokenBlock(0, rotary_tables(places, config))
            got = ours(x, block, KeyValueCache(2, 50, config, torch.float32), modulations)
            want = expert.layers[1](
                x,
                attention_mask=prepare_attention_masks_4d(torch.ones(2, 50, 50, dtype=torch.bool)),
                position_embeddings=expert.rotary_emb(x, places),
                adarms_cond=condition.expand(2, -1),
            )
            assert_near(got, want)

    @TIMES
    def test_velocity(self, policy, twin, inputs, lerobot_prefix, time):
        observation, x_t = Observation(**inputs), make_noise()
        context = make_context(observation, TINY_PI05)
        assert [block.end - block.start for block in context.blocks] == [2 * 256 + 23, 50]
        prefix = twin.prefill(twin.embed_prefix(observation, context), observation, context)
        want = policy.model.denoise_step(lerobot_prefix.is_real, lerobot_prefix.cache, x_t, timestep(time))
        (step,) = twin.steps([time])
        assert_near(twin.velocity(x_t, step, prefix), want)


class TestWhole:
    """Ten steps, from the batch that LeRobot's preprocessor hands over to its actions."""

    @pytest.mark.parametrize(
        "batch",
        [
            pytest.param({}, id="first-camera-absent-prompts-unlike"),
            pytest.param({"cameras": (FRONT, SIDE)}, id="middle-camera-absent"),
            pytest.param({"cameras": CAMERAS, "lengths": (48,)}, id="no-padding"),
            pytest.param({"batch": 3, "lengths": (10, 48, 1)}, id="batch-3"),
            pytest.param({"batch": 1, "lengths": (150,), "max_length": 200}, id="batch-1-prompt-of-150-of-200"),
        ],
    )
    def test_actions(self, policy, twin, batch):
        batch = make_batch(**batch)
        noise = make_noise(len(batch["observation.state"]))
        want = policy.predict_action_chunk(batch, noise=noise, num_steps=10)
        got = twin.sample_actions(**model_inputs(policy, batch), noise=noise, num_steps=10)
        assert_near(got[:, :, :ACTION_DIM], want)

    def test_cameras_by_mask(self, policy, twin, inputs):
        noise = make_noise()
        assert_near(twin.sample_actions(**inputs, noise=noise), lerobot_actions(policy, inputs, noise))

    def test_modulations_are_made_once_for_the_schedule(self, twin, inputs, monkeypatch):
        steps, modulations = [], RMSNorm.modulations

        def count(norm, conditions):
            steps.append(len(conditions))
            return modulations(norm, conditions)

        monkeypatch.setattr(RMSNorm, "modulations", count)
        twin.sample_actions(**inputs)
        assert steps == [10] * (2 * TINY.expert.depth + 1)

    def test_bfloat16(self, policy, inputs):
        noise = make_noise()
        got = PI0ModelTorch(TINY_PI05, state_dict(policy), dtype=torch.bfloat16).sample_actions(**inputs, noise=noise)
        want = lerobot_actions(policy, inputs, noise)
        assert got.dtype == torch.float32
        assert_quality(got, want, pcc=0.999, rel_rmse=0.05)
        assert (got - want).abs().max() > 1e-3  # it did run in bfloat16
