"""A pi0 checkpoint without training: every tensor, seeded, of any size, written as LeRobot saves it."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from ..model_config import PI0ModelConfig
from ..weights import expected_shapes

SHARD_BYTES = 2 << 30


def random_tensor(name: str, shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Returns a tensor scaled as a trained one: matrices by their fan-in, norms near their identity, small biases."""
    if name.endswith("bias"):
        scale = 0.02
    elif len(shape) == 1:
        scale = 0.1
    elif name.endswith(("embed_tokens.weight", "position_embedding.weight")):
        scale = shape[-1] ** -0.5
    else:
        scale = math.prod(shape[1:]) ** -0.5
    tensor = torch.empty(shape, dtype=dtype).normal_(0.0, scale, generator=generator)
    # SigLIP's norms multiply by their weight, Gemma's by 1 + weight.
    return (
        tensor.add_(1.0)
        if name.endswith("weight") and "layer_norm" in name.replace("post_layernorm", "layer_norm")
        else tensor
    )


def random_tensors(config: PI0ModelConfig, *, seed: int, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Yields every tensor of a model by LeRobot's name, one at a time."""
    generator = torch.Generator().manual_seed(seed)
    for name, shape in expected_shapes(config).items():
        yield f"model.{name}", random_tensor(name, shape, generator, dtype)


def write_checkpoint(folder: Path, config: PI0ModelConfig, *, seed: int, dtype: torch.dtype) -> None:
    """Writes random weights: `model.safetensors`, or shards of about 2 GiB and their index where there is more.

    Args:
        folder: where to; it must exist.
        config: sizes of the model.
        seed: of the weights.
        dtype: of the weights.
    """
    total = sum(math.prod(shape) for shape in expected_shapes(config).values()) * dtype.itemsize
    shards = max(1, math.ceil(total / SHARD_BYTES))
    weight_map: dict[str, str] = {}
    pending: dict[str, Tensor] = {}
    with tqdm(total=total, unit="B", unit_scale=True, desc="Making weights", delay=2) as bar:
        for name, tensor in random_tensors(config, seed=seed, dtype=dtype):
            pending[name] = tensor
            bar.update(tensor.nbytes)
            if sum(t.nbytes for t in pending.values()) >= SHARD_BYTES:
                _write_shard(folder, pending, weight_map)
        if shards == 1:
            save_file(pending, folder / "model.safetensors")
            return
        _write_shard(folder, pending, weight_map)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def _write_shard(folder: Path, pending: dict[str, Tensor], weight_map: dict[str, str]) -> None:
    if pending:
        file = f"model-{len(set(weight_map.values())) + 1:05}.safetensors"
        save_file(pending, folder / file)
        weight_map |= dict.fromkeys(pending, file)
        pending.clear()


def stats_of(mean: Mapping[str, Tensor], std: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Returns normalisation statistics as LeRobot keeps them: feature -> mean and std."""
    return {feature: {"mean": mean[feature], "std": std[feature]} for feature in mean}
