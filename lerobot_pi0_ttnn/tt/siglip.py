"""SigLIP So400m/14: images to features. Source: transformers `modeling_siglip.py`. Twin: `reference/siglip.py`."""

import torch
import torch.nn.functional as F
import ttnn
from torch import Tensor

from ..model_config import VisionConfig
from ..weights import Weights
from .layers import LayerNorm, Linear, attention, pad_columns, pad_rows, to_device
from .precision import OpPrecision
from .program import TILE, round_up

MLP_MULTIPLE = 256
"""The MLP is padded with zeros to as many tiles for each of eight columns: 4304 is 134.5 tiles, 4352 is 136."""


def patch_rows(images: Tensor, config: VisionConfig) -> Tensor:
    """Returns the pixels of each patch as a row, (B, 1, patches, pixels rounded up to whole tiles) float32.

    The order in a row is that of the convolution's weight: channel, row, column.

    Args:
        images: (B, 3, image_size, image_size) float32 in [-1, 1].
        config: sizes of the tower.
    """
    rows = F.unfold(images, kernel_size=config.patch_size, stride=config.patch_size).transpose(1, 2)
    return pad_columns(rows, round_up(rows.shape[-1], TILE))[:, None]


class SigLIPAttentionTTNN:
    """Full attention within one image.

    Heads are padded with zeros to whole tiles (72 to 96): zeros add nothing to a score, and the scale stays that of 72.

    Args:
        config: sizes of the tower.
        weights: cursor at `self_attn`.
        norm: whose output it reads.
        precision: of the matmuls.
        device: where it runs.
    """

    def __init__(
        self, config: VisionConfig, weights: Weights, norm: LayerNorm, precision: OpPrecision, device: ttnn.Device
    ) -> None:
        self.config = config
        self.precision = precision
        heads, width = config.num_attention_heads, round_up(config.head_dim, TILE)
        fused_weight, fused_bias = [], []
        for name in ("q_proj", "k_proj", "v_proj"):
            weight, bias = (weights.at(name).take(kind, torch.float32) for kind in ("weight", "bias"))
            weight, bias = norm.folded(weight, bias)
            fused_weight.append(pad_rows(weight.view(heads, -1, weight.shape[1]), width).flatten(0, 1))
            fused_bias.append(pad_columns(bias.view(heads, -1), width).flatten())
        self.qkv_proj = Linear(torch.cat(fused_weight), torch.cat(fused_bias), precision, device)
        out = weights.at("out_proj")
        out_weight = out.take("weight", torch.float32)
        out_weight = pad_columns(out_weight.view(out_weight.shape[0], heads, -1), width).flatten(1)
        self.out_proj = Linear(out_weight, out.take("bias", torch.float32), precision, device)

    def __call__(self, x: ttnn.Tensor) -> ttnn.Tensor:
        """Returns (B, 1, S, D).

        Args:
            x: (B, 1, S, D), normed; each image attends to itself only, so that B is kept apart.
        """
        heads = self.config.num_attention_heads
        q, k, v = ttnn.experimental.nlp_create_qkv_heads(
            self.qkv_proj(x), num_heads=heads, num_kv_heads=heads, transpose_k_heads=False
        )
        scale: float = self.config.head_dim**-0.5
        return self.out_proj(attention(q, k, v, scale=scale, precision=self.precision))


class SigLIPMLPTTNN:
    """fc1, tanh GELU, fc2.

    Args:
        weights: cursor at `mlp`.
        norm: whose output it reads.
        precision: of the matmuls.
        device: where it runs.
    """

    def __init__(self, weights: Weights, norm: LayerNorm, precision: OpPrecision, device: ttnn.Device) -> None:
        fc1, fc2 = weights.at("fc1"), weights.at("fc2")
        weight, bias = norm.folded(fc1.take("weight", torch.float32), fc1.take("bias", torch.float32))
        width = round_up(bias.shape[0], MLP_MULTIPLE)
        self.fc1 = Linear(pad_rows(weight, width), pad_columns(bias, width), precision, device, activation="gelu_tanh")
        self.fc2 = Linear(
            pad_columns(fc2.take("weight", torch.float32), width), fc2.take("bias", torch.float32), precision, device
        )

    def __call__(self, x: ttnn.Tensor) -> ttnn.Tensor:
        """Returns (B, 1, S, D).

        Args:
            x: (B, 1, S, D), normed.
        """
        return self.fc2(self.fc1(x))


class SigLIPEncoderLayerTTNN:
    """One pre-norm transformer layer.

    Args:
        config: sizes of the tower.
        weights: cursor at `layers.{i}`.
        precision: of the matmuls.
        device: where it runs.
    """

    def __init__(self, config: VisionConfig, weights: Weights, precision: OpPrecision, device: ttnn.Device) -> None:
        self.layer_norm1 = LayerNorm(weights.at("layer_norm1"), config.layer_norm_eps, precision)
        self.self_attn = SigLIPAttentionTTNN(config, weights.at("self_attn"), self.layer_norm1, precision, device)
        self.layer_norm2 = LayerNorm(weights.at("layer_norm2"), config.layer_norm_eps, precision)
        self.mlp = SigLIPMLPTTNN(weights.at("mlp"), self.layer_norm2, precision, device)

    def __call__(self, x: ttnn.Tensor) -> ttnn.Tensor:
        """Returns (B, 1, S, D) in the dtype of x.

        Args:
            x: (B, 1, S, D).
        """
        x = ttnn.add(x, self.self_attn(self.layer_norm1(x)))
        return ttnn.add(x, self.mlp(self.layer_norm2(x)))


class SigLIPVisionTowerTTNN:
    """Patch and position embedding, the encoder; the last norm's scale and shift are the projector's.

    Args:
        config: sizes of the tower.
        weights: cursor at `vision_tower.vision_model`.
        patches: precision of the patch embedding.
        precision: of the encoder's matmuls.
        device: where it runs.
    """

    def __init__(
        self,
        config: VisionConfig,
        weights: Weights,
        patches: OpPrecision,
        precision: OpPrecision,
        device: ttnn.Device,
    ) -> None:
        self.config = config
        embedding = weights.at("embeddings.patch_embedding")
        weight = embedding.take("weight", torch.float32).flatten(1)
        self.patch_embedding = Linear(
            pad_columns(weight, round_up(weight.shape[1], TILE)), None, patches, device, output=precision.stream
        )
        # The patches' bias is the same for all of them, so it goes with what is added to them anyway.
        positions = weights.take("embeddings.position_embedding.weight", torch.float32)
        self.position_embedding = to_device(
            (positions + embedding.take("bias", torch.float32))[None, None], precision.stream, device
        )
        self.layers = [
            SigLIPEncoderLayerTTNN(config, weights.at(f"encoder.layers.{layer}"), precision, device)
            for layer in range(config.num_hidden_layers)
        ]
        self.post_layernorm = LayerNorm(weights.at("post_layernorm"), config.layer_norm_eps, precision)

    def __call__(self, pixels: ttnn.Tensor) -> ttnn.Tensor:
        """Returns (B, 1, patches, D), the patches row by row, normed without scale and shift.

        Args:
            pixels: `patch_rows` of B images.
        """
        x = ttnn.add(self.patch_embedding(pixels), self.position_embedding)
        for layer in self.layers:
            x = layer(x)
        return self.post_layernorm(x)
