"""Values as the board stores them: rounding to a dtype, and tensors on the host as the board would send them."""

from __future__ import annotations

from typing import Any

import torch
import ttnn

BLOCK_FORMATS = (ttnn.bfloat8_b, ttnn.bfloat4_b)


def shadow_dtype(dtype: Any) -> torch.dtype:
    """Returns the torch dtype that holds every value of ttnn's `dtype`: block formats have 7 significant bits."""
    if dtype in BLOCK_FORMATS:
        return torch.bfloat16
    return ttnn.ttnn_dtype_to_torch_dtype(dtype)  # type: ignore[no-any-return]


def rounded(value: torch.Tensor, dtype: Any) -> torch.Tensor:
    """Returns `value` as a tensor of `dtype` would hold it, in its shadow dtype."""
    if dtype in BLOCK_FORMATS:
        packed = ttnn.Tensor(tensor=value.float().contiguous(), data_type=dtype, layout=ttnn.TILE_LAYOUT)
        return packed.to_torch().to(torch.bfloat16)  # type: ignore[no-any-return]
    return value.to(shadow_dtype(dtype))


def value_of_host_tensor(tensor: Any) -> torch.Tensor:
    """Returns the value of a ttnn tensor on the host: its own bytes, which `to_torch` copies, in its shadow dtype."""
    return tensor.to_torch().to(shadow_dtype(tensor.dtype))  # type: ignore[no-any-return]


def host_tensor(value: torch.Tensor, like: Any) -> Any:
    """Returns a ttnn tensor on the host with this value, and the dtype and layout of `like`."""
    value = value.float() if like.dtype in BLOCK_FORMATS else value
    return ttnn.Tensor(tensor=value, data_type=like.dtype, layout=like.layout, tile=like.tile)


def for_computing(value: torch.Tensor) -> torch.Tensor:
    """Returns a copy that a golden function may write into: float32, or integers as they are."""
    return value.to(torch.float32 if value.is_floating_point() else value.dtype, copy=True)


def on_board(value: Any) -> bool:
    """Returns whether `value` is a ttnn tensor whose bytes are on the device."""
    return isinstance(value, ttnn.Tensor) and value.storage_type() == ttnn.StorageType.DEVICE
