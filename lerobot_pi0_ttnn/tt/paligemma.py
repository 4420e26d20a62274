"""The two transformers of pi0 and what feeds them: PaliGemma for the prefix, the action expert for the suffix.

Source: openpi `models/pi0.py` and LeRobot `modeling_pi0.py::PaliGemmaWithExpertModel`. Twin: `reference/paligemma.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
import ttnn

from ..model.config import PI0ModelConfig
from ..model.tensors import EXPERT, LANGUAGE_MODEL, PROJECTOR, VISION_TOWER
from .gemma import (
    NOT_ADAPTIVE,
    BlockModulations,
    GemmaBlockTTNN,
    GemmaLastPrefixLayerTTNN,
    KeyValueCache,
    TokenBlock,
)
from .inputs import Context, Inputs, Prompt
from .layers import LayerNorm, Linear, Modulation, RMSNorm, by_rows
from .precision import OpPrecision, Precision
from .siglip import SigLIPVisionTowerTTNN
from .weights import DeviceWeights


@dataclass(frozen=True)
class Prefix:
    """What the actions attend to.

    Attributes:
        caches: keys and values, one for each layer.
        suffix: the block that attends to them.
        state: (1, 1, B * T, D), of each row's suffix the state's token where it belongs; None where it is in the prompt.
        is_action: of the context.
    """

    caches: Sequence[KeyValueCache]
    suffix: TokenBlock
    state: ttnn.Tensor | None = None
    is_action: ttnn.Tensor | None = None


@dataclass(frozen=True)
class ExpertModulations:
    """What the time makes of the expert's norms at one step.

    Attributes:
        layers: one for each layer.
        norm: of the last norm; no branch reads it, so its gate is not used.
    """

    layers: list[BlockModulations]
    norm: Modulation[ttnn.Tensor]


class MultiModalProjectorTTNN:
    """Patch features to the width of the language model.

    Args:
        weights: cursor at `multi_modal_projector`.
        norm: whose output it reads.
        precision: of the matmul.
        stream: dtype of the result.
    """

    def __init__(
        self,
        weights: DeviceWeights,
        norm: LayerNorm,
        precision: OpPrecision,
        stream: ttnn.DataType,
    ) -> None:
        self.linear = Linear(
            weights,
            "linear",
            lambda: weights.take("linear.weight"),
            lambda: weights.take("linear.bias"),
            precision,
            output=stream,
            reads=norm.modulation,
        )

    def __call__(self, features: ttnn.Tensor) -> ttnn.Tensor:
        """Returns (B, 1, patches, D), not scaled.

        Args:
            features: (B, 1, patches, vision width), normed without scale and shift.
        """
        return self.linear(features)


class PaliGemmaBackboneTTNN:
    """SigLIP, the projector, the language embedding, the 18 layers for the prefix and the 18 for the suffix.

    Args:
        config: sizes of the model.
        weights: cursor at the root of the checkpoint.
        precision: of each part.
    """

    def __init__(self, config: PI0ModelConfig, weights: DeviceWeights, precision: Precision) -> None:
        self.config = config
        self.precision = precision
        self.device = weights.device
        self.programs = weights.programs
        self.vision_tower = SigLIPVisionTowerTTNN(
            config.vision, weights.at(VISION_TOWER), precision.patches, precision.vision
        )
        self.multi_modal_projector = MultiModalProjectorTTNN(
            weights.at(PROJECTOR), self.vision_tower.post_layernorm, precision.vision, precision.vlm.stream
        )
        vlm, expert = weights.at(LANGUAGE_MODEL), weights.at(EXPERT)
        self.embed_tokens = vlm.upload(
            "embed_tokens",
            lambda: vlm.take("embed_tokens.weight", torch.bfloat16),
            ttnn.bfloat16,
            layout=ttnn.ROW_MAJOR_LAYOUT,
        )
        last = config.vlm.depth - 1
        self.vlm_layers = [
            GemmaBlockTTNN(config.vlm, vlm.at(f"layers.{layer}"), precision.vlm) for layer in range(last)
        ]
        self.vlm_last_layer = GemmaLastPrefixLayerTTNN(config.vlm, vlm.at(f"layers.{last}"), precision.vlm)
        self.expert_layers = [
            GemmaBlockTTNN(config.expert, expert.at(f"layers.{layer}"), precision.expert)
            for layer in range(config.expert.depth)
        ]
        self.expert_norm = RMSNorm(
            expert.at("norm"), config.expert.rms_norm_eps, precision.expert, adaptive=config.expert.adaptive_norms
        )

    def read_prompt(self, prompt: Prompt, context: Context) -> Context:
        """Returns the context with the blocks of this prompt; allocates nothing, and overwrites those of the prompt before.

        Args:
            prompt: of as many tiles as the context is for, on the device, where it stays for as long as its blocks are used.
            context: on the device.
        """
        if prompt.tokens is not None and context.language is not None:
            self.embed_language(prompt.tokens, context.language)
        for all_visible, mask in zip(context.all_visible, context.masks, strict=True):
            ttnn.add(all_visible, prompt.padding, output_tensor=mask)
        blocks = zip(context.layout, (context.rotary, prompt.rotary), context.masks, strict=True)
        return replace(context, blocks=tuple(TokenBlock(block.start, *tables) for block, *tables in blocks))

    def embed_language(self, tokens: ttnn.Tensor, embeddings: ttnn.Tensor) -> None:
        """Writes the tokens' embeddings times sqrt(D); allocates nothing.

        Args:
            tokens: (1, B * L) uint32.
            embeddings: (1, 1, B * L, D), where they go.
        """
        scale: float = self.config.vlm.width**0.5
        ttnn.embedding(tokens, self.embed_tokens, layout=ttnn.TILE_LAYOUT, output_tensor=embeddings)
        ttnn.multiply(embeddings, scale, output_tensor=embeddings)

    def embed_prefix(self, observation: Inputs, context: Context) -> ttnn.Tensor:
        """Returns the prefix, (1, 1, B * P, D): of each row the patches of its cameras, then language, then padding."""
        embeddings: list[ttnn.Tensor] = []
        if observation.pixels is not None:
            embeddings.append(self.multi_modal_projector(self.vision_tower(observation.pixels)))
        if context.language is not None:
            embeddings.append(context.language)
        if len(embeddings) > 1:
            embeddings = [ttnn.concat([by_rows(each, context.rows) for each in embeddings], dim=2)]
        return by_rows(embeddings[0], 1)

    def prefill(self, embeddings: ttnn.Tensor, context: Context) -> Prefix:
        """Returns the keys and values of the prefix in every layer.

        Args:
            embeddings: (1, 1, B * P, D).
            context: of the row that they belong to; the keys and values go into its caches.
        """
        caches, x = context.caches, embeddings
        rotary = context.blocks[0].rotary
        near = self.programs.near_tables(rotary.cos, x.padded_shape[-2])
        block = replace(context.blocks[0], rotary=rotary.moved(partial(ttnn.to_memory_config, memory_config=near)))
        for layer, cache in zip(self.vlm_layers, caches[:-1], strict=True):
            x = layer(x, block, cache)
        self.vlm_last_layer.write_keys_values(x, block, caches[-1])
        return Prefix(caches, context.blocks[-1])

    def modulations(self, conditions: torch.Tensor) -> list[ExpertModulations]:
        """Returns what the time makes of the norms of an adaptive expert, for each step; see `RMSNorm.modulations`."""
        layers = zip(*(layer.modulations(conditions) for layer in self.expert_layers), strict=True)
        norm = self.expert_norm.modulations(conditions)
        return [ExpertModulations(list(blocks), last) for blocks, last in zip(layers, norm, strict=True)]

    def forward_suffix(
        self, embeddings: ttnn.Tensor, prefix: Prefix, modulations: ExpertModulations | None = None
    ) -> ttnn.Tensor:
        """Returns the expert's output for the suffix, (1, 1, B * T, D), normed, without a scale that is folded.

        Args:
            embeddings: (1, 1, B * T, D).
            prefix: that it attends to.
            modulations: of this step, where the norms are adaptive.
        """
        x = embeddings
        of_layers = modulations.layers if modulations else [NOT_ADAPTIVE] * len(self.expert_layers)
        for layer, cache, of_layer in zip(self.expert_layers, prefix.caches, of_layers, strict=True):
            x = layer(x, prefix.suffix, cache, of_layer)
        return self.expert_norm(x, modulations.norm if modulations else None)

    def make_caches(self, rows: int, length: int) -> list[KeyValueCache]:
        """Returns each layer's cache, newly allocated, for a batch of rows of `length` tokens."""
        config, dtype = self.config.vlm, self.precision.cache
        return [KeyValueCache(length, config, dtype, self.device, rows=rows) for _ in self.expert_layers]
