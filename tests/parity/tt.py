"""What the tests of the TTNN twin share: its inputs row by row, and values going up and down."""

from dataclasses import dataclass

import torch
import ttnn
from torch import Tensor

from lerobot_pi0_ttnn.device.executor import PI0ModelTTNN
from lerobot_pi0_ttnn.model.config import PI0ModelConfig
from lerobot_pi0_ttnn.model.tensors import expected_shapes
from lerobot_pi0_ttnn.tt.gemma import KeyValueCache
from lerobot_pi0_ttnn.tt.inputs import Context, Inputs
from lerobot_pi0_ttnn.tt.paligemma import Prefix
from lerobot_pi0_ttnn.tt.program import TILE, round_up
from lerobot_pi0_ttnn.tt.weights import to_device

from ..oracle import ModelInputs


def random_weights(config: PI0ModelConfig, seed: int = 0) -> dict[str, Tensor]:
    """Weights like those of `oracle.randomise`, without a LeRobot policy to hold them."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in expected_shapes(config).items():
        x = torch.randn(shape, generator=generator)
        if "norm" in name and ".dense." not in name:
            is_layer_norm = "layer_norm" in name or "post_layernorm" in name
            weights[name] = x * 0.2 + float(is_layer_norm and name.endswith("weight"))
        elif len(shape) > 1:
            fan_in = x[0].numel() * (4 if "embed" in name and "patch" not in name else 1)
            weights[name] = x * 1.2 / fan_in**0.5
        else:
            weights[name] = x * 0.1
    return weights


def random_inputs(config: PI0ModelConfig, cameras: int, tokens: int, *, batch: int = 1, seed: int = 1) -> ModelInputs:
    """So many cameras and real tokens in each row, of four cameras and 48 tokens or more; what is absent is noise."""
    length = max(48, tokens)
    generator = torch.Generator().manual_seed(seed)
    size = config.vision.image_size
    return {
        "images": [torch.rand(batch, 3, size, size, generator=generator) * 2 - 1 for _ in range(4)],
        "img_masks": [torch.full((batch,), camera >= 4 - cameras) for camera in range(4)],
        "lang_tokens": torch.randint(0, config.vocab_size, (batch, length), generator=generator),
        "lang_masks": torch.arange(length).expand(batch, -1) < tokens,
        "state": torch.randn(batch, config.state_dim, generator=generator),
    }


@dataclass(frozen=True)
class Row:
    """One row of a batch on the device, until another of its size takes the place of its context."""

    context: Context
    inputs: Inputs


def upload_row(model: PI0ModelTTNN, inputs: ModelInputs, row: int, noise: Tensor) -> Row:
    """One row on the device, as `sample_actions` puts it there."""
    chip, cameras = model.chips[0], zip(inputs["images"], inputs["img_masks"], strict=True)
    tokens = inputs["lang_tokens"][row][inputs["lang_masks"][row]]
    present = [image[row] for image, mask in cameras if mask[row]]
    uploaded = chip.make_inputs(present, tokens, inputs["state"][row], noise[row]).on(chip.device)
    context = chip.contexts.load(len(present), tokens)
    return Row(model.backbone.read_prompt(uploaded.prompt, context) if uploaded.prompt else context, uploaded)


def prefilled(model: PI0ModelTTNN, row: Row) -> Prefix:
    """The keys and values of the row's prefix, without those of the blocks that follow it."""
    return model.backbone.prefill(model.backbone.embed_prefix(row.inputs, row.context), row.context)


def up(model: PI0ModelTTNN, x: Tensor, dtype: ttnn.DataType = ttnn.float32) -> ttnn.Tensor:
    """(T, D) rows as (1, 1, T, D) on the device, padded with zeros to whole tiles."""
    rows = round_up(x.shape[-2], TILE) - x.shape[-2]
    return to_device(torch.nn.functional.pad(x, (0, 0, 0, rows))[None, None], dtype, model.chips[0].device)


def up_to_expert(model: PI0ModelTTNN, x: Tensor, dtype: ttnn.DataType = ttnn.float32) -> ttnn.Tensor:
    """As `up`, in shards, where the expert's stream is kept."""
    rows, columns = round_up(x.shape[-2], TILE), x.shape[-1]
    return ttnn.to_memory_config(up(model, x, dtype), model.suffix_embedding.programs.in_shards(rows, columns))


def down(x: ttnn.Tensor, rows: int) -> Tensor:
    """The first rows of (1, 1, T, D), float32."""
    return ttnn.to_torch(x).float()[0, 0, :rows]


def store(cache: KeyValueCache, keys: ttnn.Tensor, values: ttnn.Tensor, start: int) -> None:
    """Puts (1, 1, T, H) keys and values on the device in the cache, whole tiles, by ttnn's own op."""
    ttnn.fill_cache(cache.keys, keys, 0, update_idx=start)
    ttnn.fill_cache(cache.values, values, 0, update_idx=start)


def tokens_of(cached: ttnn.Tensor, start: int, length: int) -> Tensor:
    """(length, H) keys or values of a cache (1, 1, S, H) from token `start` on."""
    return ttnn.to_torch(cached).float()[0, 0, start : start + length]
