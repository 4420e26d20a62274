"""Gemma's block with pi0's key/value cache. Source: transformers `modeling_gemma.py`. Twin: `reference/gemma.py`."""

from dataclasses import dataclass
from functools import partial

import torch
import ttnn
from torch import Tensor

from ..model.blocks import rotary_angles
from ..model.config import GemmaConfig
from .layers import Linear, Modulation, RMSNorm, add_branch, attention
from .movable import Move
from .ops.heads import split_heads, split_heads_by_ttnn
from .precision import OpPrecision
from .program import fused
from .weights import DeviceWeights, on_host


@dataclass(frozen=True)
class RotaryTables:
    """Cosines and sines for RoPE, (1, 1, T, H) each; the sines of the first half of H are negated."""

    cos: ttnn.Tensor
    sin: ttnn.Tensor

    def moved(self, move: Move) -> "RotaryTables":
        """Returns the tables, each of them moved."""
        return RotaryTables(move(self.cos), move(self.sin))


def rotary_tables(positions: Tensor, config: GemmaConfig, dtype: ttnn.DataType) -> RotaryTables:
    """Returns the host's tables for split-half RoPE.

    Args:
        positions: (1, T) int64.
        config: sizes of the transformer.
        dtype: of the tables.
    """
    angles = rotary_angles(positions, config.head_dim, config.rope_theta)
    cos, sin = angles.cos(), angles.sin()
    cos, sin = torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)
    return RotaryTables(on_host(cos, dtype), on_host(sin, dtype))


@dataclass(frozen=True)
class TokenBlock:
    """What a block of tokens brings to every layer.

    Attributes:
        start: number of its first token in the cache.
        rotary: tables for its tokens.
        mask: (1, 1, T, S) for all S tokens of the cache, added to the scores.
    """

    start: int
    rotary: RotaryTables
    mask: ttnn.Tensor

    def moved(self, move: Move) -> "TokenBlock":
        """Returns the block with each of its tensors moved."""
        return TokenBlock(self.start, self.rotary.moved(move), move(self.mask))


class KeyValueCache:
    """The keys and values of one layer for all tokens of a call, written block by block, in place, by `split_heads`.

    It starts as zeros, so that a block which is masked because nobody has written it yet holds finite numbers.

    Args:
        length: tokens of prefix and suffix together, padding included.
        config: sizes of the transformer.
        dtype: of what is stored.
        device: where it is.
    """

    def __init__(self, length: int, config: GemmaConfig, dtype: ttnn.DataType, device: ttnn.Device) -> None:
        shape = (1, config.num_kv_heads, length, config.head_dim)
        self.keys, self.values = (ttnn.zeros(shape, dtype, ttnn.TILE_LAYOUT, device) for _ in range(2))


class _SplitHeads:
    """Takes the heads of a projection apart, rotates them and stores keys and values: by our own program, or by ttnn's ops.

    Args:
        config: sizes of the transformer.
        weights: cursor at `self_attn`.
        num_heads: of the queries; 0 where there are none.
        precision: of the role.
    """

    def __init__(self, config: GemmaConfig, weights: DeviceWeights, num_heads: int, precision: OpPrecision) -> None:
        self.num_heads = num_heads
        self.precision = precision
        half = torch.ones(1, 1, 1, config.head_dim // 2)
        self.sign = (
            weights.upload("rotary_sign", lambda: torch.cat([-half, half], dim=-1), ttnn.float32)
            if weights.programs.stock
            else None
        )

    def __call__(self, projection: ttnn.Tensor, block: TokenBlock, cache: KeyValueCache) -> ttnn.Tensor | None:
        """Returns the rotated queries, (1, N, T, H); None where there are none."""
        tables = block.rotary
        given = (projection, tables.cos, tables.sin, cache.keys, cache.values, block.start, self.num_heads)
        if self.sign is not None:
            return split_heads_by_ttnn(*given, sign=self.sign, kernel=self.precision.exact_kernel)
        return split_heads(*given, fidelity=self.precision.exact_fidelity)


class GemmaKeyValuesTTNN:
    """The keys and values of one layer: what it leaves for later tokens.

    Args:
        config: sizes of the transformer.
        weights: cursor at `self_attn`.
        norm: whose output it reads.
        precision: of the matmuls.
    """

    def __init__(self, config: GemmaConfig, weights: DeviceWeights, norm: RMSNorm, precision: OpPrecision) -> None:
        if config.num_kv_heads != 1:
            raise ValueError(f"num_kv_heads: pi0 on ttnn has one key/value head, got {config.num_kv_heads}")

        def fused() -> Tensor:
            return torch.cat([weights.take(f"{name}.weight") for name in ("k_proj", "v_proj")])

        self.split_heads = _SplitHeads(config, weights, 0, precision)
        self.kv_proj = Linear(weights, "kv_proj", fused, None, precision, reads=norm.modulation)

    def write(self, x: ttnn.Tensor, block: TokenBlock, cache: KeyValueCache) -> None:
        """Puts the keys and values of `x`, (1, 1, T, D), in the cache, where the block has its place."""
        self.split_heads(self.kv_proj(x), block, cache)


class GemmaAttentionTTNN:
    """Attention of one block of tokens to all that the cache holds, itself included, but for what the mask hides.

    Args:
        config: sizes of the transformer.
        weights: cursor at `self_attn`.
        norm: whose output it reads.
        precision: of the matmuls.
    """

    def __init__(self, config: GemmaConfig, weights: DeviceWeights, norm: RMSNorm, precision: OpPrecision) -> None:
        self.precision = precision
        self.split_heads = _SplitHeads(config, weights, config.num_heads, precision)

        def fused() -> Tensor:
            # The scores' scale goes with the queries: attention that scales also scales its mask, in an op of its own.
            q, k, v = (weights.take(f"{name}.weight") for name in ("q_proj", "k_proj", "v_proj"))
            return torch.cat([q * config.head_dim**-0.5, k, v])

        self.qkv_proj = Linear(weights, "qkv_proj", fused, None, precision, reads=norm.modulation)
        self.o_proj = Linear(
            weights, "o_proj", lambda: weights.take("o_proj.weight"), None, precision, output=precision.stream
        )

    def write_keys_values(self, x: ttnn.Tensor, block: TokenBlock, cache: KeyValueCache) -> ttnn.Tensor:
        """Returns the queries, scaled and rotated, (1, N, T, H), having put the keys and values of `x` in the cache."""
        return self.split_heads(self.qkv_proj(x), block, cache)

    def __call__(self, x: ttnn.Tensor, block: TokenBlock, cache: KeyValueCache) -> ttnn.Tensor:
        """Returns (1, 1, T, D) in the stream's dtype, and leaves the tokens' own keys and values in the cache.

        Args:
            x: (1, 1, T, D), normed.
            block: of the tokens of `x`.
            cache: holds the tokens before the block, and after it whatever it held.
        """
        q = self.write_keys_values(x, block, cache)
        out = attention(q, cache.keys, cache.values, mask=block.mask, scale=1.0, precision=self.precision)
        return self.o_proj(out)


class GemmaMLPTTNN:
    """down(gelu_tanh(gate(x)) * up(x)). Gate and up in one matmul would have to be cut apart again.

    Args:
        weights: cursor at `mlp`.
        norm: whose output it reads.
        precision: of the matmuls.
    """

    def __init__(self, weights: DeviceWeights, norm: RMSNorm, precision: OpPrecision) -> None:
        self.gate_proj, self.up_proj = (
            Linear(weights, name, partial(weights.take, f"{name}.weight"), None, precision, reads=norm.modulation)
            for name in ("gate_proj", "up_proj")
        )
        self.down_proj = Linear(
            weights, "down_proj", lambda: weights.take("down_proj.weight"), None, precision, output=precision.stream
        )

    def __call__(self, x: ttnn.Tensor) -> ttnn.Tensor:
        """Returns (1, 1, T, D) in the stream's dtype.

        Args:
            x: (1, 1, T, D), normed.
        """
        gelu = ttnn.UnaryOpType.GELU_TANH
        if x.is_sharded():
            # Of few rows each core has few tiles: where they are accumulated, the activation costs no reading.
            return self.down_proj(ttnn.multiply(self.gate_proj(x, activation=gelu), self.up_proj(x)))
        activations = [fused(gelu)]
        return self.down_proj(ttnn.multiply(self.gate_proj(x), self.up_proj(x), input_tensor_a_activations=activations))


@dataclass(frozen=True)
class BlockModulations:
    """What the time makes of one layer's norms at one step; None where they are not adaptive.

    Attributes:
        attention: of the norm before attention, and of what attention adds.
        mlp: of the norm before the MLP, and of what the MLP adds.
    """

    attention: Modulation[ttnn.Tensor] | None = None
    mlp: Modulation[ttnn.Tensor] | None = None


NOT_ADAPTIVE = BlockModulations()


class GemmaBlockTTNN:
    """One pre-norm transformer layer.

    Args:
        config: sizes of the transformer.
        weights: cursor at `layers.{i}`.
        precision: of the matmuls and of the residual stream.
    """

    def __init__(self, config: GemmaConfig, weights: DeviceWeights, precision: OpPrecision) -> None:
        epsilon, adaptive = config.rms_norm_eps, config.adaptive_norms
        self.input_layernorm = RMSNorm(weights.at("input_layernorm"), epsilon, precision, adaptive=adaptive)
        self.self_attn = GemmaAttentionTTNN(config, weights.at("self_attn"), self.input_layernorm, precision)
        self.post_attention_layernorm = RMSNorm(
            weights.at("post_attention_layernorm"), epsilon, precision, adaptive=adaptive
        )
        self.mlp = GemmaMLPTTNN(weights.at("mlp"), self.post_attention_layernorm, precision)

    def write_keys_values(self, x: ttnn.Tensor, block: TokenBlock, cache: KeyValueCache) -> None:
        """Does only what later tokens need of this layer: the keys and values of `x`, (1, 1, T, D)."""
        self.self_attn.write_keys_values(self.input_layernorm(x), block, cache)

    def modulations(self, conditions: Tensor) -> list[BlockModulations]:
        """Returns what the time makes of this layer's norms at each step; see `RMSNorm.modulations`."""
        norms = self.input_layernorm, self.post_attention_layernorm
        return [BlockModulations(*step) for step in zip(*(norm.modulations(conditions) for norm in norms), strict=True)]

    def __call__(
        self, x: ttnn.Tensor, block: TokenBlock, cache: KeyValueCache, modulations: BlockModulations = NOT_ADAPTIVE
    ) -> ttnn.Tensor:
        """Returns (1, 1, T, D) in the dtype of x.

        Args:
            x: (1, 1, T, D).
            block: of the tokens of `x`.
            cache: holds the tokens before the block, and after it whatever it held.
            modulations: of this step, where the norms are adaptive.
        """
        normed = self.input_layernorm(x, modulations.attention)
        x = add_branch(x, self.self_attn(normed, block, cache), modulations.attention)
        return add_branch(x, self.mlp(self.post_attention_layernorm(x, modulations.mlp)), modulations.mlp)


class GemmaLastPrefixLayerTTNN:
    """The last layer as the prefix needs it: its norm, keys and values. Nothing reads its output.

    Args:
        config: sizes of the transformer.
        weights: cursor at `layers.{i}`.
        precision: of the matmuls.
    """

    def __init__(self, config: GemmaConfig, weights: DeviceWeights, precision: OpPrecision) -> None:
        self.input_layernorm = RMSNorm(weights.at("input_layernorm"), config.rms_norm_eps, precision)
        self.keys_values = GemmaKeyValuesTTNN(config, weights.at("self_attn"), self.input_layernorm, precision)

    def write_keys_values(self, x: ttnn.Tensor, block: TokenBlock, cache: KeyValueCache) -> None:
        """Puts the keys and values of `x`, (1, 1, T, D), in the cache, where the block has its place."""
        self.keys_values.write(self.input_layernorm(x), block, cache)
