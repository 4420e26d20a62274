"""What a model is asked: the images, prompts and states of one batch. Pure torch, shared by both twins."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from .config import PI0ModelConfig
from .rtc import Guidance


@dataclass(frozen=True)
class Observation:
    """One batch, ready for `sample_actions`."""

    images: Sequence[Tensor]
    """For each camera (B, 3, image_size, image_size) float32 in [-1, 1]."""
    img_masks: Sequence[Tensor]
    """For each camera (B,) bool, False where it is absent."""
    lang_tokens: Tensor
    """(B, L) int64."""
    lang_masks: Tensor
    """(B, L) bool, False on padding."""
    state: Tensor
    """(B, state_dim) float32, normalised, zero-padded; (B, 0) for pi0.5, whose state is in the prompt."""

    @property
    def rows(self) -> int:
        """Returns B."""
        return self.lang_tokens.shape[0]

    def select(self, rows: Sequence[int]) -> "Observation":
        """Returns the batch of these rows alone, without a copy where they are all there are."""
        numbers = list(rows)
        if numbers == list(range(self.rows)):
            return self
        return Observation(
            images=[image[numbers] for image in self.images],
            img_masks=[mask[numbers] for mask in self.img_masks],
            lang_tokens=self.lang_tokens[numbers],
            lang_masks=self.lang_masks[numbers],
            state=self.state[numbers],
        )


def takes_parts(sample_actions: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Returns a model's `sample_actions(observation, ...)` such that it also takes what openpi's and LeRobot's take.

    That is `sample_actions(images, img_masks, lang_tokens, lang_masks, state, ...)`: the fields of an `Observation`.
    """

    @wraps(sample_actions)
    def either(model: Any, *args: Any, **options: Any) -> Tensor:
        if args and isinstance(args[0], Observation):
            return sample_actions(model, *args, **options)
        parts = {name: options.pop(name) for name in Observation.__dataclass_fields__ if name in options}
        return sample_actions(model, Observation(*args, **parts), **options)

    return either


def blank_calls(
    config: PI0ModelConfig, shapes: Sequence[tuple[int, int]], *, rows: int = 1, max_gain: float | None = None
) -> list[tuple[Observation, Guidance[Tensor] | None]]:
    """Returns black observations of these shapes to warm a model up with: all of them free, then all of them guided.

    Args:
        config: sizes of the model.
        shapes: (cameras, prompt tokens) of each.
        rows: B.
        max_gain: of the guidance; None for free chunks only.
    """
    image = torch.zeros(rows, 3, config.vision.image_size, config.vision.image_size)
    observations = [
        Observation(
            images=[image] * cameras,
            img_masks=[torch.ones(rows, dtype=torch.bool)] * cameras,
            lang_tokens=torch.zeros(rows, tokens, dtype=torch.long),
            lang_masks=torch.ones(rows, tokens, dtype=torch.bool),
            state=torch.zeros(rows, config.state_dim),
        )
        for cameras, tokens in shapes
    ]
    chunk, weights = torch.zeros(rows, config.horizon, config.action_dim), torch.zeros(config.horizon, 1)
    guided = [Guidance(chunk, weights, max_gain)] if max_gain else []
    return [(observation, guidance) for guidance in (None, *guided) for observation in observations]
