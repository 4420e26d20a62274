"""Attention."""

from __future__ import annotations

from typing import Any

import torch
from ttnn.operations.transformer_golden import scaled_dot_product_attention_golden

from ...ttnn_api.tiles import TILE


def scaled_dot_product_attention(
    input_tensor_q: torch.Tensor,
    input_tensor_k: torch.Tensor,
    input_tensor_v: torch.Tensor,
    *,
    attn_mask: torch.Tensor | None = None,
    output_concat_heads: bool = False,
    **options: Any,
) -> torch.Tensor:
    """Returns attention (B, N, T, H), or (B, 1, T, N H) with its heads joined, which ttnn's own golden leaves out."""
    keys = input_tensor_k.shape[-2]
    if attn_mask is not None and keys % TILE:
        # The kernel takes the tile padding of a mask for zeros, and attends the padding of the keys.
        raise NotImplementedError(
            f"ttnn.transformer.scaled_dot_product_attention: {keys} keys with a mask: on a card the padding up to "
            "a multiple of 32 would be attended. Pad keys and mask yourself, and mask what you padded"
        )
    attended: torch.Tensor = scaled_dot_product_attention_golden(
        input_tensor_q, input_tensor_k, input_tensor_v, attn_mask=attn_mask, **options
    )
    return attended.transpose(1, 2).flatten(2).unsqueeze(1) if output_concat_heads else attended
