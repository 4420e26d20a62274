"""SigLIP So400m/14: images to features. Source: transformers `modeling_siglip.py`. Twin: `reference/siglip.py`."""

from collections.abc import Sequence

import torch
import ttnn
from torch import Tensor

from ..model.config import VisionConfig
from .layers import LayerNorm, Linear, attention, pad_columns, pad_rows
from .precision import OpPrecision
from .program import TILE, interleaved_like, round_up
from .weights import DeviceWeights

QKV = ("q_proj", "k_proj", "v_proj")

MLP_MULTIPLE = 256
"""The MLP is padded with zeros to as many tiles for each of eight columns: 4304 is 134.5 tiles, 4352 is 136."""


def patch_rows(images: Sequence[Tensor], config: VisionConfig) -> Tensor:
    """Returns the pixels of each patch as a row, (B, 1, patches, pixels rounded up to whole tiles) bfloat16.

    The order in a row is that of the convolution's weight: channel, row, column.

    Args:
        images: B times (3, image_size, image_size) float32 in [-1, 1].
        config: sizes of the tower.
    """
    size = config.patch_size
    side, pixels = config.image_size // size, 3 * size**2
    rows = torch.zeros(len(images), 1, side**2, round_up(pixels, TILE), dtype=torch.bfloat16)
    for image, patches in zip(images, rows[..., :pixels].view(-1, side, side, 3, size, size), strict=True):
        # Rounded before it is copied: runs of 14 numbers convert slowly.
        patches.copy_(image.bfloat16().reshape(3, side, size, side, size).permute(1, 3, 0, 2, 4))
    return rows


class SigLIPAttentionTTNN:
    """Full attention within one image.

    Heads are padded with zeros to whole tiles (72 to 96): zeros add nothing to a score, and the scale stays that of 72.

    Args:
        config: sizes of the tower.
        weights: cursor at `self_attn`.
        norm: whose output it reads.
        precision: of the matmuls.
    """

    def __init__(self, config: VisionConfig, weights: DeviceWeights, norm: LayerNorm, precision: OpPrecision) -> None:
        self.config = config
        self.precision = precision
        heads, width = config.num_attention_heads, round_up(config.head_dim, TILE)

        def fused_weight() -> Tensor:
            parts = [weights.take(f"{name}.weight") for name in QKV]
            return torch.cat([pad_rows(x.view(heads, -1, x.shape[1]), width).flatten(0, 1) for x in parts])

        def fused_bias() -> Tensor:
            parts = [weights.take(f"{name}.bias") for name in QKV]
            return torch.cat([pad_columns(x.view(heads, -1), width).flatten() for x in parts])

        def out_weight() -> Tensor:
            weight = weights.take("out_proj.weight")
            return pad_columns(weight.view(weight.shape[0], heads, -1), width).flatten(1)

        self.qkv_proj = Linear(weights, "qkv_proj", fused_weight, fused_bias, precision, reads=norm.modulation)
        self.out_proj = Linear(weights, "out_proj", out_weight, lambda: weights.take("out_proj.bias"), precision)

    def __call__(self, x: ttnn.Tensor) -> ttnn.Tensor:
        """Returns (B, 1, S, D).

        Args:
            x: (B, 1, S, D), normed; each image attends to itself only, so that B is kept apart.
        """
        q, k, v = self._heads(self.qkv_proj(x))
        scale: float = self.config.head_dim**-0.5
        return self.out_proj(attention(q, k, v, scale=scale, precision=self.precision))

    def _heads(self, qkv: ttnn.Tensor) -> Sequence[ttnn.Tensor]:
        heads = self.config.num_attention_heads
        # Nobody keeps the projection, which would take up L1 beside its heads.
        made: Sequence[ttnn.Tensor] = ttnn.experimental.nlp_create_qkv_heads(
            qkv,
            num_heads=heads,
            num_kv_heads=heads,
            transpose_k_heads=False,
            memory_config=interleaved_like(qkv),
        )
        return made


class SigLIPMLPTTNN:
    """fc1, tanh GELU, fc2.

    Args:
        config: sizes of the tower.
        weights: cursor at `mlp`.
        norm: whose output it reads.
        precision: of the matmuls.
    """

    def __init__(self, config: VisionConfig, weights: DeviceWeights, norm: LayerNorm, precision: OpPrecision) -> None:
        width = round_up(config.intermediate_size, MLP_MULTIPLE)
        self.fc1 = Linear(
            weights,
            "fc1",
            lambda: pad_rows(weights.take("fc1.weight"), width),
            lambda: pad_columns(weights.take("fc1.bias"), width),
            precision,
            activation=ttnn.UnaryOpType.GELU_TANH,
            reads=norm.modulation,
        )
        self.fc2 = Linear(
            weights,
            "fc2",
            lambda: pad_columns(weights.take("fc2.weight"), width),
            lambda: weights.take("fc2.bias"),
            precision,
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
    """

    def __init__(self, config: VisionConfig, weights: DeviceWeights, precision: OpPrecision) -> None:
        self.layer_norm1 = LayerNorm(weights.at("layer_norm1"), config.layer_norm_eps, precision)
        self.self_attn = SigLIPAttentionTTNN(config, weights.at("self_attn"), self.layer_norm1, precision)
        self.layer_norm2 = LayerNorm(weights.at("layer_norm2"), config.layer_norm_eps, precision)
        self.mlp = SigLIPMLPTTNN(config, weights.at("mlp"), self.layer_norm2, precision)

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
    """

    def __init__(
        self,
        config: VisionConfig,
        weights: DeviceWeights,
        patches: OpPrecision,
        precision: OpPrecision,
    ) -> None:
        self.config = config
        embeddings = weights.at("embeddings")

        def patch_weight() -> Tensor:
            weight = embeddings.take("patch_embedding.weight").flatten(1)
            return pad_columns(weight, round_up(weight.shape[1], TILE))

        def position_embedding() -> Tensor:
            # The patches' bias is the same for all of them, so it goes with what is added to them anyway.
            return embeddings.take("position_embedding.weight") + embeddings.take("patch_embedding.bias")

        self.patch_embedding = Linear(
            embeddings, "patch_embedding", patch_weight, None, patches, output=precision.stream
        )
        self.position_embedding = embeddings.upload(
            "position_embedding", lambda: position_embedding()[None, None], precision.stream
        )
        self.layers = [
            SigLIPEncoderLayerTTNN(config, weights.at(f"encoder.layers.{layer}"), precision)
            for layer in range(config.num_hidden_layers)
        ]
        self.post_layernorm = LayerNorm(weights.at("post_layernorm"), config.layer_norm_eps, precision)

    def __call__(self, pixels: ttnn.Tensor) -> ttnn.Tensor:
        """Returns (B, 1, patches, D), the patches row by row, normed without scale and shift.

        Args:
            pixels: `patch_rows` of B images, not in tiles: the device is quicker at putting them there.
        """
        x = ttnn.add(self.patch_embedding(ttnn.tilize(pixels)), self.position_embedding)
        for layer in self.layers:
            x = layer(x)
        return self.post_layernorm(x)
