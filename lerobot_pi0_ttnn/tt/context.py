"""What belongs to a prompt and to a number of cameras: uploaded once, and on the device for as long as neither changes.

Absent cameras and language padding stay on the host: the device has the row's real tokens, and padding only up to whole
tiles. The keys lie in the cache in pi0's three blocks, and the mask of each block of queries hides what it must not see:

               prefix  pads   state  pads   actions  pads
    prefix        1      0      0      0       0       0
    state         1      0      1      0       0       0
    actions       1      0      1      0       1       0
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import ttnn
from torch import Tensor

from ..masks import block_mask, positions, suffix_positions
from ..model_config import PI0ModelConfig
from .gemma import RotaryTables, rotary_tables
from .layers import pad_columns
from .movable import Movable, Move
from .precision import Precision
from .program import KEY_CHUNK, TILE, round_up
from .trace import Traces
from .weights import on_host

MASKED = -1e4
"""Added to the scores of hidden keys: far enough for exp to give zero, and finite, since -inf - -inf is NaN."""

UPLOADS_PER_CONTEXT = 10
"""The prompt's tokens; for each of the three blocks a mask, cosines and sines."""


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
    """Returns the layout of a row with so many cameras and so many real language tokens.

    Raises:
        ValueError: there are neither.
    """
    prefix = cameras * config.vision.num_patches + language
    if prefix == 0:
        raise ValueError("expected a camera or a prompt, got a row with neither: there is nothing to attend to")
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
        mask: (1, 1, T, length of the cache), added to the scores.
    """

    start: int
    rotary: RotaryTables
    mask: ttnn.Tensor

    def moved(self, move: Move) -> "Block":
        """Returns the block with each of its tensors moved."""
        return Block(self.start, self.rotary.moved(move), move(self.mask))


@dataclass(frozen=True)
class Context(Movable):
    """What the rows of one prompt and one number of cameras share.

    Attributes:
        layout: where the tokens go.
        tokens: (1, language tokens rounded up to whole tiles) uint32, or None without a prompt.
        prefix: block of the patches and the prompt.
        state: block of the state token.
        actions: block of the actions.
        language: (1, 1, language tokens, D), the tokens' embeddings, on the device only; None without a prompt.
    """

    layout: TokenLayout
    tokens: ttnn.Tensor | None
    prefix: Block
    state: Block
    actions: Block
    language: ttnn.Tensor | None = None

    def moved(self, move: Move) -> "Context":
        """Returns the context with each tensor that the host makes moved, always in the same order."""
        return Context(
            layout=self.layout,
            tokens=None if self.tokens is None else move(self.tokens),
            prefix=self.prefix.moved(move),
            state=self.state.moved(move),
            actions=self.actions.moved(move),
        )


def make_context(cameras: int, tokens: Tensor, config: PI0ModelConfig, precision: Precision) -> Context:
    """Returns a context on the host.

    Args:
        cameras: present ones.
        tokens: (L,) int64, real tokens only.
        config: sizes of the model.
        precision: dtypes.
    """
    layout = token_layout(cameras, tokens.shape[0], config)
    language = layout.state - cameras * config.vision.num_patches
    mask = key_mask(layout, config.horizon)
    is_real = torch.arange(layout.state)[None, :] < layout.prefix
    suffix = suffix_positions(is_real, 1 + round_up(config.horizon, TILE))

    def block(start: int, token_positions: Tensor) -> Block:
        # All queries of a block see the same keys, those in the padding of its tile included: nobody reads them.
        row = torch.where(mask[start], 0.0, MASKED).bfloat16()
        rotary = rotary_tables(token_positions, config.vlm, precision.rotary)
        return Block(start, rotary, on_host(row.repeat(1, 1, token_positions.shape[1], 1), ttnn.bfloat16))

    padded = pad_columns(tokens[None, :].to(torch.int32), language)
    return Context(
        layout=layout,
        tokens=on_host(padded, ttnn.uint32, layout=ttnn.ROW_MAJOR_LAYOUT) if language else None,
        prefix=block(0, positions(is_real)),
        state=block(layout.state, suffix[:, :1].expand(-1, TILE)),
        actions=block(layout.actions, suffix[:, 1:]),
    )


class Contexts:
    """The contexts on the device: one for each number of cameras and of tiles of prompt, filled anew for another prompt.

    A context stays where it is, since traces know addresses: what `load` returned is overwritten by the next prompt of its
    size. Filling it allocates nothing and compiles nothing that the first filling had not.

    Args:
        config: sizes of the model.
        precision: dtypes.
        device: where they are.
        embed: writes the embeddings of tokens, see `PaliGemmaBackboneTTNN.embed_language`.
        traces: the device's, released before a new context is allocated.
    """

    def __init__(
        self,
        config: PI0ModelConfig,
        precision: Precision,
        device: ttnn.Device,
        embed: Callable[[ttnn.Tensor, ttnn.Tensor], None],
        traces: Traces | None,
    ) -> None:
        self.config = config
        self.precision = precision
        self.device = device
        self._embed = embed
        self._traces = traces
        self._contexts: dict[tuple[int, int], Context] = {}
        self._prompts: dict[tuple[int, int], tuple[int, ...]] = {}

    def load(self, cameras: int, tokens: Tensor) -> Context:
        """Returns the context on the device; uploads only what is not there yet.

        Args:
            cameras: present ones.
            tokens: (L,) int64, real tokens only.

        Raises:
            ValueError: there is neither a camera nor a token.
        """
        size, prompt = (cameras, round_up(tokens.shape[0], TILE)), tuple(tokens.tolist())
        if self._prompts.get(size) != prompt:
            # Until it is whole again it holds no prompt at all.
            self._prompts.pop(size, None)
            self._fill(size, make_context(cameras, tokens, self.config, self.precision))
            self._prompts[size] = prompt
        return self._contexts[size]

    def tensors(self) -> list[ttnn.Tensor]:
        """Returns all that is on the device."""
        contexts = self._contexts.values()
        return [
            *(tensor for context in contexts for tensor in context.tensors()),
            *(context.language for context in contexts if context.language is not None),
        ]

    def _fill(self, size: tuple[int, int], context: Context) -> None:
        on_device = self._contexts.get(size)
        if on_device is None:
            if self._traces is not None:
                self._traces.release()
            on_device = self._allocated(context)
        else:
            context.copy_over(on_device)
        if on_device.tokens is not None and on_device.language is not None:
            self._embed(on_device.tokens, on_device.language)
        self._contexts[size] = replace(on_device, layout=context.layout)

    def _allocated(self, context: Context) -> Context:
        on_device = context.on(self.device)
        if context.tokens is None:
            return on_device
        shape = (1, 1, context.tokens.shape[-1], self.config.vlm.width)
        language = ttnn.empty(shape, self.precision.vlm.stream, ttnn.TILE_LAYOUT, self.device, ttnn.DRAM_MEMORY_CONFIG)
        return replace(on_device, language=language)
