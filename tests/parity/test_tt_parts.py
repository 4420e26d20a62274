"""Each part of the TTNN twin against its float32 twin in PyTorch, with the same weights and inputs.

Activations are bfloat16 in both presets, which costs 2e-3 each time they are rounded; `balanced` adds weights in
bfloat8_b, 7e-3 for a matmul. The suffix is float32, which the matrix engine multiplies as TF32: 1e-3 on real kernels,
nothing on an emulated board, which is held to float32's own rounding. Other limits are near twice what was measured.
"""

from dataclasses import dataclass, replace

import pytest
import torch

ttnn = pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

from lerobot_pi0_ttnn.device.executor import PI0ModelTTNN  # noqa: E402
from lerobot_pi0_ttnn.device.uploads import cache_length  # noqa: E402
from lerobot_pi0_ttnn.model.config import TINY  # noqa: E402
from lerobot_pi0_ttnn.model.flow import schedule  # noqa: E402
from lerobot_pi0_ttnn.model.observation import Observation  # noqa: E402
from lerobot_pi0_ttnn.model.tensors import Weights  # noqa: E402
from lerobot_pi0_ttnn.reference import PI0ModelTorch  # noqa: E402
from lerobot_pi0_ttnn.reference.gemma import (  # noqa: E402
    GemmaMLPTorch,
    KeyValueCache,
)
from lerobot_pi0_ttnn.reference.paligemma import Context as TorchContext  # noqa: E402
from lerobot_pi0_ttnn.reference.paligemma import Prefix as TorchPrefix  # noqa: E402
from lerobot_pi0_ttnn.reference.paligemma import make_context  # noqa: E402
from lerobot_pi0_ttnn.reference.siglip import SigLIPMLPTorch  # noqa: E402
from lerobot_pi0_ttnn.tt.gemma import GemmaMLPTTNN  # noqa: E402
from lerobot_pi0_ttnn.tt.gemma import KeyValueCache as DeviceCache  # noqa: E402
from lerobot_pi0_ttnn.tt.layers import LayerNorm, RMSNorm  # noqa: E402
from lerobot_pi0_ttnn.tt.paligemma import Prefix  # noqa: E402
from lerobot_pi0_ttnn.tt.siglip import SigLIPMLPTTNN, patch_rows  # noqa: E402
from lerobot_pi0_ttnn.tt.weights import DeviceWeights  # noqa: E402

from ..oracle import make_noise, only_row  # noqa: E402
from ..quality import assert_quality  # noqa: E402
from .tt import Row, actions_of, down, store, tokens_of, up, up_to_expert, upload_row  # noqa: E402

ROW = 1
"""The row with one camera and 23 tokens: 9 rows of padding in its last tile."""

SUFFIX = TINY.suffix_tokens


@dataclass(frozen=True)
class Case:
    """One row of the awkward batch in both twins, the prefix computed by each of them."""

    precision: str
    kind: str
    tt: PI0ModelTTNN
    torch: PI0ModelTorch
    row: Row
    noise: torch.Tensor
    embeddings: torch.Tensor
    context: TorchContext

    def limit(self, accurate: float, balanced: float) -> dict[str, float]:
        """The relative RMSE for this precision, and the PCC that an unbiased error of that size leaves."""
        error = {"accurate": accurate, "balanced": balanced}[self.precision]
        return {"pcc": 1 - error**2, "rel_rmse": error}

    def float32_limit(self) -> dict[str, float]:
        """As `limit`, for what is float32 throughout: sums rounded to 24 bits on an emulated board, TF32 in a matrix engine."""
        error = 1e-5 if self.kind == "emulated" else 4e-3
        return {"pcc": 1 - error**2 - 1e-9, "rel_rmse": error}

    @property
    def prefix_tokens(self) -> int:
        return self.embeddings.shape[1]

    def torch_prefix(self) -> TorchPrefix:
        return self.torch.backbone.prefill(self.embeddings, self.context)

    def tt_prefix(self) -> Prefix:
        """The twin's own prefix, put on the device: parts after it answer for their own errors only."""
        prefix = self.torch_prefix()
        caches = self.row.context.caches
        for cache, source in zip(caches, prefix.caches, strict=True):
            keys, values = (x[:, :, : self.prefix_tokens] for x in (source.keys, source.values))
            store(cache, *(self.up_heads(x) for x in (keys, values)), 0)
        return Prefix(caches, self.row.context.blocks[-1])

    def up_heads(self, x: torch.Tensor):
        return up(self.tt, x[0, 0], ttnn.bfloat16)


@pytest.fixture(scope="module", params=["accurate", "balanced"])
def case(request, board, tt_model, twin, inputs) -> Case:
    tt, noise = tt_model(request.param), make_noise()
    one = Observation(**only_row(inputs, ROW))
    context = make_context(one, TINY)
    embeddings = twin.backbone.embed_prefix(one, context)
    return Case(
        request.param, board.kind, tt, twin, upload_row(tt, inputs, ROW, noise), noise[ROW], embeddings, context
    )


def random(*shape: int, seed: int = 5) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class TestVision:
    def test_tower(self, case):
        # Two cameras at a time: attention across them would show.
        images = random(2, 3, 224, 224).clamp(-1, 1)
        norm = case.tt.backbone.vision_tower.post_layernorm.modulation
        pixels = ttnn.from_torch(
            patch_rows(images, TINY.vision),
            dtype=ttnn.bfloat16,
            layout=ttnn.ROW_MAJOR_LAYOUT,
            device=case.tt.chips[0].device,
        )
        got = ttnn.to_torch(case.tt.backbone.vision_tower(pixels)).float()[:, 0] * norm.scale + norm.shift
        assert_quality(got, case.torch.backbone.vision_tower(images), **case.limit(0.012, 0.02))

    def test_projector(self, case):
        features = random(256, TINY.vision.hidden_size)
        norm = case.torch.backbone.vision_tower.post_layernorm
        got = down(case.tt.backbone.multi_modal_projector(up(case.tt, features, ttnn.bfloat16)), 256)
        want = case.torch.backbone.multi_modal_projector(features * norm.weight + norm.bias)
        assert_quality(got, want, **case.limit(0.006, 0.015))

    def test_patches_are_in_the_order_of_the_weight(self):
        images = random(2, 3, 224, 224)
        weight = random(8, 3, 14, 14)
        rounded = images.bfloat16().float()
        want = torch.nn.functional.conv2d(rounded, weight, stride=14).flatten(2).transpose(1, 2)
        rows = patch_rows(images, TINY.vision)[:, 0]
        assert rows.shape == (2, 256, 608)
        assert rows.dtype == torch.bfloat16
        assert torch.equal(rows[..., :588].float(), torch.nn.functional.unfold(rounded, 14, stride=14).transpose(1, 2))
        torch.testing.assert_close(rows[..., :588].float() @ weight.flatten(1).T, want, rtol=0, atol=1e-4)
        assert not rows[..., 588:].any()


class TestPrefix:
    def test_language(self, case, inputs):
        tokens = inputs["lang_tokens"][ROW][inputs["lang_masks"][ROW]]
        got = down(case.row.context.language, len(tokens))
        # Rounded when stored and when scaled.
        assert_quality(got, case.torch.backbone.embed_language(tokens), **case.limit(0.005, 0.005))

    def test_embeddings(self, case):
        got = down(case.tt.backbone.embed_prefix(case.row.inputs, case.row.context), case.prefix_tokens)
        assert_quality(got, case.embeddings[0], **case.limit(0.012, 0.025))

    def test_keys_and_values(self, case):
        embeddings = up(case.tt, case.embeddings[0], case.tt.precision.vlm.stream)
        got = case.tt.backbone.prefill(embeddings, case.row.context).caches
        want = case.torch_prefix().caches
        for layer, (ours, theirs) in enumerate(zip(got, want, strict=True)):
            for name in ("keys", "values"):
                length = case.prefix_tokens
                assert_quality(
                    tokens_of(getattr(ours, name), 0, length),
                    getattr(theirs, name)[0, 0, :length],
                    **(case.limit(0.008, 0.015) if layer == 0 else case.limit(0.018, 0.04)),
                )


@pytest.fixture(params=["vlm", "expert"])
def layers(request, case):
    """One layer of a transformer in both twins, its sizes, and what puts a stream where its own is kept."""
    config = getattr(TINY, request.param)
    tt = getattr(case.tt.backbone, f"{request.param}_layers")[0]
    reference = getattr(case.torch.backbone, f"{request.param}_layers")[0]
    dtype, put = getattr(case.tt.precision, request.param).stream, {"vlm": up, "expert": up_to_expert}[request.param]
    return config, tt, reference, lambda x: put(case.tt, x, dtype)


class TestGemma:
    """A layer on the tokens of the prefix, attending to them and hiding the padding of the last tile."""

    def test_attention(self, case, layers):
        config, tt, reference, stream = layers
        branch = self.alone(tt.self_attn)
        got, want = self.run(case, config, stream, branch, reference.self_attn, reference.input_layernorm.scale)
        assert_quality(got, want, **case.limit(0.012, 0.025))

    def test_block(self, case, layers):
        config, tt, reference, stream = layers
        got, want = self.run(case, config, stream, tt, reference, 1.0)
        assert_quality(got, want, **case.limit(0.01, 0.02))

    def test_mlp(self, case, layers):
        config, tt, reference, stream = layers
        x = random(64, config.width)
        got = down(self.alone(tt.mlp)(stream(x)), 64)
        want = reference.mlp(x * reference.post_attention_layernorm.scale)
        assert_quality(got, want, **case.limit(0.01, 0.025))

    @staticmethod
    def alone(branch):
        """A branch without what it is added to."""
        return lambda x, *given: branch(ttnn.multiply(x, 0.0), x, *given)

    def run(self, case, config, stream, tt, reference, scale):
        length = case.prefix_tokens
        x = random(length, config.width)
        cache = KeyValueCache(1, length, config, torch.float32)
        want = reference((x * scale)[None], case.context.blocks[0], cache)[0]
        length_there = cache_length(case.row.context.layout)
        device_cache = DeviceCache(length_there, config, case.tt.precision.cache, case.tt.chips[0].device)
        got = tt(stream(x), case.row.context.blocks[0], device_cache)
        return down(got, length), want


class TestGelu:
    """At -3 the two forms of GELU differ by 10 %, and the fast table gives 0; near 0 bfloat16 would hide it."""

    GATES = torch.linspace(-4.0, -2.0, 64)

    def test_siglip(self, case):
        width = 32
        weights = {
            "norm.weight": torch.ones(width),
            "norm.bias": torch.zeros(width),
            "fc1.weight": torch.zeros(64, width),
            "fc1.bias": self.GATES.bfloat16().float(),
            "fc2.weight": torch.eye(width, 64) + torch.eye(width, 64).flip(1),
            "fc2.bias": torch.zeros(width),
        }
        on_device = DeviceWeights(Weights(weights), case.tt.chips[0].device)
        norm = LayerNorm(on_device.at("norm"), 1e-6, case.tt.precision.vision)
        sizes = replace(TINY.vision, hidden_size=width, intermediate_size=64)
        got = SigLIPMLPTTNN(sizes, on_device, norm, case.tt.precision.vision)
        x = random(32, width)
        want = SigLIPMLPTorch(Weights(weights), torch.float32)(x)
        assert_quality(down(got(up(case.tt, x, ttnn.bfloat16)), 32), want, **case.limit(0.01, 0.02))

    @pytest.mark.parametrize("put", [up, up_to_expert])
    def test_gemma(self, case, put):
        width = 32
        weights = {
            "norm.weight": torch.zeros(width),
            "gate_proj.weight": (self.GATES[:, None] / width).expand(64, width).bfloat16().float(),
            "up_proj.weight": torch.full((64, width), 1 / width),
            "down_proj.weight": torch.eye(width, 64) + torch.eye(width, 64).flip(1),
        }
        on_device = DeviceWeights(Weights(weights), case.tt.chips[0].device)
        norm = RMSNorm(on_device.at("norm"), 1e-6, case.tt.precision.vlm)
        got = GemmaMLPTTNN(on_device, norm, case.tt.precision.vlm)
        x = torch.ones(32, width)
        want = GemmaMLPTorch(Weights(weights), torch.float32)(x)
        on_board = put(case.tt, x, ttnn.bfloat16)
        assert_quality(down(got(ttnn.multiply(on_board, 0.0), on_board), 32), want, **case.limit(0.02, 0.04))


class TestSuffix:
    def test_state_embedding(self, case, inputs):
        got = down(case.tt.suffix_embedding.embed_state(case.row.inputs.proprioception), 1)
        want = case.torch.suffix_embedding.embed_state(inputs["state"][ROW : ROW + 1])[0]
        assert_quality(got, want, **case.float32_limit())

    @pytest.mark.parametrize("step", [0, 1, 9])
    def test_action_embedding(self, case, step):
        times = schedule(10)
        got = case.tt.suffix_embedding.embed_actions(
            case.row.inputs.noise, case.tt.suffix_embedding.time_bias(times)[step]
        )
        want = case.torch.suffix_embedding.embed_actions(case.noise, case.torch.suffix_embedding.time_bias(times)[step])
        # A time that was rounded to bfloat16 would show as 0.3.
        assert_quality(down(got, SUFFIX)[1:], want, **case.float32_limit())

    def test_each_token_of_the_suffix_is_in_its_row(self, case):
        """To the bit: what is in the rows of other tokens, NaN included, comes through in none."""
        suffix, rows = case.tt.suffix_embedding, random(SUFFIX, TINY.action_dim)
        (bias,) = suffix.time_bias([0.5])
        tokens = random(SUFFIX, TINY.expert.width, seed=7)
        tokens[1:] = float("nan")
        got = suffix.embed_suffix(up(case.tt, rows), bias, up_to_expert(case.tt, tokens), case.row.context.is_action)
        assert got.memory_config() == up_to_expert(case.tt, tokens).memory_config()
        assert torch.equal(down(got, 1), tokens[:1])
        assert torch.equal(down(got, SUFFIX)[1:], down(suffix.embed_actions(up(case.tt, rows), bias), SUFFIX)[1:])

    def test_velocity(self, case):
        x = random(SUFFIX, TINY.expert.width)
        got = actions_of(case.tt, case.tt.suffix_embedding.velocity(up_to_expert(case.tt, x)))
        want = case.torch.suffix_embedding.velocity(x[None] * case.torch.backbone.expert_norm.scale)[0]
        assert_quality(got, want, **case.float32_limit())

    def test_forward_suffix(self, case):
        """The expert on state and actions, after the same prefix, and what both leave in each layer's cache."""
        suffix = random(SUFFIX, TINY.expert.width, seed=6)
        want_prefix, got_prefix = case.torch_prefix(), case.tt_prefix()
        want = case.torch.backbone.forward_suffix(suffix[None], want_prefix)[0]
        got = down(case.tt.backbone.forward_suffix(up_to_expert(case.tt, suffix), got_prefix), SUFFIX)
        assert_quality(got * case.torch.backbone.expert_norm.scale, want, **case.limit(0.01, 0.025))
        for ours, theirs in zip(got_prefix.caches, want_prefix.caches, strict=True):
            for name in ("keys", "values"):
                kept = tokens_of(getattr(ours, name), got_prefix.suffix.start, SUFFIX)
                assert_quality(kept, getattr(theirs, name)[0, 0, case.prefix_tokens :], **case.limit(0.01, 0.03))


def test_rotary_tables_count_real_tokens(case):
    """The suffix goes on from the number of real prefix tokens, not from where its rows lie."""
    block, want = case.row.context.blocks[-1], case.context.blocks[-1]
    cos, sin = want.rotary.cos[0, 0], want.rotary.sin[0, 0]
    rows, half = cos.shape[0], TINY.expert.head_dim // 2
    assert rows == SUFFIX
    torch.testing.assert_close(down(block.rotary.cos, rows), cos, rtol=0, atol=1e-6)
    got = down(block.rotary.sin, rows)
    torch.testing.assert_close(got[:, half:], sin[:, half:], rtol=0, atol=1e-6)
    torch.testing.assert_close(got[:, :half], -sin[:, :half], rtol=0, atol=1e-6)
