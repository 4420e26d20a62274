"""The layers that SigLIP and Gemma share. Inputs are float32; a bfloat16 weight makes only its own matmul bfloat16."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..model.tensors import Weights


class Linear:
    """x @ weight.T + bias, in the dtype of the weight.

    Args:
        weights: cursor at the layer.
        dtype: of the weight, of the matmul and of what it returns.
        bias: whether the layer has one.
    """

    def __init__(self, weights: Weights, dtype: torch.dtype, *, bias: bool) -> None:
        self.weight = weights.take("weight", dtype)
        self.bias = weights.take("bias", dtype) if bias else None

    def __call__(self, x: Tensor) -> Tensor:
        """Returns (..., out) in the layer's dtype.

        Args:
            x: (..., in), any float dtype.
        """
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias)


class RMSNorm:
    """Gemma's norm: x / rms(x) * (1 + weight), in float32. Source: transformers `modeling_gemma.py::GemmaRMSNorm`.

    Args:
        weights: cursor at the layer.
        epsilon: added to the mean square.
    """

    def __init__(self, weights: Weights, epsilon: float) -> None:
        self.scale = 1.0 + weights.take("weight", torch.float32)
        self.epsilon = epsilon

    def __call__(self, x: Tensor) -> Tensor:
        """Returns (..., D) float32.

        Args:
            x: (..., D) float32.
        """
        return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + self.epsilon) * self.scale


class LayerNorm:
    """SigLIP's norm, in float32.

    Args:
        weights: cursor at the layer.
        epsilon: added to the variance.
    """

    def __init__(self, weights: Weights, epsilon: float) -> None:
        self.weight = weights.take("weight", torch.float32)
        self.bias = weights.take("bias", torch.float32)
        self.epsilon = epsilon

    def __call__(self, x: Tensor) -> Tensor:
        """Returns (..., D) float32.

        Args:
            x: (..., D) float32.
        """
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Returns x, (B, T, N * H), as (B, N, T, H)."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """Returns x, (B, N, T, H), as (B, T, N * H)."""
    return x.transpose(1, 2).flatten(2)
