"""One layer of each kind at pi0_base's own widths, where heads, ratios and the length of sums are the real ones."""

import functools
from dataclasses import replace

import pytest
import torch
from lerobot.policies.pi0.modeling_pi0 import PI0Policy
from transformers.initialization import no_init_weights

from lerobot_pi0_ttnn.model.config import PI0_BASE, PI0ModelConfig, as_pi05
from lerobot_pi0_ttnn.model.tensors import PROJECTOR, VISION_TOWER, Weights
from lerobot_pi0_ttnn.reference import PI0ModelTorch
from lerobot_pi0_ttnn.reference.paligemma import MultiModalProjectorTorch
from lerobot_pi0_ttnn.reference.siglip import SigLIPVisionTowerTorch

from ..oracle import make_batch, make_lerobot_policy, make_noise, model_inputs, state_dict
from .layers import gemma_layer, run_on_prefix, run_on_suffix

ONE_LAYER: PI0ModelConfig = replace(
    PI0_BASE,
    vision=replace(PI0_BASE.vision, num_hidden_layers=1),
    vlm=replace(PI0_BASE.vlm, depth=1),
    expert=replace(PI0_BASE.expert, depth=1),
    vocab_size=512,
)

# Sums of up to 16384 float32 products, in another order: 5e-6 was seen.
assert_near = functools.partial(torch.testing.assert_close, rtol=0.0, atol=1e-4)


@pytest.fixture(scope="module")
def wide() -> PI0Policy:
    """LeRobot's policy of one layer each: 0.6 GB. All weights are ours, so their first initialisation is skipped."""
    with no_init_weights():
        return make_lerobot_policy(model=ONE_LAYER).requires_grad_(False)


def test_siglip_and_projector(wide):
    theirs = wide.model.paligemma_with_expert.paligemma.model
    weights = Weights(state_dict(wide))
    image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    features = SigLIPVisionTowerTorch(ONE_LAYER.vision, weights.at(VISION_TOWER), torch.float32)(image)
    want = theirs.vision_tower(image).last_hidden_state
    assert want.shape == (1, 256, 1152)
    assert_near(features, want)
    projector = MultiModalProjectorTorch(weights.at(PROJECTOR), torch.float32)
    assert_near(projector(want), theirs.multi_modal_projector(want))


@pytest.mark.parametrize("part", ["attention", "block"])
def test_gemma_2b(wide, part):
    got, want = run_on_prefix(gemma_layer(wide, ONE_LAYER, "vlm"), part)
    assert want.shape[-1] == 2048
    assert_near(got, want)


@pytest.mark.parametrize("part", ["attention", "block"])
def test_gemma_300m(wide, part):
    got, want = run_on_suffix(gemma_layer(wide, ONE_LAYER, "expert"), part)
    assert want.shape[-1] == 1024
    assert_near(got, want)


def test_pi05():
    """A model of one layer each, ten steps: adaptive norms at their own width."""
    config = as_pi05(ONE_LAYER)
    with no_init_weights():
        wide = make_lerobot_policy(model=config).requires_grad_(False)
    batch, noise = make_batch(batch=1), make_noise(1)
    got = PI0ModelTorch(config, state_dict(wide)).sample_actions(**model_inputs(wide, batch), noise=noise)
    want = wide.predict_action_chunk(batch, noise=noise)
    assert_near(got[:, :, : want.shape[-1]], want)
