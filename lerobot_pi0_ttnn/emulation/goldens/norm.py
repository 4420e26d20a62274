"""Normalisations over the last dimension."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F


def layer_norm(
    input_tensor: torch.Tensor,
    *,
    epsilon: float = 1e-12,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    residual_input_tensor: torch.Tensor | None = None,
    **_: Any,
) -> torch.Tensor:
    """Returns the layer norm of `x`, where x has the residual added.

    `weight` and `bias` may have any shape of D elements: ttnn takes (1, 1, D / 32, 32) in row-major layout, which its
    own golden function does not.
    """
    value = input_tensor if residual_input_tensor is None else input_tensor + residual_input_tensor
    weight = weight if weight is None else weight.flatten()
    bias = bias if bias is None else bias.flatten()
    return F.layer_norm(value, value.shape[-1:], weight, bias, epsilon)
