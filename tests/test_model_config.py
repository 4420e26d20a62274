"""pi0_base's sizes, written out a second time from openpi's configs."""

import dataclasses

import pytest

from lerobot_pi0_ttnn.model.config import GEMMA_2B, GEMMA_300M, GEMMA_VARIANTS, PI0_BASE, TINY, PI0ModelConfig


def test_vision_is_siglip_so400m():
    assert dataclasses.asdict(PI0_BASE.vision) == {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
        "layer_norm_eps": 1e-6,
    }
    assert PI0_BASE.vision.head_dim == 72
    assert PI0_BASE.vision.num_patches == 256


@pytest.mark.parametrize(("variant", "width", "mlp_dim"), [("gemma_2b", 2048, 16384), ("gemma_300m", 1024, 4096)])
def test_gemma(variant, width, mlp_dim):
    assert dataclasses.asdict(GEMMA_VARIANTS[variant]) == {
        "width": width,
        "mlp_dim": mlp_dim,
        "depth": 18,
        "num_heads": 8,
        "num_kv_heads": 1,
        "head_dim": 256,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0,
        "adaptive_norms": False,
    }


def test_default_is_pi0_base():
    assert PI0ModelConfig() == PI0_BASE
    assert PI0_BASE.vlm is GEMMA_2B
    assert PI0_BASE.expert is GEMMA_300M
    assert (PI0_BASE.vocab_size, PI0_BASE.state_dim, PI0_BASE.action_dim) == (257_152, 32, 32)
    assert (PI0_BASE.horizon, PI0_BASE.num_steps) == (50, 10)
    assert (PI0_BASE.min_period, PI0_BASE.max_period) == (0.004, 4.0)


@pytest.mark.parametrize("name", ["depth", "num_heads", "num_kv_heads", "head_dim"])
def test_one_cache_needs_like_transformers(name):
    expert = dataclasses.replace(TINY.expert, **{name: 5})
    with pytest.raises(ValueError, match=rf"{name}: expected the same .* got {getattr(TINY.vlm, name)} and 5"):
        dataclasses.replace(TINY, expert=expert)
