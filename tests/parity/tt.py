"""What the tests of the TTNN twin share: its inputs row by row, and values going up and down."""

import torch
from torch import Tensor

from lerobot_pi0_ttnn.analysis import parts
from lerobot_pi0_ttnn.analysis.parts import Row, actions_of, down, store, tokens_of, up, up_actions, up_to_expert
from lerobot_pi0_ttnn.device.executor import PI0ModelTTNN
from lerobot_pi0_ttnn.model.config import PI0ModelConfig
from lerobot_pi0_ttnn.model.observation import Observation
from lerobot_pi0_ttnn.model.tensors import expected_shapes
from lerobot_pi0_ttnn.tt.paligemma import Prefix

from ..oracle import ModelInputs

__all__ = [
    "Row",
    "actions_of",
    "down",
    "prefilled",
    "random_inputs",
    "random_weights",
    "store",
    "tokens_of",
    "up",
    "up_actions",
    "up_to_expert",
    "upload_row",
]


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


def upload_row(model: PI0ModelTTNN, inputs: ModelInputs, row: int, noise: Tensor) -> Row:
    """One row on the device, as `sample_actions` puts it there."""
    return parts.upload_row(model, Observation(**inputs), row, noise)


def prefilled(model: PI0ModelTTNN, row: Row) -> Prefix:
    """What the row's steps begin with."""
    graph = model.chips[0].graph
    return graph.prefill(graph.embed_prefix(row.inputs, row.context), row.inputs, row.context)
