"""What the host gives the device for one row of a batch: everything that is uploaded, all of it before anything runs.

Absent cameras and language padding stay on the host: the device has the row's real tokens, and padding only up to whole
tiles. The keys lie in the cache in pi0's three blocks, and the mask of each block of queries hides what it must not see:

               prefix  pads   state  pads   actions  pads
    prefix        1      0      0      0       0       0
    state         1      0      1      0       0       0
    actions       1      0      1      0       1       0
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import ttnn
from torch import Tensor

from ..masks import block_mask, positions, suffix_positions
from ..model_config import PI0ModelConfig
from ..rtc import Guidance
from .gemma import RotaryTables, rotary_tables
from .layers import pad_columns, pad_rows
from .precision import Precision
from .program import KEY_CHUNK, TILE, round_up
from .siglip import patch_rows
from .weights import on_host

MASKED = -1e4
"""Added to the scores of hidden keys: far enough for exp to give zero, and finite, since -inf - -inf is NaN."""

Move = Callable[[ttnn.Tensor], ttnn.Tensor]

UPLOADS_PER_ROW = 13
"""Pixels, prompt, state and noise; for each of the three blocks a mask, cosines and sines. With guidance two more."""


@dataclass(frozen=True)
class TokenLayout:
    """Where the tokens of one row lie in the cache; each block begins at a whole tile.

    Attributes:
        prefix: real prefix tokens: patches, then language.
        state: number of the state token.
        actions: number of the first action.
        length: tokens in the cache.
    """

    prefix: int
    state: int
    actions: int
    length: int


def token_layout(cameras: int, language: int, config: PI0ModelConfig) -> TokenLayout:
    """Returns the layout of a row with so many cameras and so many real language tokens."""
    prefix = cameras * config.vision.num_patches + language
    state = round_up(prefix, TILE)
    actions = state + TILE
    return TokenLayout(prefix, state, actions, round_up(actions + round_up(config.horizon, TILE), KEY_CHUNK))


def key_mask(layout: TokenLayout, horizon: int) -> Tensor:
    """Returns (S, S) bool for the S tokens of the cache, True where a query may attend to a key: never padding."""
    token = torch.arange(layout.length)
    starts_block = (token == layout.state) | (token == layout.actions)
    is_real = (token < layout.prefix) | (token == layout.state)
    is_real |= (token >= layout.actions) & (token < layout.actions + horizon)
    return block_mask(starts_block, is_real[None])[0]


@dataclass(frozen=True)
class Block:
    """What one block of tokens brings to every layer.

    Attributes:
        start: number of its first token in the cache.
        rotary: tables for its tokens.
        mask: (1, 1, T, length of the cache), added to the scores. The prefix has one tile of rows, since all are alike.
    """

    start: int
    rotary: RotaryTables
    mask: ttnn.Tensor

    def moved(self, move: Move) -> "Block":
        """Returns the block with each of its tensors moved."""
        return Block(self.start, self.rotary.moved(move), move(self.mask))


@dataclass(frozen=True)
class RowInputs:
    """One row of a batch, on the host or on the device.

    Attributes:
        layout: where its tokens go.
        pixels: (cameras, 1, patches, pixels) bfloat16, or None without a camera.
        tokens: (1, language tokens rounded up to a whole tile) uint32, or None without a prompt.
        prefix: block of the patches and the prompt.
        state: block of the state token.
        actions: block of the actions.
        proprioception: (1, 1, 32, state_dim) float32, in row 0.
        noise: (1, 1, horizon, action_dim) float32, both rounded up to whole tiles.
        guidance: its prefix and its weights shaped like the noise, or None.
    """

    layout: TokenLayout
    pixels: ttnn.Tensor | None
    tokens: ttnn.Tensor | None
    prefix: Block
    state: Block
    actions: Block
    proprioception: ttnn.Tensor
    noise: ttnn.Tensor
    guidance: Guidance[ttnn.Tensor] | None

    def moved(self, move: Move) -> "RowInputs":
        """Returns the row with each of its tensors moved, always in the same order."""
        guidance = self.guidance
        return RowInputs(
            layout=self.layout,
            pixels=None if self.pixels is None else move(self.pixels),
            tokens=None if self.tokens is None else move(self.tokens),
            prefix=self.prefix.moved(move),
            state=self.state.moved(move),
            actions=self.actions.moved(move),
            proprioception=move(self.proprioception),
            noise=move(self.noise),
            guidance=guidance and Guidance(move(guidance.prefix), move(guidance.weights), guidance.max_gain),
        )

    def on(self, device: ttnn.Device) -> "RowInputs":
        """Returns the row, which is on the host, in the device's DRAM."""
        return self.moved(lambda tensor: ttnn.to_device(tensor, device, memory_config=ttnn.DRAM_MEMORY_CONFIG))

    def tensors(self) -> list[ttnn.Tensor]:
        """Returns its tensors, always in the same order."""
        found: list[ttnn.Tensor] = []

        def find(tensor: ttnn.Tensor) -> ttnn.Tensor:
            found.append(tensor)
            return tensor

        self.moved(find)
        return found

    def specs(self) -> tuple[tuple[Any, ...], ...]:
        """Returns shape, dtype and layout of each of its tensors: rows that agree in them run the same programs."""
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
        self,
        images: Sequence[Tensor],
        lang_tokens: Tensor,
        state: Tensor,
        noise: Tensor,
        guidance: Guidance[Tensor] | None = None,
    ) -> RowInputs:
        """Returns one row on the host.

        Args:
            images: for each camera that the row has (3, image_size, image_size) float32 in [-1, 1].
            lang_tokens: (L,) int64, real tokens only.
            state: (state_dim,) float32.
            noise: (horizon, action_dim) float32.
            guidance: with a prefix of (horizon, action_dim).
        """
        config, exact = self.config, self.precision.suffix.activations
        layout = token_layout(len(images), lang_tokens.shape[0], config)
        if layout.state == 0:
            raise ValueError("expected a camera or a prompt, got a row with neither: there is nothing to attend to")
        language = layout.state - len(images) * config.vision.num_patches
        rows = round_up(config.horizon, TILE)
        mask = key_mask(layout, config.horizon)
        is_real = torch.arange(layout.state)[None, :] < layout.prefix
        suffix = suffix_positions(is_real, 1 + rows)
        return RowInputs(
            layout=layout,
            pixels=self._pixels(images) if images else None,
            tokens=self._tokens(pad_columns(lang_tokens[None, :], language)) if language else None,
            prefix=self._block(0, positions(is_real), mask, TILE),
            state=self._block(layout.state, suffix[:, :1].expand(-1, TILE), mask, TILE),
            actions=self._block(layout.actions, suffix[:, 1:], mask, rows),
            proprioception=on_host(
                pad_rows(pad_columns(state[None, None, None, :], round_up(state.shape[-1], TILE)), TILE), exact
            ),
            noise=self._actions(noise),
            guidance=self._guidance(guidance) if guidance else None,
        )

    def _actions(self, actions: Tensor) -> ttnn.Tensor:
        columns, rows = round_up(self.config.action_dim, TILE), round_up(self.config.horizon, TILE)
        padded = pad_rows(pad_columns(actions[None, None], columns), rows)
        return on_host(padded, self.precision.suffix.activations)

    def _guidance(self, guidance: Guidance[Tensor]) -> Guidance[ttnn.Tensor]:
        weights = guidance.weights.expand(-1, self.config.action_dim)
        return Guidance(self._actions(guidance.prefix), self._actions(weights), guidance.max_gain)

    def _pixels(self, images: Sequence[Tensor]) -> ttnn.Tensor:
        return on_host(patch_rows(torch.stack(list(images)), self.config.vision), ttnn.bfloat16)

    def _tokens(self, tokens: Tensor) -> ttnn.Tensor:
        return on_host(tokens.to(torch.int32), ttnn.uint32, layout=ttnn.ROW_MAJOR_LAYOUT)

    def _block(self, start: int, token_positions: Tensor, key_mask: Tensor, rows: int) -> Block:
        # All queries of a block see the same keys, those in the padding of its tile included: nobody reads them.
        mask = torch.where(key_mask[start], 0.0, MASKED).expand(1, 1, rows, -1)
        rotary = rotary_tables(token_positions, self.config.vlm, self.precision.rotary)
        return Block(start, rotary, on_host(mask, ttnn.bfloat16))
