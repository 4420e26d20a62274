"""The two transformers of pi0 and what feeds them: PaliGemma for the prefix, the action expert for the suffix.

Source: openpi `models/pi0.py` and LeRobot `modeling_pi0.py::PaliGemmaWithExpertModel`. Twin: `tt/paligemma.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..masks import live_columns, positions, present_cameras, suffix_positions
from ..model_config import PI0ModelConfig
from ..weights import EXPERT, LANGUAGE_MODEL, PROJECTOR, VISION_TOWER, Weights
from .gemma import GemmaBlockTorch, GemmaLastPrefixLayerTorch, KeyValueCache, RotaryTables, rotary_tables
from .layers import Linear, RMSNorm
from .siglip import SigLIPVisionTowerTorch


@dataclass(frozen=True)
class Prefix:
    """What the suffix attends to."""

    caches: list[KeyValueCache]
    """One for each layer, filled with the prefix."""
    length: int
    """Prefix tokens that were kept."""
    is_real: Tensor | None
    """(B, length + 1 + horizon) bool, False on keys that are padding; None where none is."""
    suffix_rotary: RotaryTables
    """Tables for the state token and the actions."""


class MultiModalProjectorTorch:
    """Patch features to the width of the language model.

    Args:
        weights: cursor at `multi_modal_projector`.
        dtype: of the matmul.
    """

    def __init__(self, weights: Weights, dtype: torch.dtype) -> None:
        self.linear = Linear(weights.at("linear"), dtype, bias=True)

    def __call__(self, features: Tensor) -> Tensor:
        """Returns (B, patches, D) float32, not scaled.

        Args:
            features: (B, patches, vision width) float32.
        """
        return self.linear(features).float()


class PaliGemmaBackboneTorch:
    """SigLIP, the projector, the language embedding, the 18 layers for the prefix and the 18 for the suffix.

    Args:
        config: sizes of the model.
        weights: cursor at the root of the checkpoint.
        dtype: of the matmuls.
    """

    def __init__(self, config: PI0ModelConfig, weights: Weights, dtype: torch.dtype) -> None:
        self.config = config
        self.dtype = dtype
        self.vision_tower = SigLIPVisionTowerTorch(config.vision, weights.at(VISION_TOWER), dtype)
        self.multi_modal_projector = MultiModalProjectorTorch(weights.at(PROJECTOR), dtype)
        vlm, expert = weights.at(LANGUAGE_MODEL), weights.at(EXPERT)
        self.embed_tokens = vlm.take("embed_tokens.weight", dtype)
        last = config.vlm.depth - 1
        self.vlm_layers = [GemmaBlockTorch(config.vlm, vlm.at(f"layers.{layer}"), dtype) for layer in range(last)]
        self.vlm_last_layer = GemmaLastPrefixLayerTorch(config.vlm, vlm.at(f"layers.{last}"), dtype)
        self.expert_layers = [
            GemmaBlockTorch(config.expert, expert.at(f"layers.{layer}"), dtype) for layer in range(config.expert.depth)
        ]
        self.expert_norm = RMSNorm(expert.at("norm"), config.expert.rms_norm_eps)

    def embed_language(self, tokens: Tensor) -> Tensor:
        """Returns (B, L, D) float32: the tokens' embeddings times sqrt(D).

        Args:
            tokens: (B, L) int64.
        """
        scale: float = self.config.vlm.width**0.5
        return F.embedding(tokens, self.embed_tokens).float() * scale

    def embed_prefix(
        self, images: Sequence[Tensor], img_masks: Sequence[Tensor], lang_tokens: Tensor, lang_masks: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the prefix, (B, P, D) float32, and which of its tokens are real, (B, P) bool.

        Cameras and language columns that no row of the batch has are left out: exact, since nothing attends to them
        and they do not advance positions.

        Args:
            images: for each camera (B, 3, image_size, image_size) float32 in [-1, 1].
            img_masks: for each camera (B,) bool, False where it is absent.
            lang_tokens: (B, L) int64.
            lang_masks: (B, L) bool, False on padding.
        """
        cameras = present_cameras(img_masks)
        columns = live_columns(lang_masks)
        embeddings: list[Tensor] = []
        is_real: list[Tensor] = []
        if cameras:
            features = self.multi_modal_projector(self.vision_tower(torch.cat([images[i] for i in cameras])))
            embeddings += features.chunk(len(cameras))
            is_real += [img_masks[i][:, None].expand(-1, self.config.vision.num_patches) for i in cameras]
        embeddings.append(self.embed_language(lang_tokens[:, columns]))
        is_real.append(lang_masks[:, columns])
        return torch.cat(embeddings, dim=1), torch.cat(is_real, dim=1)

    def prefill(self, embeddings: Tensor, is_real: Tensor) -> Prefix:
        """Returns the keys and values of the prefix in every layer.

        Args:
            embeddings: (B, P, D) float32.
            is_real: (B, P) bool, False on padding.
        """
        batch, length = is_real.shape
        suffix = 1 + self.config.horizon
        caches = [KeyValueCache(batch, length + suffix, self.config.vlm, self.dtype) for _ in self.expert_layers]
        rotary = rotary_tables(positions(is_real), self.config.vlm)
        mask = None if bool(is_real.all()) else is_real
        x = embeddings
        for layer, cache in zip(self.vlm_layers, caches[:-1], strict=True):
            x = layer(x, rotary, cache, 0, mask)
        self.vlm_last_layer.write_keys_values(x, rotary, caches[-1], 0)
        return Prefix(
            caches=caches,
            length=length,
            is_real=None if mask is None else torch.cat([mask, mask.new_ones(batch, suffix)], dim=1),
            suffix_rotary=rotary_tables(suffix_positions(is_real, suffix), self.config.expert),
        )

    def write_state(self, state_embedding: Tensor, prefix: Prefix) -> None:
        """Adds the state token's keys and values to every layer's cache.

        The state token sees the prefix and itself, neither the actions nor the time: what it writes is the same at
        every step, and nothing but its keys and values is ever read.

        Args:
            state_embedding: (B, 1, D) float32.
            prefix: as `prefill` returned it.
        """
        rotary = RotaryTables(prefix.suffix_rotary.cos[:, :, :1], prefix.suffix_rotary.sin[:, :, :1])
        mask = None if prefix.is_real is None else prefix.is_real[:, : prefix.length + 1]
        x = state_embedding
        for layer, cache in zip(self.expert_layers[:-1], prefix.caches[:-1], strict=True):
            x = layer(x, rotary, cache, prefix.length, mask)
        self.expert_layers[-1].write_keys_values(x, rotary, prefix.caches[-1], prefix.length)

    def forward_actions(self, action_embeddings: Tensor, prefix: Prefix) -> Tensor:
        """Returns the expert's output for the actions, (B, horizon, D) float32, normed.

        Args:
            action_embeddings: (B, horizon, D) float32.
            prefix: with the state token written.
        """
        rotary = RotaryTables(prefix.suffix_rotary.cos[:, :, 1:], prefix.suffix_rotary.sin[:, :, 1:])
        x = action_embeddings
        for layer, cache in zip(self.expert_layers, prefix.caches, strict=True):
            x = layer(x, rotary, cache, prefix.length + 1, prefix.is_real)
        return self.expert_norm(x)
