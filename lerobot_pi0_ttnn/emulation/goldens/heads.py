"""Splitting a fused projection into heads, and joining them."""

from __future__ import annotations

from typing import Any

import torch


def nlp_create_qkv_heads(
    input: torch.Tensor,
    input_kv: torch.Tensor | None = None,
    *,
    num_heads: int,
    num_kv_heads: int | None = None,
    transpose_k_heads: bool = True,
    kv_tied: bool = False,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns q (B, N, S, H), k (B, K, S, H) or transposed (B, K, H, S), v (B, K, S, H) of (B, 1, S, (N + 2 K) H)."""
    if kv_tied:
        raise NotImplementedError("ttnn.experimental.nlp_create_qkv_heads: kv_tied is not emulated")
    kv_heads = num_heads if num_kv_heads is None else num_kv_heads
    if input_kv is None:
        head_dim = input.shape[-1] // (num_heads + 2 * kv_heads)
        query, key, value = torch.split(input, [num_heads * head_dim, kv_heads * head_dim, kv_heads * head_dim], dim=-1)
    else:
        query, (key, value) = input, input_kv.chunk(2, dim=-1)
    key = _split_heads(key, kv_heads)
    return _split_heads(query, num_heads), key.mT if transpose_k_heads else key, _split_heads(value, kv_heads)


def _split_heads(joined: torch.Tensor, heads: int) -> torch.Tensor:
    batch, _, length, width = joined.shape
    return joined.reshape(batch, length, heads, width // heads).transpose(1, 2)


def nlp_concat_heads(input_tensor_a: torch.Tensor, **_: Any) -> torch.Tensor:
    """Returns the heads of (B, N, T, H) beside each other, (B, 1, T, N * H)."""
    return input_tensor_a.transpose(1, 2).flatten(-2)[:, None]
