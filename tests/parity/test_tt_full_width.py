"""One layer of each kind at pi0_base's own widths, and a whole model of few layers."""

from dataclasses import replace

import pytest
import torch

ttnn = pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

from lerobot_pi0_ttnn.device.executor import PI0ModelTTNN  # noqa: E402
from lerobot_pi0_ttnn.device.uploads import cache_length  # noqa: E402
from lerobot_pi0_ttnn.model.config import PI0_BASE, as_pi05  # noqa: E402
from lerobot_pi0_ttnn.reference import PI0ModelTorch  # noqa: E402
from lerobot_pi0_ttnn.reference.gemma import KeyValueCache  # noqa: E402
from lerobot_pi0_ttnn.reference.paligemma import token_blocks  # noqa: E402
from lerobot_pi0_ttnn.tt.gemma import KeyValueCache as DeviceCache  # noqa: E402
from lerobot_pi0_ttnn.tt.siglip import patch_rows  # noqa: E402

from ..oracle import make_noise  # noqa: E402
from ..quality import assert_quality  # noqa: E402
from .tt import down, random_inputs, random_weights, store, up, up_to_expert, upload_row  # noqa: E402

FEW_LAYERS = replace(
    PI0_BASE,
    vision=replace(PI0_BASE.vision, num_hidden_layers=1),
    vlm=replace(PI0_BASE.vlm, depth=2),
    expert=replace(PI0_BASE.expert, depth=2),
    vocab_size=512,
)

# As for the tiny model: 0.6 % and 2 % were measured for a layer.
LIMITS = {
    "accurate": {"pcc": 0.9999, "rel_rmse": 0.012},
    "balanced": {"pcc": 0.9995, "rel_rmse": 0.03},
}


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return random_weights(FEW_LAYERS)


@pytest.fixture(scope="module")
def twin(weights) -> PI0ModelTorch:
    return PI0ModelTorch(FEW_LAYERS, weights)


@pytest.fixture(scope="module", params=["accurate", "balanced"])
def precision(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def tt(board, weights, precision) -> PI0ModelTTNN:
    return PI0ModelTTNN(FEW_LAYERS, weights, board.device, precision=precision)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def test_siglip_and_projector(tt, twin, precision):
    image = random(1, 3, 224, 224).clamp(-1, 1)
    pixels = ttnn.from_torch(
        patch_rows(image, FEW_LAYERS.vision),
        dtype=ttnn.bfloat16,
        layout=ttnn.ROW_MAJOR_LAYOUT,
        device=tt.chips[0].device,
    )
    got = down(tt.backbone.multi_modal_projector(tt.backbone.vision_tower(pixels)), 256)
    want = twin.backbone.multi_modal_projector(twin.backbone.vision_tower(image))[0]
    assert want.shape == (256, 2048)
    assert_quality(got, want, **LIMITS[precision])


def test_gemma_2b(tt, twin, precision):
    """A block on a prompt of 23 tokens."""
    config, context = FEW_LAYERS.vlm, upload_row(tt, random_inputs(FEW_LAYERS, 0, 23), 0, make_noise(batch=1)).context
    x = random(23, config.width)
    blocks = token_blocks(torch.ones(1, 23, dtype=torch.bool), FEW_LAYERS)
    cache = KeyValueCache(1, 23, config, torch.float32)
    want = twin.backbone.vlm_layers[0](x[None], blocks[0], cache)[0]
    device_cache = DeviceCache(cache_length(context.layout), config, tt.precision.cache, tt.chips[0].device)
    got = tt.backbone.vlm_layers[0](up(tt, x, tt.precision.vlm.stream), context.blocks[0], device_cache)
    assert_quality(down(got, 23), want, **LIMITS[precision])


def test_gemma_300m(tt, twin, precision):
    """The expert on the state and 50 actions, which attend to two cameras and a prompt."""
    context = upload_row(tt, random_inputs(FEW_LAYERS, 2, 23), 0, make_noise(batch=1)).context
    config, layout, prefix = FEW_LAYERS.expert, context.layout, 2 * 256 + 23
    x, keys, values = random(51, config.width), *random(2, prefix, config.head_dim)
    block = token_blocks(torch.ones(1, prefix, dtype=torch.bool), FEW_LAYERS)[-1]
    cache = KeyValueCache(1, prefix + 51, config, torch.float32)
    cache.write(keys[None, None], values[None, None], 0)
    want = twin.backbone.expert_layers[0](x[None], block, cache)[0]
    device_cache = DeviceCache(cache_length(layout), config, tt.precision.cache, tt.chips[0].device)
    store(device_cache, *(up(tt, x, ttnn.bfloat16) for x in (keys, values)), 0)
    stream = up_to_expert(tt, x, tt.precision.expert.stream)
    got = tt.backbone.expert_layers[0](stream, context.blocks[-1], device_cache)
    assert_quality(down(got, 51), want, **LIMITS[precision])


def test_whole(tt, twin, precision):
    inputs, noise = random_inputs(FEW_LAYERS, 1, 23), make_noise(batch=1)
    got = tt.sample_actions(**inputs, noise=noise, num_steps=10)
    assert_quality(got, twin.sample_actions(**inputs, noise=noise, num_steps=10), **LIMITS[precision])


def test_whole_pi05(board, precision):
    config = as_pi05(FEW_LAYERS)
    weights, inputs, noise = random_weights(config), random_inputs(config, 1, 70), make_noise(batch=1)
    got, want = (
        model.sample_actions(**inputs, noise=noise, num_steps=10)
        for model in (PI0ModelTTNN(config, weights, board.device, precision=precision), PI0ModelTorch(config, weights))
    )
    assert_quality(got, want, **LIMITS[precision])
