"""What a model asks of a board: parts, memory, operations by stage, transfers. On an emulated board, from shapes alone."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import ttnn
from torch import Tensor

from ..flow import schedule
from ..model_config import PI0ModelConfig
from ..weights import EXPERT, Shapes, shapes_of
from .board import Board
from .model import PI0ModelTTNN

NEEDED_ON_THE_HOST = ("state_", "action_", f"{EXPERT}.norm.")
"""Weights that the host computes with before anything goes up: their values are read even where only shapes count."""


class ShapesOnly(Mapping[str, Tensor]):
    """Weights without values: as large as the checkpoint's, and read from it only where the host needs the numbers.

    Args:
        weights: the checkpoint's.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._weights = weights
        self._shapes = shapes_of(weights)

    def __getitem__(self, name: str) -> Tensor:
        if name.startswith(NEEDED_ON_THE_HOST):
            return self._weights[name]
        return torch.empty(self._shapes[name], device="meta")

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    def shapes(self) -> Shapes:
        """Returns the shape of each tensor by name."""
        return self._shapes


def walk(
    config: PI0ModelConfig, weights: Mapping[str, Tensor], board: Board, *, precision: str, cameras: int, tokens: int
) -> dict[str, Any]:
    """Returns what the model is and needs on an emulated board, having had ttnn validate and allocate every op of a call.

    Args:
        config: sizes of the model.
        weights: the checkpoint's; hardly any of them are read.
        board: an emulated one.
        precision: see `tt/precision.py`.
        cameras: present ones.
        tokens: of the prompt.

    Raises:
        RuntimeError: ttnn's own, where an op is not legal on the board, or memory does not suffice.
    """
    with board.lock, board.shapes_only():
        model = PI0ModelTTNN(config, ShapesOnly(weights), board.device, precision=precision)
        stages = operations_by_stage(model, board, cameras=cameras, tokens=tokens)
        return {"board": board.describe(), "model": model.describe(), "stages": stages}


def operations_by_stage(model: PI0ModelTTNN, board: Board, *, cameras: int, tokens: int) -> dict[str, dict[str, int]]:
    """Returns for each stage of a call, as run on a made-up row, its operations, uploads and readbacks.

    Args:
        model: on the board.
        board: any kind.
        cameras: present ones.
        tokens: of the prompt.
    """
    config, backbone, suffix = model.config, model.backbone, model.suffix_embedding
    size = config.vision.image_size
    images = [torch.zeros(3, size, size) for _ in range(cameras)]
    noise = torch.zeros(config.horizon, config.action_dim)
    bias = suffix.time_bias(schedule(1))[0]
    with board.record() as upload:
        row = model.upload(images, torch.ones(tokens, dtype=torch.long), torch.zeros(config.state_dim), noise)
    backbone.static_caches(row.layout.length)
    with board.record() as vision:
        embeddings = backbone.embed_prefix(row)
    with board.record() as prefill:
        prefix = backbone.prefill(embeddings, row)
    with board.record() as state:
        backbone.write_state(suffix.embed_state(row.proprioception), prefix)
    with board.record() as step:
        velocity = suffix.velocity(backbone.forward_actions(suffix.embed_actions(row.noise, bias), prefix))
        ttnn.addalpha(row.noise, velocity, -1.0)
    stages = {
        "upload": upload,
        "vision and language": vision,
        "prefill": prefill,
        "state": state,
        "denoising step": step,
    }
    return {
        name: {
            "operations": counts.operations.total(),
            "uploads": counts.uploads.count,
            "upload_bytes": counts.uploads.bytes,
            "readbacks": counts.readbacks.count,
        }
        for name, counts in stages.items()
    }
