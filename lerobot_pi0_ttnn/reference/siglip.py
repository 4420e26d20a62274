"""SigLIP So400m/14: images to patch features. Source: transformers `modeling_siglip.py`. Twin: `tt/siglip.py`."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..model.config import VisionConfig
from ..model.tensors import Weights
from .layers import LayerNorm, Linear, join_heads, split_heads


class SigLIPAttentionTorch:
    """Full attention within one image.

    Args:
        config: sizes of the tower.
        weights: cursor at `self_attn`.
        dtype: of the matmuls.
    """

    def __init__(self, config: VisionConfig, weights: Weights, dtype: torch.dtype) -> None:
        self.config = config
        self.q_proj = Linear(weights.at("q_proj"), dtype, bias=True)
        self.k_proj = Linear(weights.at("k_proj"), dtype, bias=True)
        self.v_proj = Linear(weights.at("v_proj"), dtype, bias=True)
        self.out_proj = Linear(weights.at("out_proj"), dtype, bias=True)

    def __call__(self, x: Tensor) -> Tensor:
        """Returns (B, S, D) in the matmuls' dtype.

        Args:
            x: (B, S, D) float32.
        """
        x = x.to(self.q_proj.weight.dtype)
        heads = self.config.num_attention_heads
        q, k, v = (split_heads(p(x), heads) for p in (self.q_proj, self.k_proj, self.v_proj))
        return self.out_proj(join_heads(F.scaled_dot_product_attention(q, k, v)))


class SigLIPMLPTorch:
    """fc1, tanh GELU, fc2.

    Args:
        weights: cursor at `mlp`.
        dtype: of the matmuls.
    """

    def __init__(self, weights: Weights, dtype: torch.dtype) -> None:
        self.fc1 = Linear(weights.at("fc1"), dtype, bias=True)
        self.fc2 = Linear(weights.at("fc2"), dtype, bias=True)

    def __call__(self, x: Tensor) -> Tensor:
        """Returns (B, S, D) in the matmuls' dtype.

        Args:
            x: (B, S, D) float32.
        """
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class SigLIPEncoderLayerTorch:
    """One pre-norm transformer layer.

    Args:
        config: sizes of the tower.
        weights: cursor at `layers.{i}`.
        dtype: of the matmuls.
    """

    def __init__(self, config: VisionConfig, weights: Weights, dtype: torch.dtype) -> None:
        self.layer_norm1 = LayerNorm(weights.at("layer_norm1"), config.layer_norm_eps)
        self.self_attn = SigLIPAttentionTorch(config, weights.at("self_attn"), dtype)
        self.layer_norm2 = LayerNorm(weights.at("layer_norm2"), config.layer_norm_eps)
        self.mlp = SigLIPMLPTorch(weights.at("mlp"), dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """Returns (B, S, D) float32.

        Args:
            x: (B, S, D) float32.
        """
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class SigLIPVisionTowerTorch:
    """Patch and position embedding, the encoder, the last norm; no pooling head.

    Args:
        config: sizes of the tower.
        weights: cursor at `vision_tower.vision_model`.
        dtype: of the encoder's matmuls; the patch embedding stays in float32, as in LeRobot.
    """

    def __init__(self, config: VisionConfig, weights: Weights, dtype: torch.dtype) -> None:
        self.config = config
        patches = weights.at("embeddings.patch_embedding")
        self.patch_weight = patches.take("weight", torch.float32)
        self.patch_bias = patches.take("bias", torch.float32)
        self.position_embedding = weights.take("embeddings.position_embedding.weight", torch.float32)
        self.layers = [
            SigLIPEncoderLayerTorch(config, weights.at(f"encoder.layers.{layer}"), dtype)
            for layer in range(config.num_hidden_layers)
        ]
        self.post_layernorm = LayerNorm(weights.at("post_layernorm"), config.layer_norm_eps)

    def __call__(self, images: Tensor) -> Tensor:
        """Returns (B, patches, D) float32, the patches row by row.

        Args:
            images: (B, 3, image_size, image_size) float32 in [-1, 1].
        """
        x = F.conv2d(images, self.patch_weight, self.patch_bias, stride=self.config.patch_size)
        x = x.flatten(2).transpose(1, 2) + self.position_embedding
        for layer in self.layers:
            x = layer(x)
        return self.post_layernorm(x)
