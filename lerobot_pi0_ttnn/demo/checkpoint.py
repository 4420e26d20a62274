"""pi0 weights without training: every tensor, seeded, of any size, streamed to a safetensors file."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint.writer import write_safetensors

DTYPE_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16"}


def random_tensor(name: str, shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Returns a tensor scaled as a trained one: matrices by their fan-in, norms near their identity, small biases."""
    if name.endswith("bias"):
        scale = 0.02
    elif len(shape) == 1:
        scale = 0.1
    elif name.endswith(("embed_tokens.weight", "lm_head.weight", "position_embedding.weight")):
        scale = shape[-1] ** -0.5
    else:
        scale = math.prod(shape[1:]) ** -0.5
    tensor = torch.empty(shape, dtype=dtype).normal_(0.0, scale, generator=generator)
    # SigLIP's norms multiply by their weight, Gemma's by 1 + weight.
    identity_is_one = "vision_tower" in name and "norm" in name and name.endswith("weight")
    return tensor.add_(1.0) if identity_is_one else tensor


def write_random_weights(path: Path, shapes: Mapping[str, tuple[int, ...]], *, seed: int, dtype: torch.dtype) -> None:
    """Writes random tensors to a safetensors file, drawn in the order of `shapes` and held one at a time.

    Args:
        path: the file; it appears whole or not at all.
        shapes: of each tensor, by the name to save it under.
        seed: of the weights.
        dtype: float32 or bfloat16.
    """
    generator = torch.Generator().manual_seed(seed)
    headers = {name: (DTYPE_NAMES[dtype], shape) for name, shape in shapes.items()}
    write_safetensors(path, headers, lambda name: random_tensor(name, shapes[name], generator, dtype))
