"""The two transformers of pi0 and what feeds them: PaliGemma for the prefix, the action expert for the suffix.

Source: openpi `models/pi0.py` and LeRobot `modeling_pi0.py::PaliGemmaWithExpertModel`. Twin: `tt/paligemma.py`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..model.blocks import lay_out, live_columns, positions, present_cameras, visible_keys
from ..model.config import PI0ModelConfig
from ..model.observation import Observation
from ..model.tensors import EXPERT, LANGUAGE_MODEL, PROJECTOR, VISION_TOWER, Weights
from .gemma import (
    NOT_ADAPTIVE,
    BlockModulations,
    GemmaBlockTorch,
    GemmaLastPrefixLayerTorch,
    KeyValueCache,
    RotaryTables,
    TokenBlock,
    rotary_tables,
)
from .layers import Linear, Modulation, RMSNorm
from .siglip import SigLIPVisionTowerTorch


@dataclass(frozen=True)
class Context:
    """What belongs to the prompts and to the cameras of a batch.

    Attributes:
        cameras: numbers of those that at least one row has.
        columns: of the prompts, numbers of those that are real in at least one row.
        is_real: (B, P) bool for what is kept, False on padding.
        blocks: the prefix, then the suffix.
    """

    cameras: list[int]
    columns: Tensor
    is_real: Tensor
    blocks: tuple[TokenBlock, ...]


@dataclass(frozen=True)
class Prefix:
    """What the actions attend to.

    Attributes:
        caches: keys and values, one for each layer.
        suffix: the block that attends to them.
        state: its first token, (B, 1, D) float32; None where the state is in the prompt.
    """

    caches: list[KeyValueCache]
    suffix: TokenBlock
    state: Tensor | None = None


@dataclass(frozen=True)
class ExpertModulations:
    """What the time makes of the expert's norms at one step.

    Attributes:
        layers: one for each layer.
        norm: of the last norm; no branch reads it, so its gate is not used.
    """

    layers: list[BlockModulations]
    norm: Modulation


def make_context(observation: Observation, config: PI0ModelConfig) -> Context:
    """Returns the context of a batch.

    Cameras and language columns that no row of the batch has are left out: exact, since nothing attends to them and they do
    not advance positions.
    """
    cameras = present_cameras(observation.img_masks)
    columns = live_columns(observation.lang_masks)
    images = [observation.img_masks[camera][:, None].expand(-1, config.vision.num_patches) for camera in cameras]
    is_real = torch.cat([*images, observation.lang_masks[:, columns]], dim=1)
    return Context(cameras, columns, is_real, token_blocks(is_real, config))


def token_blocks(is_real: Tensor, config: PI0ModelConfig) -> tuple[TokenBlock, ...]:
    """Returns the blocks of a batch.

    Args:
        is_real: (B, P) bool for its prefix, False on padding.
        config: sizes of the model.
    """
    blocks = lay_out(is_real.shape[1], config)
    all_real = bool(is_real.all())
    is_real = torch.cat([is_real, is_real.new_ones(len(is_real), blocks[-1].end - is_real.shape[1])], dim=1)
    rotary = rotary_tables(positions(is_real), config.vlm)
    return tuple(
        TokenBlock(
            block.start,
            RotaryTables(rotary.cos[:, :, block.start : block.end], rotary.sin[:, :, block.start : block.end]),
            None if all_real and len(block.groups) == 1 else visible_keys(block, is_real)[:, :, : block.end],
        )
        for block in blocks
    )


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
        self.expert_norm = RMSNorm(expert.at("norm"), config.expert.rms_norm_eps, adaptive=config.expert.adaptive_norms)

    def embed_language(self, tokens: Tensor) -> Tensor:
        """Returns (B, L, D) float32: the tokens' embeddings times sqrt(D).

        Args:
            tokens: (B, L) int64.
        """
        scale: float = self.config.vlm.width**0.5
        return F.embedding(tokens, self.embed_tokens).float() * scale

    def embed_prefix(self, observation: Observation, context: Context) -> Tensor:
        """Returns the prefix, (B, P, D) float32: the patches of the cameras that are kept, then language."""
        embeddings: list[Tensor] = []
        if context.cameras:
            images = torch.cat([observation.images[camera] for camera in context.cameras])
            features = self.multi_modal_projector(self.vision_tower(images))
            embeddings += features.chunk(len(context.cameras))
        embeddings.append(self.embed_language(observation.lang_tokens[:, context.columns]))
        return torch.cat(embeddings, dim=1)

    def prefill(self, embeddings: Tensor, context: Context) -> Prefix:
        """Returns the keys and values of the prefix in every layer.

        Args:
            embeddings: (B, P, D) float32.
            context: of the batch that they belong to.
        """
        block, length = context.blocks[0], context.blocks[-1].end
        caches = [KeyValueCache(len(embeddings), length, self.config.vlm, self.dtype) for _ in self.expert_layers]
        x = embeddings
        for layer, cache in zip(self.vlm_layers, caches[:-1], strict=True):
            x = layer(x, block, cache)
        self.vlm_last_layer.write_keys_values(x, block, caches[-1])
        return Prefix(caches, context.blocks[-1])

    def modulations(self, conditions: Tensor) -> list[ExpertModulations]:
        """Returns what the time makes of the norms of an adaptive expert, for each step; see `RMSNorm.modulations`."""
        layers = zip(*(layer.modulations(conditions) for layer in self.expert_layers), strict=True)
        norm = self.expert_norm.modulations(conditions)
        return [ExpertModulations(list(blocks), last) for blocks, last in zip(layers, norm, strict=True)]

    def forward_suffix(
        self, embeddings: Tensor, prefix: Prefix, modulations: ExpertModulations | None = None
    ) -> Tensor:
        """Returns the expert's output for the suffix, (B, suffix tokens, D) float32, normed.

        Args:
            embeddings: (B, suffix tokens, D) float32.
            prefix: that it attends to.
            modulations: of this step, where the norms are adaptive.
        """
        x = embeddings
        of_layers = modulations.layers if modulations else [NOT_ADAPTIVE] * len(self.expert_layers)
        for layer, cache, of_layer in zip(self.expert_layers, prefix.caches, of_layers, strict=True):
            x = layer(x, prefix.suffix, cache, of_layer)
        return self.expert_norm(x, modulations.norm if modulations else None)
