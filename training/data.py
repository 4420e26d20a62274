"""The collected frames of all tasks, in memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

HELD_OUT = 0.05
"""Part of each task's episodes, the last ones, that is never trained on."""


@dataclass(frozen=True)
class Frames:
    """What `collect` wrote, a row for each frame of any task."""

    image: Tensor
    """(N, 3, 112, 112) uint8."""
    state: Tensor
    """(N, 4), as LeRobot's environment has it."""
    action: Tensor
    """(N, chunk, 4), the clean expert's, in [-1, 1]."""
    object: Tensor
    """(N, 3), where the object to be moved is, metres."""
    object_pixel: Tensor
    """(N, 2), where it is seen, as fractions of the picture's side."""
    hand_pixel: Tensor
    """(N, 2), the same of the hand."""
    task: Tensor
    """(N,) int64, number of the task."""
    prompts: list[str]
    """Of each task."""
    held_out: Tensor
    """(N,) bool."""

    def rows(self, *, held_out: bool) -> Tensor:
        """Returns the numbers of the frames for training or for validation."""
        return torch.nonzero(self.held_out == held_out)[:, 0]

    def images(self, rows: Tensor) -> Tensor:
        """Returns pictures as LeRobot's preprocessor hands them over: (rows, 3, 112, 112) float32 in [0, 1]."""
        return self.image[rows].float() / 255


def load(folder: Path, tasks: Sequence[str]) -> Frames:
    """Returns the frames of some tasks, read from the files that `collect` wrote."""
    columns: dict[str, list[np.ndarray[Any, Any]]] = {}
    prompts = []
    for number, task in enumerate(tasks):
        with np.load(folder / f"{task}.npz") as file:
            episode = file["episode"]
            first, last = int(episode.min()), int(episode.max())
            held_out = episode > last - (last - first + 1) * HELD_OUT
            prompts.append(str(file["prompt"]))
            table = {name: file[name] for name in file.files if name != "prompt"}
            for name, values in (table | {"task": np.full(len(episode), number), "held_out": held_out}).items():
                columns.setdefault(name, []).append(values)
    joined = {name: torch.from_numpy(np.concatenate(parts)) for name, parts in columns.items() if name != "episode"}
    joined["image"] = joined["image"].permute(0, 3, 1, 2).contiguous()
    return Frames(prompts=prompts, **joined)


def vary_colours(images: Tensor, generator: torch.Generator) -> Tensor:
    """Returns pictures in [0, 1] with their contrast, their channels and each pixel a little off."""
    rows = len(images)
    images = images * (1 + 0.1 * torch.randn(rows, 1, 1, 1, generator=generator))
    images = images + 0.03 * torch.randn(rows, 3, 1, 1, generator=generator)
    return (images + 0.02 * torch.randn(images.shape, generator=generator)).clamp_(0, 1)
