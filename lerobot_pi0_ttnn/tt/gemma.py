"""Gemma's block with pi0's key/value cache. Source: transformers `modeling_gemma.py`. Twin: `reference/gemma.py`.

The tokens of a batch lie one row after another, (1, 1, B * T, D): to all but attention they are rows of one matrix, and each
weight is read once for all of them.
"""

from dataclasses import dataclass
from functools import partial

import torch
import ttnn
from torch import Tensor

from ..model.blocks import rotary_angles
from ..model.config import GemmaConfig
from .layers import BranchLinear, Linear, Modulation, RMSNorm, attention, by_rows
from .movable import Move
from .ops.attend import AttendPlan, attend
from .ops.gate_up import GateUpPlan, gate_up
from .ops.heads import split_heads, split_heads_by_ttnn
from .precision import OpPrecision
from .program import fused
from .weights import DeviceWeights, on_host


@dataclass(frozen=True)
class RotaryTables:
    """Cosines and sines for RoPE, (1, 1, B * T, H) each, row by row; the sines of the first half of H are negated."""

    cos: ttnn.Tensor
    sin: ttnn.Tensor

    def moved(self, move: Move) -> "RotaryTables":
        """Returns the tables, each of them moved."""
        return RotaryTables(move(self.cos), move(self.sin))


def rotary_tables(positions: Tensor, config: GemmaConfig, dtype: ttnn.DataType) -> RotaryTables:
    """Returns the host's tables for split-half RoPE.

    Args:
        positions: (B, T) int64.
        config: sizes of the transformer.
        dtype: of the tables.
    """
    angles = rotary_angles(positions.flatten()[None], config.head_dim, config.rope_theta)
    cos, sin = angles.cos(), angles.sin()
    cos, sin = torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)
    return RotaryTables(on_host(cos, dtype), on_host(sin, dtype))


@dataclass(frozen=True)
class TokenBlock:
    """What a block of tokens brings to every layer.

    Attributes:
        start: number of its first token in the cache.
        rotary: tables for its tokens; of one row of the batch where they are the same for all.
        mask: (B, 1, T, S) for all S tokens of the cache, added to the scores.
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
        rows: of the batch.
    """

    def __init__(
        self, length: int, config: GemmaConfig, dtype: ttnn.DataType, device: ttnn.Device, *, rows: int = 1
    ) -> None:
        shape = (rows, config.num_kv_heads, length, config.head_dim)
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
        """Returns the rotated queries, (B, N, T, H); None where there are none."""
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
        """Puts the keys and values of `x`, (1, 1, B * T, D), in the cache, where the block has its place."""
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
        self.o_proj = BranchLinear(weights, "o_proj", precision)
        self.programs = weights.programs

    def __call__(
        self,
        stream: ttnn.Tensor,
        x: ttnn.Tensor,
        block: TokenBlock,
        cache: KeyValueCache,
        modulation: Modulation[ttnn.Tensor] | None = None,
    ) -> ttnn.Tensor:
        """Returns the stream after it, (1, 1, B * T, D), and leaves the tokens' own keys and values in the cache.

        Args:
            stream: (1, 1, B * T, D), the residual stream.
            x: (1, 1, B * T, D), normed.
            block: of the tokens of `x`.
            cache: holds the tokens before the block, and after it whatever it held.
            modulation: of the norm, where it is adaptive.
        """
        q: ttnn.Tensor = self.split_heads(self.qkv_proj(x), block, cache)
        plan = self.programs.attend(q, cache.keys) if stream.is_sharded() else None
        what = f"attention {'x'.join(map(str, q.shape))} to {cache.keys.shape[-2]}"
        out = self.programs.run(what, plan, partial(self._attended, q, block, cache))
        return self.o_proj.add_to(stream, out, modulation)

    def _attended(
        self, q: ttnn.Tensor, block: TokenBlock, cache: KeyValueCache, plan: AttendPlan | None
    ) -> ttnn.Tensor:
        """Returns what the queries attend to: by our own program (1, N, T, H), by ttnn's op (1, 1, B * T, N * H)."""
        keys, values = cache.keys, cache.values
        if plan is not None:
            return attend(q, keys, values, block.mask, plan, self.precision.exact_fidelity)
        return by_rows(attention(q, keys, values, mask=block.mask, scale=1.0, precision=self.precision), 1)


class GemmaMLPTTNN:
    """down(gelu_tanh(gate(x)) * up(x)): of few rows by our own program up to the product, else by ttnn's ops.

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
        self.down_proj = BranchLinear(weights, "down_proj", precision)
        self.precision = precision
        self.programs = weights.programs

    def __call__(
        self, stream: ttnn.Tensor, x: ttnn.Tensor, modulation: Modulation[ttnn.Tensor] | None = None
    ) -> ttnn.Tensor:
        """Returns the stream after it, (1, 1, B * T, D).

        Args:
            stream: (1, 1, B * T, D), the residual stream.
            x: (1, 1, B * T, D), normed.
            modulation: of the norm, where it is adaptive.
        """
        plan = self.programs.gate_up(x, self.gate_proj.weight)
        what = f"gate, up and product {'x'.join(map(str, x.shape))} {x.dtype.name} to {self.gate_proj.weight.shape[-1]}"
        # Below tensors as wide as the MLP it would keep the place that they leave from the circular buffers of the next layer.
        into = None if x.is_sharded() or modulation is not None else self.down_proj.result_of(x)
        product = self.programs.run(what, plan, partial(self._product, x))
        return self.down_proj.add_to(stream, product, modulation, into=into)

    def _product(self, x: ttnn.Tensor, plan: GateUpPlan | None) -> ttnn.Tensor:
        gate, up = self.gate_proj, self.up_proj
        if plan is not None:
            return gate_up(x, gate.weight, up.weight, plan, self.precision.fidelity, self.precision.throttle)
        gelu = ttnn.UnaryOpType.GELU_TANH
        if x.is_sharded():
            # Of few rows each core has few tiles: where they are accumulated, the activation costs no reading.
            return ttnn.multiply(gate(x, activation=gelu), up(x))
        gated = gate(x)
        # In its place: of what is as wide as the MLP two tensors fit into the cores' memory, three would not.
        return ttnn.multiply(gated, up(x), input_tensor_a_activations=[fused(gelu)], output_tensor=gated)


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

    def modulations(self, conditions: Tensor) -> list[BlockModulations]:
        """Returns what the time makes of this layer's norms at each step; see `RMSNorm.modulations`."""
        norms = self.input_layernorm, self.post_attention_layernorm
        return [BlockModulations(*step) for step in zip(*(norm.modulations(conditions) for norm in norms), strict=True)]

    def __call__(
        self, x: ttnn.Tensor, block: TokenBlock, cache: KeyValueCache, modulations: BlockModulations = NOT_ADAPTIVE
    ) -> ttnn.Tensor:
        """Returns (1, 1, B * T, D) in the dtype of x.

        Args:
            x: (1, 1, B * T, D).
            block: of the tokens of `x`.
            cache: holds the tokens before the block, and after it whatever it held.
            modulations: of this step, where the norms are adaptive.
        """
        normed = self.input_layernorm(x, modulations.attention)
        x = self.self_attn(x, normed, block, cache, modulations.attention)
        return self.mlp(x, self.post_attention_layernorm(x, modulations.mlp), modulations.mlp)


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
        """Puts the keys and values of `x`, (1, 1, B * T, D), in the cache, where the block has its place."""
        self.keys_values.write(self.input_layernorm(x), block, cache)
