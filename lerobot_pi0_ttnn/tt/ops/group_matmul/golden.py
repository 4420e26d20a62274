"""What `group_matmul` computes, in torch."""

from collections.abc import Sequence
from typing import Any

import torch


def golden(tensors: Sequence[torch.Tensor], descriptor: Any) -> tuple[torch.Tensor, ...]:
    """Returns x @ weight, float32, with the stream added where there is one.

    Args:
        tensors: x, weight, stream where there is one, and the result that is written.
        descriptor: ttnn's, which changes no value.
    """
    x, weight, *stream, _ = tensors
    product = x @ weight
    return (stream[0] + product if stream else product,)
