"""Matrix products with bias and fused activation."""

from __future__ import annotations

from typing import Any

import torch
from ttnn.operations.activations import get_golden_function_for_activation


def minimal_matmul(
    input_tensor: torch.Tensor,
    weight_tensor: torch.Tensor,
    *,
    bias_tensor: torch.Tensor | None = None,
    fused_activation: Any = None,
    fuse_swiglu: bool = False,
    **_: Any,
) -> torch.Tensor:
    """Returns `activation(input @ weight + bias)`."""
    if fuse_swiglu or not isinstance(input_tensor, torch.Tensor):
        raise NotImplementedError("ttnn.experimental.minimal_matmul: fuse_swiglu and a pair of inputs are not emulated")
    product = input_tensor @ weight_tensor
    product = product if bias_tensor is None else product + bias_tensor
    return product if fused_activation is None else get_golden_function_for_activation(fused_activation)(product)
