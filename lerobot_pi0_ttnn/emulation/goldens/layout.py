"""Changes of shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F


def pad(
    input_tensor: torch.Tensor,
    padding: Sequence[Any],
    *positional: Any,
    input_tensor_start: Sequence[int] | None = None,
    value: float = 0.0,
    **_: Any,
) -> torch.Tensor:
    """Returns the padded tensor; `padding` is (before, after) for each of the last dimensions, or the shape to reach.

    ttnn's own golden function reads the tensor back from the device, where there is no value.
    """
    pairs = [tuple(pair) for pair in padding if not isinstance(pair, int)]
    rest = list(positional)
    if len(pairs) < len(padding):
        start = list(rest.pop(0)) if rest else list(input_tensor_start or [0] * input_tensor.ndim)
        pairs = [
            (first, size - length - first)
            for size, length, first in zip(padding, input_tensor.shape, start, strict=True)
        ]
    filler = rest[0] if rest else value
    return F.pad(input_tensor, [amount for pair in reversed(pairs) for amount in pair], value=filler)
