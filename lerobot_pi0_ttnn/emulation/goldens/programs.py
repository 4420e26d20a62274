"""Programs of our own kernels, which `ttnn.generic_op` runs: what they compute, by the name of their kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Program:
    """What a program does to the tensors that it is run on.

    Attributes:
        writes: how many of them, the last ones, it writes.
        golden: gets the values of all of them and ttnn's descriptor; returns those of the written ones.
    """

    writes: int
    golden: Callable[[Sequence[torch.Tensor], Any], tuple[torch.Tensor, ...]]


def program_name(descriptor: Any) -> str:
    """Returns what the kernels are called without their roles: `split_heads` of `split_heads_reader.cpp`."""
    return Path(descriptor.kernels[0].kernel_source).stem.rpartition("_")[0]


def split_heads(tensors: Sequence[torch.Tensor], descriptor: Any) -> tuple[torch.Tensor, ...]:
    """Returns the rotated queries, the keys and the values; see `tt/ops/heads/`."""
    qkv, cos, sin, _, keys, values = tensors
    start = 32 * descriptor.kernels[0].common_runtime_args[0]
    length, size = qkv.shape[-2], keys.shape[-1]
    heads = qkv.reshape(1, length, -1, size).transpose(1, 2)
    swapped = torch.cat([heads[..., size // 2 :], heads[..., : size // 2]], dim=-1)
    rotated = (heads * cos + swapped * sin)[:, :-1]
    keys[:, :, start : start + length] = rotated[:, -1:]
    values[:, :, start : start + length] = heads[:, -1:]
    return (rotated[:, :-1] if heads.shape[1] > 2 else keys), keys, values


PROGRAMS = {"split_heads": Program(writes=3, golden=split_heads)}
