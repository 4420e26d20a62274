"""Attention."""

from __future__ import annotations

from typing import Any

import torch
from ttnn.operations.transformer_golden import scaled_dot_product_attention_golden


def scaled_dot_product_attention(
    input_tensor_q: torch.Tensor,
    input_tensor_k: torch.Tensor,
    input_tensor_v: torch.Tensor,
    *,
    output_concat_heads: bool = False,
    **options: Any,
) -> torch.Tensor:
    """Returns attention (B, N, T, H), or (B, 1, T, N H) with its heads joined, which ttnn's own golden leaves out."""
    attended: torch.Tensor = scaled_dot_product_attention_golden(
        input_tensor_q, input_tensor_k, input_tensor_v, **options
    )
    return attended.transpose(1, 2).flatten(2).unsqueeze(1) if output_concat_heads else attended
