"""What `split_heads` computes, in torch."""

from collections.abc import Sequence
from typing import Any

import torch

from ....ttnn_api.tiles import TILE


def golden(tensors: Sequence[torch.Tensor], descriptor: Any) -> tuple[torch.Tensor, ...]:
    """Returns the rotated queries, the keys and the values: float32, in the shapes of the tensors that they are of.

    Args:
        tensors: qkv, cos, sin, queries, keys, values; without queries, the keys stand for them.
        descriptor: ttnn's, which says at which token the block starts.
    """
    qkv, cos, sin, _, keys, values = tensors
    start = TILE * descriptor.kernels[0].common_runtime_args[0]
    batch, _, _, size = keys.shape
    length = qkv.shape[-2] // batch
    heads = qkv.reshape(batch, length, -1, size).transpose(1, 2)
    # (B, 1, T, H), or (1, 1, T, H) for all rows of the batch.
    cos, sin = (table.reshape(-1, 1, length, size) for table in (cos, sin))
    swapped = torch.cat([heads[..., size // 2 :], heads[..., : size // 2]], dim=-1)
    rotated = (heads * cos + swapped * sin)[:, :-1]
    keys[:, :, start : start + length] = rotated[:, -1:]
    values[:, :, start : start + length] = heads[:, -1:]
    return (rotated[:, :-1] if heads.shape[1] > 2 else keys), keys, values
