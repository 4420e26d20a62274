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
    """Returns `input_tensor` rotated: (B, N, S, H) by tables (1, 1, S, H), or (1, B, N, H) by tables (1, B, 1, H)."""
    length = 1 if is_decode_mode else input_tensor.shape[-2]
    return _rotate(input_tensor, cos_cache[..., :length, :], sin_cache[..., :length, :])


def rotary_embedding(
    input_tensor: torch.Tensor,
    cos_cache: torch.Tensor,
    sin_cache: torch.Tensor,
    token_index: int | None = None,
    **_: Any,
) -> torch.Tensor:
    """Returns (B, N, S, H) rotated by the first S rows of the tables, or (S=1, 1, B, H) by the row `token_index`.

    ttnn's own golden function knows the second form only.
    """
    first, length = (0, input_tensor.shape[-2]) if token_index is None else (token_index, 1)
    rotated = _rotate(
        input_tensor, cos_cache[..., first : first + length, :], sin_cache[..., first : first + length, :]
    )
    # The op counts the tile padding of S into the logical shape of its output.
    padding = -rotated.shape[-2] % 32
    return torch.nn.functional.pad(rotated, (0, 0, 0, padding))


def _rotate(value: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = value.chunk(2, dim=-1)
    return value * cos + torch.cat([-second, first], dim=-1) * sin
