"""One layer of the twin and LeRobot's own, run on the same tokens: for the tiny model and for one of full width."""

from dataclasses import dataclass
from typing import Literal

import lerobot.policies.pi0.modeling_pi0 as lerobot_pi0
import torch
from lerobot.policies.common.vla_utils import make_att_2d_masks, prepare_attention_masks_4d
from torch import Tensor, nn
from transformers import DynamicCache

from lerobot_pi0_ttnn.model.config import GemmaConfig, PI0ModelConfig
from lerobot_pi0_ttnn.model.tensors import EXPERT, LANGUAGE_MODEL, Weights
from lerobot_pi0_ttnn.reference.gemma import GemmaBlockTorch, KeyValueCache, TokenBlock
from lerobot_pi0_ttnn.reference.paligemma import token_blocks

from ..oracle import state_dict

PREFIX = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 1, 1, 0, 0]], dtype=torch.bool)
"""Which tokens are real: an absent first camera, one absent in the middle, padded prompts."""
HORIZON = 50

Part = Literal["attention", "block"]


@dataclass(frozen=True)
class GemmaLayer:
    """The first layer of one of pi0's transformers, twice."""

    model: PI0ModelConfig
    config: GemmaConfig
    ours: GemmaBlockTorch
    theirs: nn.Module
    rotary_emb: nn.Module

    def call_ours(self, part: Part, x: Tensor, block: TokenBlock, cache: KeyValueCache):
        module = self.ours if part == "block" else self.ours.self_attn
        return module(x, block, cache)

    def call_theirs(self, part: Part, x: Tensor, places: Tensor, mask: Tensor, cache: DynamicCache | None = None):
        module = self.theirs if part == "block" else self.theirs.self_attn
        out = module(
            x,
            attention_mask=prepare_attention_masks_4d(mask),
            position_embeddings=self.rotary_emb(x, places),
            past_key_values=cache,
        )
        return out if part == "block" else out[0]


def gemma_layer(policy: lerobot_pi0.PI0Policy, model: PI0ModelConfig, name: Literal["vlm", "expert"]) -> GemmaLayer:
    both = policy.model.paligemma_with_expert
    theirs, prefix, config = {
        "vlm": (both.paligemma.model.language_model, LANGUAGE_MODEL, model.vlm),
        "expert": (both.gemma_expert.model, EXPERT, model.expert),
    }[name]
    theirs.config._attn_implementation = "eager"
    ours = GemmaBlockTorch(config, Weights(state_dict(policy)).at(f"{prefix}.layers.0"), torch.float32)
    return GemmaLayer(model, config, ours, theirs.layers[0], theirs.rotary_emb)


def run_on_prefix(layer: GemmaLayer, part: Part) -> tuple[Tensor, Tensor]:
    """Ours and theirs at the real tokens of a padded prefix."""
    x = torch.randn(*PREFIX.shape, layer.config.width, generator=torch.Generator().manual_seed(0))
    cache = KeyValueCache(*PREFIX.shape, layer.config, torch.float32)
    got = layer.call_ours(part, x, token_blocks(PREFIX, layer.model)[0], cache)
    mask = make_att_2d_masks(PREFIX, torch.zeros_like(PREFIX))
    want = layer.call_theirs(part, x, torch.cumsum(PREFIX, dim=1) - 1, mask)
    return got[PREFIX], want[PREFIX]


def run_on_suffix(layer: GemmaLayer, part: Part) -> tuple[Tensor, Tensor]:
    """Ours and theirs for the suffix after a padded prefix: the state, then the actions."""
    generator = torch.Generator().manual_seed(0)
    batch, length = PREFIX.shape
    x = torch.randn(batch, 1 + HORIZON, layer.config.width, generator=generator)
    keys, values = torch.randn(2, batch, layer.config.num_kv_heads, length, layer.config.head_dim, generator=generator)

    cache = KeyValueCache(batch, length + 1 + HORIZON, layer.config, torch.float32)
    cache.write(keys, values, 0)
    got = layer.call_ours(part, x, token_blocks(PREFIX, layer.model)[-1], cache)

    # From here as in LeRobot's `PI0Pytorch.denoise_step`.
    suffix = PREFIX.new_ones(batch, 1 + HORIZON)
    blocks = torch.tensor([1, 1] + [0] * (HORIZON - 1)).expand(batch, -1)
    prefix_mask = PREFIX[:, None, :].expand(-1, 1 + HORIZON, -1)
    mask = torch.cat([prefix_mask, make_att_2d_masks(suffix, blocks)], dim=2)
    their_places = PREFIX.sum(dim=-1)[:, None] + torch.cumsum(suffix, dim=1) - 1
    their_cache = DynamicCache()
    their_cache.update(keys, values, 0)
    want = layer.call_theirs(part, x, their_places, mask, their_cache)
    return got, want
