"""Gemma's block with pi0's key/value cache. Source: transformers `modeling_gemma.py`. Twin: `tt/gemma.py`."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..model.blocks import rotary_angles
from ..model.config import GemmaConfig
from ..model.tensors import Weights
from .layers import Linear, Modulation, RMSNorm, add_branch, join_heads, split_heads


@dataclass(frozen=True)
class RotaryTables:
    """Cosines and sines for RoPE, (B, 1, T, H) float32 each."""

    cos: Tensor
    sin: Tensor


def rotary_tables(positions: Tensor, config: GemmaConfig) -> RotaryTables:
    """Returns the tables for split-half RoPE.

    Args:
        positions: (B, T) int64.
        config: sizes of the transformer.
    """
    angles = rotary_angles(positions, config.head_dim, config.rope_theta)
    angles = torch.cat([angles, angles], dim=-1)
    return RotaryTables(angles.cos(), angles.sin())


def rotate(x: Tensor, tables: RotaryTables) -> Tensor:
    """Returns x, (B, N, T, H), rotated by its tokens' positions: the first half of H is paired with the second.

    Computed in float32, returned in the dtype of `x`.
    """
    full = x.float()
    first, second = full.chunk(2, dim=-1)
    return (full * tables.cos + torch.cat([-second, first], dim=-1) * tables.sin).to(x.dtype)


@dataclass(frozen=True)
class TokenBlock:
    """What a block of tokens brings to every layer.

    Attributes:
        start: number of its first token in the cache.
        rotary: tables for its tokens.
        visible: (B, T, start + T) bool, False on keys that a token does not attend to; None where there are none.
    """

    start: int
    rotary: RotaryTables
    visible: Tensor | None = None

    @property
    def end(self) -> int:
        """Returns the number after that of its last token."""
        return self.start + self.rotary.cos.shape[2]


class KeyValueCache:
    """The keys and values of one layer for all tokens of a call, written block by block.

    Args:
        batch: B.
        length: tokens of prefix and suffix together.
        config: sizes of the transformer.
        dtype: of what is stored.
    """

    def __init__(self, batch: int, length: int, config: GemmaConfig, dtype: torch.dtype) -> None:
        shape = (batch, config.num_kv_heads, length, config.head_dim)
        self.keys = torch.empty(shape, dtype=dtype)
        self.values = torch.empty(shape, dtype=dtype)

    def write(self, keys: Tensor, values: Tensor, start: int) -> None:
        """Stores (B, K, T, H) keys and values as tokens `start` to `start + T`."""
        end = start + keys.shape[2]
        self.keys[:, :, start:end] = keys
        self.values[:, :, start:end] = values


class GemmaKeyValuesTorch:
    """The keys and values of one layer: what it leaves for later tokens.

    Args:
        config: sizes of the transformer.
        weights: cursor at `self_attn`.
        dtype: of the matmuls; RoPE is float32.
    """

    def __init__(self, config: GemmaConfig, weights: Weights, dtype: torch.dtype) -> None:
        self.heads = config.num_kv_heads
        self.k_proj = Linear(weights.at("k_proj"), dtype, bias=False)
        self.v_proj = Linear(weights.at("v_proj"), dtype, bias=False)

    def write(self, x: Tensor, block: TokenBlock, cache: KeyValueCache) -> None:
        """Puts the keys and values of `x`, (B, T, D), in the cache, where the block has its place."""
        k, v = (split_heads(p(x), self.heads) for p in (self.k_proj, self.v_proj))
        cache.write(rotate(k, block.rotary), v, block.start)


class GemmaAttentionTorch:
    """Attention of one block of tokens to itself and to all that the cache holds before it, but for what is not visible.

    Args:
        config: sizes of the transformer.
        weights: cursor at `self_attn`.
        dtype: of the matmuls; RoPE and softmax are float32.
    """

    def __init__(self, config: GemmaConfig, weights: Weights, dtype: torch.dtype) -> None:
        self.config = config
        self.q_proj = Linear(weights.at("q_proj"), dtype, bias=False)
        self.keys_values = GemmaKeyValuesTorch(config, weights, dtype)
        self.o_proj = Linear(weights.at("o_proj"), dtype, bias=False)

    def __call__(self, x: Tensor, block: TokenBlock, cache: KeyValueCache) -> Tensor:
        """Returns (B, T, D) in the matmuls' dtype, and leaves the tokens' own keys and values in the cache.

        Args:
            x: (B, T, D) float32.
            block: of the tokens of `x`.
            cache: holds the tokens before the block.
        """
        x = x.to(self.q_proj.weight.dtype)
        self.keys_values.write(x, block, cache)
        q = split_heads(self.q_proj(x), self.config.num_heads)
        k, v = (t[:, :, : block.end].expand(-1, self.config.num_heads, -1, -1) for t in (cache.keys, cache.values))
        mask = None if block.visible is None else block.visible[:, None]
        out = F.scaled_dot_product_attention(rotate(q, block.rotary), k, v, attn_mask=mask)
        return self.o_proj(join_heads(out))


class GemmaMLPTorch:
    """down(gelu_tanh(gate(x)) * up(x)).

    Args:
        weights: cursor at `mlp`.
        dtype: of the matmuls.
    """

    def __init__(self, weights: Weights, dtype: torch.dtype) -> None:
        self.gate_proj = Linear(weights.at("gate_proj"), dtype, bias=False)
        self.up_proj = Linear(weights.at("up_proj"), dtype, bias=False)
        self.down_proj = Linear(weights.at("down_proj"), dtype, bias=False)

    def __call__(self, x: Tensor) -> Tensor:
        """Returns (B, T, D) in the matmuls' dtype.

        Args:
            x: (B, T, D) float32.
        """
        x = x.to(self.gate_proj.weight.dtype)
        return self.down_proj(F.gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x))


@dataclass(frozen=True)
class BlockModulations:
    """What the time makes of one layer's norms at one step; None where they are not adaptive.

    Attributes:
        attention: of the norm before attention, and of what attention adds.
        mlp: of the norm before the MLP, and of what the MLP adds.
    """

    attention: Modulation | None = None
    mlp: Modulation | None = None


NOT_ADAPTIVE = BlockModulations()


class GemmaBlockTorch:
    """One pre-norm transformer layer.

    Args:
        config: sizes of the transformer.
        weights: cursor at `layers.{i}`.
        dtype: of the matmuls; norms and the residual stream are float32.
    """

    def __init__(self, config: GemmaConfig, weights: Weights, dtype: torch.dtype) -> None:
        epsilon, adaptive = config.rms_norm_eps, config.adaptive_norms
        self.input_layernorm = RMSNorm(weights.at("input_layernorm"), epsilon, adaptive=adaptive)
        self.self_attn = GemmaAttentionTorch(config, weights.at("self_attn"), dtype)
        self.post_attention_layernorm = RMSNorm(weights.at("post_attention_layernorm"), epsilon, adaptive=adaptive)
        self.mlp = GemmaMLPTorch(weights.at("mlp"), dtype)

    def modulations(self, conditions: Tensor) -> list[BlockModulations]:
        """Returns what the time makes of this layer's norms at each step; see `RMSNorm.modulations`."""
        norms = self.input_layernorm, self.post_attention_layernorm
        return [BlockModulations(*step) for step in zip(*(norm.modulations(conditions) for norm in norms), strict=True)]

    def __call__(
        self, x: Tensor, block: TokenBlock, cache: KeyValueCache, modulations: BlockModulations = NOT_ADAPTIVE
    ) -> Tensor:
        """Returns (B, T, D) float32.

        Args:
            x: (B, T, D) float32.
            block: of the tokens of `x`.
            cache: holds the tokens before the block.
            modulations: of this step, where the norms are adaptive.
        """
        normed = self.input_layernorm(x, modulations.attention)
        x = add_branch(x, self.self_attn(normed, block, cache), modulations.attention)
        return add_branch(x, self.mlp(self.post_attention_layernorm(x, modulations.mlp)), modulations.mlp)


class GemmaLastPrefixLayerTorch:
    """The last layer as the prefix needs it: its norm, keys and values. Nothing reads its output.

    Args:
        config: sizes of the transformer.
        weights: cursor at `layers.{i}`.
        dtype: of the matmuls.
    """

    def __init__(self, config: GemmaConfig, weights: Weights, dtype: torch.dtype) -> None:
        self.input_layernorm = RMSNorm(weights.at("input_layernorm"), config.rms_norm_eps)
        self.keys_values = GemmaKeyValuesTorch(config, weights.at("self_attn"), dtype)

    def write_keys_values(self, x: Tensor, block: TokenBlock, cache: KeyValueCache) -> None:
        """Puts the keys and values of `x`, (B, T, D) float32, in the cache, where the block has its place."""
        self.keys_values.write(self.input_layernorm(x), block, cache)
