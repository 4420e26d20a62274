"""Each part of the twin against LeRobot's own module with the same weights, in float32."""

import functools
from dataclasses import replace

import lerobot.policies.pi0.modeling_pi0 as lerobot_pi0
import pytest
import torch
from lerobot.policies.common.vla_utils import clone_past_key_values
from torch import Tensor

from lerobot_pi0_ttnn.model.config import TINY
from lerobot_pi0_ttnn.model.observation import Observation
from lerobot_pi0_ttnn.reference import PI0ModelTorch
from lerobot_pi0_ttnn.reference.paligemma import Context, Prefix, make_context, token_blocks

from ..oracle import LeRobotPrefix, ModelInputs, lerobot_prefill, make_noise
from .layers import gemma_layer, run_on_prefix, run_on_suffix

# Both sides are float32 and differ by the order of their sums: 3e-6 at most was seen.
assert_near = functools.partial(torch.testing.assert_close, rtol=0.0, atol=1e-5)

TIMES = pytest.mark.parametrize("time", [1.0, 0.5, 0.1])


@pytest.fixture(scope="module")
def both(policy):
    """LeRobot's two transformers and its vision tower."""
    return policy.model.paligemma_with_expert


@pytest.fixture(scope="module")
def lerobot_prefix(policy, inputs) -> LeRobotPrefix:
    return lerobot_prefill(policy, inputs)


@pytest.fixture(scope="module", params=["elided", "masked"])
def prefix(request, twin, inputs, lerobot_prefix) -> Prefix:
    """Our prefix with the state's token beside it; `masked` keeps all padding, as LeRobot does, `elided` is what we run."""
    observation = Observation(**inputs)
    embeddings, context = embed_prefix(twin, inputs)
    if request.param == "masked":
        embeddings, is_real = lerobot_prefix.embeddings, lerobot_prefix.is_real
        context = replace(context, is_real=is_real, blocks=token_blocks(is_real, TINY))
    return twin.prefill(embeddings, observation, context)


def embed_prefix(twin: PI0ModelTorch, inputs: ModelInputs) -> tuple[Tensor, Context]:
    observation = Observation(**inputs)
    context = make_context(observation, TINY)
    return twin.backbone.embed_prefix(observation, context), context


def embed_suffix(twin: PI0ModelTorch, x_t: Tensor, time: float, state: Tensor | None) -> Tensor:
    return twin.suffix_embedding.embed_suffix(x_t, twin.suffix_embedding.time_bias([time])[0], state)


def velocity(twin: PI0ModelTorch, prefix: Prefix, x_t: Tensor, time: float) -> Tensor:
    return twin.suffix_embedding.velocity(
        twin.backbone.forward_suffix(embed_suffix(twin, x_t, time, prefix.state), prefix)
    )


def timestep(time: float) -> Tensor:
    return torch.tensor(time).expand(2)


def by_token(cached: Tensor) -> Tensor:
    """(B, K, S, H) as (B, S, K, H), to be indexed by the mask of real tokens."""
    return cached.transpose(1, 2)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


class TestVision:
    def test_tower(self, both, twin, inputs):
        images = torch.cat(inputs["images"])
        want = both.paligemma.model.vision_tower(images).last_hidden_state
        assert_near(twin.backbone.vision_tower(images), want)

    def test_projector(self, both, twin):
        features = random(2, 256, TINY.vision.hidden_size)
        want = both.paligemma.model.multi_modal_projector(features)
        assert_near(twin.backbone.multi_modal_projector(features), want)

    # Where the variance is as small as epsilon, epsilon shows.
    @pytest.mark.parametrize("scale", [1.0, 1e-3])
    @pytest.mark.parametrize("name", ["layer_norm1", "layer_norm2"])
    def test_layer_norm(self, both, twin, name, scale):
        theirs = both.paligemma.model.vision_tower.vision_model.encoder.layers[0]
        x = random(2, 5, TINY.vision.hidden_size) * scale
        assert_near(getattr(twin.backbone.vision_tower.layers[0], name)(x), getattr(theirs, name)(x))

    def test_last_norm(self, both, twin):
        x = random(2, 5, TINY.vision.hidden_size) * 1e-3
        want = both.paligemma.model.vision_tower.vision_model.post_layernorm(x)
        assert_near(twin.backbone.vision_tower.post_layernorm(x), want)


class TestGemma:
    @pytest.mark.parametrize("part", ["attention", "block"])
    @pytest.mark.parametrize("name", ["vlm", "expert"])
    def test_on_a_padded_prefix(self, policy, name, part):
        got, want = run_on_prefix(gemma_layer(policy, TINY, name), part)
        assert_near(got, want)

    @pytest.mark.parametrize("part", ["attention", "block"])
    @pytest.mark.parametrize("name", ["vlm", "expert"])
    def test_on_a_suffix(self, policy, name, part):
        got, want = run_on_suffix(gemma_layer(policy, TINY, name), part)
        assert_near(got, want)

    @pytest.mark.parametrize("name", ["vlm", "expert"])
    def test_mlp(self, policy, name):
        layer = gemma_layer(policy, TINY, name)
        x = random(2, 7, layer.config.width)
        assert_near(layer.ours.mlp(x), layer.theirs.mlp(x))

    @pytest.mark.parametrize("scale", [1.0, 1e-3])
    @pytest.mark.parametrize("name", ["vlm", "expert"])
    def test_rms_norm(self, policy, name, scale):
        layer = gemma_layer(policy, TINY, name)
        x = random(2, 7, layer.config.width) * scale
        want, _ = layer.theirs.input_layernorm(x)
        assert_near(layer.ours.input_layernorm(x), want)

    def test_last_norm_of_the_expert(self, both, twin):
        x = random(2, 7, TINY.expert.width) * 1e-3
        want, _ = both.gemma_expert.model.norm(x)
        assert_near(twin.backbone.expert_norm(x), want)


class TestPrefix:
    def test_language_is_scaled_once(self, both, twin, inputs):
        tokens = inputs["lang_tokens"]
        want = both.embed_language_tokens(tokens)
        assert_near(twin.backbone.embed_language(tokens), want)
        table = both.paligemma.model.language_model.embed_tokens.weight
        assert_near(want, table[tokens] * 128**0.5)

    def test_embedding_is_lerobots_at_real_tokens(self, twin, inputs, lerobot_prefix):
        embeddings, context = embed_prefix(twin, inputs)
        assert_near(embeddings[context.is_real], lerobot_prefix.embeddings[lerobot_prefix.is_real])

    def test_what_no_row_has_is_left_out(self, twin, inputs, lerobot_prefix):
        embeddings, context = embed_prefix(twin, inputs)
        assert lerobot_prefix.is_real.shape == (2, 3 * 256 + 48)
        assert embeddings.shape == (2, 2 * 256 + 23, 128)
        want = torch.tensor([[1] * 512 + [1] * 10 + [0] * 13, [0] * 256 + [1] * 256 + [1] * 23], dtype=torch.bool)
        assert torch.equal(context.is_real, want)

    def test_cache_is_lerobots_in_every_layer(self, prefix, lerobot_prefix, inputs, twin):
        length = prefix.suffix.start
        real = lerobot_prefix.is_real if length == 816 else embed_prefix(twin, inputs)[1].is_real
        assert len(prefix.caches) == TINY.vlm.depth
        for ours, (keys, values, _) in zip(prefix.caches, lerobot_prefix.cache, strict=True):
            for got, want in ((ours.keys, keys), (ours.values, values)):
                assert_near(by_token(got)[:, :length][real], by_token(want)[lerobot_prefix.is_real])


class TestSuffix:
    @TIMES
    def test_embedding(self, policy, twin, inputs, time):
        x_t = make_noise()
        want, *_ = policy.model.embed_suffix(inputs["state"], x_t, timestep(time))
        state = twin.suffix_embedding.embed_state(inputs["state"])
        assert_near(embed_suffix(twin, x_t, time, state), want)

    def test_output_projection(self, policy, twin):
        x = random(2, 51, TINY.expert.width)
        assert_near(twin.suffix_embedding.velocity(x), policy.model.action_out_proj(x[:, -50:]))

    @TIMES
    def test_velocity(self, policy, twin, prefix, inputs, lerobot_prefix, time):
        x_t = make_noise()
        want = policy.model.denoise_step(
            inputs["state"], lerobot_prefix.is_real, lerobot_prefix.cache, x_t, timestep(time)
        )
        assert_near(velocity(twin, prefix, x_t, time), want)

    @pytest.mark.parametrize(("time", "seed"), [(1.0, 3), (0.5, 3), (0.5, 4)])
    def test_keys_and_values(self, policy, twin, prefix, inputs, lerobot_prefix, monkeypatch, time, seed):
        # LeRobot's step fills a clone of the cache and drops it: it is given the clone and made to keep it.
        cache = clone_past_key_values(lerobot_prefix.cache)
        monkeypatch.setattr(lerobot_pi0, "clone_past_key_values", lambda cache: cache)
        x_t = make_noise(seed=seed)
        policy.model.denoise_step(inputs["state"], lerobot_prefix.is_real, cache, x_t, timestep(time))
        velocity(twin, prefix, x_t, time)
        for ours, (keys, values, _) in zip(prefix.caches, cache, strict=True):
            for got, want in ((ours.keys, keys), (ours.values, values)):
                assert_near(got[:, :, prefix.suffix.start :], want[:, :, lerobot_prefix.is_real.shape[1] :])

    def test_steps_leave_prefix_and_state_alone(self, twin, prefix):
        first = velocity(twin, prefix, make_noise(), 1.0)
        actions = prefix.suffix.start + 1
        before = [cache.keys[:, :, :actions].clone() for cache in prefix.caches]
        velocity(twin, prefix, make_noise(seed=4), 0.5)
        for cache, keys in zip(prefix.caches, before, strict=True):
            assert torch.equal(cache.keys[:, :, :actions], keys)
        assert torch.equal(velocity(twin, prefix, make_noise(), 1.0), first)

    def test_cached_is_uncached(self, policy, twin, prefix, inputs):
        """LeRobot's training pass has no cache: it runs prefix and suffix together through both transformers."""
        time, noise, actions = 0.3, make_noise(), make_noise(seed=4)
        kept = []
        hook = policy.model.action_out_proj.register_forward_hook(lambda module, args, out: kept.append(out))
        policy.model.forward(**inputs, noise=noise, actions=actions, time=timestep(time))
        hook.remove()
        x_t = time * noise + (1 - time) * actions
        assert_near(velocity(twin, prefix, x_t, time), kept[0])
