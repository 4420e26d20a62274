"""Activations."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import ttnn


def gelu(input_tensor: torch.Tensor, *, variant: Any = None, **_: Any) -> torch.Tensor:
    """Returns the gelu that the kernel stands for: erf, or its tanh form for `GeluVariant.Tanh`.

    ttnn's own golden function has no value for the table look-up (`fast_and_approximate_mode`, `GeluVariant.FastLut`);
    it approximates the erf form, to some 0.02, which this one does not model.
    """
    return F.gelu(input_tensor, approximate="tanh" if variant == ttnn.GeluVariant.Tanh else "none")
