"""Rotary position embedding with the halves of a head as the pair (x1, x2), as in Hugging Face's Gemma."""

from __future__ import annotations

from typing import Any

import torch


def rotary_embedding_hf(
    input_tensor: torch.Tensor,
    cos_cache: torch.Tensor,
    sin_cache: torch.Tensor,
    *,
    is_decode_mode: bool = False,
    **_: Any,
) -> torch.Tensor:
    """Returns `input_tensor` rotated: (B, N, S, H) by the first S rows of tables (1, 1, S, H)."""
    if is_decode_mode:
        raise NotImplementedError("ttnn.experimental.rotary_embedding_hf: is_decode_mode is not emulated")
    length = input_tensor.shape[-2]
    first, second = input_tensor.chunk(2, dim=-1)
    swapped = torch.cat([-second, first], dim=-1)
    return input_tensor * cos_cache[..., :length, :] + swapped * sin_cache[..., :length, :]
