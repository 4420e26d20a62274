"""Writes into a static buffer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def slice_write(
    input_tensor: torch.Tensor,
    output_tensor: torch.Tensor,
    slice_start: Sequence[int],
    slice_end: Sequence[int],
    slice_step: Sequence[int] | None = None,
    **_: Any,
) -> torch.Tensor:
    """Returns `output_tensor` with `input_tensor` at [start, end).

    ttnn's own golden function demands the steps, and has other names for the arguments.
    """
    steps = slice_step or [1] * len(slice_start)
    where = tuple(slice(*bounds) for bounds in zip(slice_start, slice_end, steps, strict=True))
    output_tensor[where] = input_tensor
    return output_tensor
