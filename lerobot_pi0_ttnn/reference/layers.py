"""The layers that SigLIP and Gemma share. Inputs are float32; a bfloat16 weight makes only its own matmul bfloat16."""

from dataclasses import dataclass

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


@dataclass(frozen=True)
class Modulation:
    """What an adaptive norm does at one step: normalised x * scale + shift, and then the branch that reads it times gate.

    Attributes:
        scale: (D,) float32, the 1 included.
        shift: (D,) float32.
        gate: (D,) float32.
    """

    scale: Tensor
    shift: Tensor
    gate: Tensor


class RMSNorm:
    """Gemma's norm, in float32: x / rms(x) * (1 + weight), or, where it is adaptive, modulated by the time.

    Source: transformers `modeling_gemma.py::GemmaRMSNorm`, openpi `models/gemma.py::RMSNorm`.

    Args:
        weights: cursor at the layer.
        epsilon: added to the mean square.
        adaptive: whether `dense`, of 3 x D, makes the modulation; there is no weight then.
    """

    def __init__(self, weights: Weights, epsilon: float, *, adaptive: bool = False) -> None:
        self.epsilon = epsilon
        if adaptive:
            self.dense = Linear(weights.at("dense"), torch.float32, bias=True)
        else:
            self.scale = 1.0 + weights.take("weight", torch.float32)

    def modulations(self, conditions: Tensor) -> list[Modulation]:
        """Returns the modulation of an adaptive norm at each step.

        Args:
            conditions: (steps, D) float32, see `SuffixEmbeddingTorch.time_conditions`.
        """
        scale, shift, gate = self.dense(conditions).chunk(3, dim=-1)
        return [Modulation(*rows) for rows in zip(1.0 + scale, shift, gate, strict=True)]

    def __call__(self, x: Tensor, modulation: Modulation | None = None) -> Tensor:
        """Returns (..., D) float32.

        Args:
            x: (..., D) float32.
            modulation: of this step; an adaptive norm needs it, any other has none.
        """
        normalised = x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + self.epsilon)
        if modulation is None:
            return normalised * self.scale
        return normalised * modulation.scale + modulation.shift


def add_branch(x: Tensor, branch: Tensor, modulation: Modulation | None) -> Tensor:
    """Returns the residual stream after a branch, gated where the norm that it reads is adaptive.

    Args:
        x: (..., D) float32.
        branch: (..., D), any float dtype.
        modulation: of the norm that the branch reads; None where it is not adaptive.
    """
    return x + (branch if modulation is None else branch * modulation.gate)


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
