"""pi0 weights without training: every tensor, seeded, of any size, streamed to a safetensors file."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

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
    """Writes random tensors to a safetensors file, holding one of them at a time.

    safetensors' own writer wants all of them at once, which a full-size pi0 may not fit.

    Args:
        path: the file; it appears whole or not at all.
        shapes: of each tensor, by the name to save it under.
        seed: of the weights.
        dtype: float32 or bfloat16.
    """
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": DTYPE_NAMES[dtype], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    generator = torch.Generator().manual_seed(seed)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file, tqdm(total=end, unit="B", unit_scale=True, desc="Making weights", delay=2) as bar:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            file.write(random_tensor(name, shape, generator, dtype).view(torch.uint8).numpy().data)
            bar.update(math.prod(shape) * dtype.itemsize)
    partial.replace(path)
