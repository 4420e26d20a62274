"""What is new in a row at every call: pixels, state and noise. All else is in its `Context`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ttnn
from torch import Tensor

from ..model_config import PI0ModelConfig
from ..rtc import Guidance
from .layers import pad_columns, pad_rows
from .movable import Movable, Move
from .precision import Precision
from .program import TILE, round_up
from .siglip import patch_rows
from .weights import on_host

UPLOADS_PER_ROW = 3
"""Pixels, state and noise. With guidance two more."""


@dataclass(frozen=True)
class RowInputs(Movable):
    """What is new in one row of a batch, on the host or on the device.

    Attributes:
        pixels: (cameras, 1, patches, pixels) bfloat16, row by row, not in tiles; None without a camera.
        proprioception: (1, 1, 32, state_dim) float32, in row 0.
        noise: (1, 1, horizon, action_dim) float32, both rounded up to whole tiles.
        guidance: its prefix and its weights shaped like the noise, or None.
    """

    pixels: ttnn.Tensor | None
    proprioception: ttnn.Tensor
    noise: ttnn.Tensor
    guidance: Guidance[ttnn.Tensor] | None

    def moved(self, move: Move) -> "RowInputs":
        """Returns the inputs, each of them moved, always in the same order."""
        guidance = self.guidance
        return RowInputs(
            pixels=None if self.pixels is None else move(self.pixels),
            proprioception=move(self.proprioception),
            noise=move(self.noise),
            guidance=guidance and Guidance(move(guidance.prefix), move(guidance.weights), guidance.max_gain),
        )

    def specs(self) -> tuple[tuple[Any, ...], ...]:
        """Returns shape, dtype and layout of each tensor."""
        return tuple((tuple(tensor.shape), tensor.dtype, tensor.layout) for tensor in self.tensors())


class InputMaker:
    """Lays out rows of a batch on the host as the device wants them.

    Args:
        config: sizes of the model.
        precision: dtypes.
    """

    def __init__(self, config: PI0ModelConfig, precision: Precision) -> None:
        self.config = config
        self.precision = precision

    def __call__(
        self, images: Sequence[Tensor], state: Tensor, noise: Tensor, guidance: Guidance[Tensor] | None = None
    ) -> RowInputs:
        """Returns what is new in one row, on the host.

        Args:
            images: for each camera that the row has (3, image_size, image_size) float32 in [-1, 1].
            state: (state_dim,) float32.
            noise: (horizon, action_dim) float32.
            guidance: with a prefix of (horizon, action_dim) and weights of (horizon, 1).
        """
        token = pad_rows(pad_columns(state[None, None, None, :], round_up(state.shape[-1], TILE)), TILE)
        return RowInputs(
            pixels=self._pixels(images) if images else None,
            proprioception=on_host(token, self.precision.suffix.activations),
            noise=self._actions(noise),
            guidance=self._guidance(guidance) if guidance else None,
        )

    def _pixels(self, images: Sequence[Tensor]) -> ttnn.Tensor:
        return on_host(patch_rows(images, self.config.vision), ttnn.bfloat16, layout=ttnn.ROW_MAJOR_LAYOUT)

    def _actions(self, actions: Tensor) -> ttnn.Tensor:
        columns, rows = round_up(self.config.action_dim, TILE), round_up(self.config.horizon, TILE)
        padded = pad_rows(pad_columns(actions[None, None], columns), rows)
        return on_host(padded, self.precision.suffix.activations)

    def _guidance(self, guidance: Guidance[Tensor]) -> Guidance[ttnn.Tensor]:
        weights = guidance.weights.expand(-1, self.config.action_dim)
        return Guidance(self._actions(guidance.prefix), self._actions(weights), guidance.max_gain)
