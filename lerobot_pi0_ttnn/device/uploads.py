"""What goes up to a chip: what is new in a row at every call, and what stays there for as long as its prompt does not change.

Absent cameras and language padding stay on the host: the device has the row's real tokens, and padding only up to whole
tiles. The keys lie in the cache block by block, and the mask of each block of queries hides what it must not see:

               prefix  pads   state  pads   actions  pads
    prefix        1      0      0      0       0       0
    state         1      0      1      0       0       0
    actions       1      0      1      0       1       0
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
import ttnn
from torch import Tensor

from ..model.blocks import Block, lay_out, positions, real_tokens, visible_keys
from ..model.config import PI0ModelConfig
from ..model.rtc import Guidance
from ..tt.gemma import KeyValueCache, TokenBlock, rotary_tables
from ..tt.inputs import Context, Inputs
from ..tt.layers import pad_columns, pad_rows
from ..tt.paligemma import PaliGemmaBackboneTTNN
from ..tt.precision import Precision
from ..tt.program import KEY_CHUNK, TILE, round_up
from ..tt.siglip import patch_rows
from ..tt.weights import on_host
from .trace import Traces

MASKED = -1e4
"""Added to the scores of hidden keys: far enough for exp to give zero, and finite, since -inf - -inf is NaN."""

UPLOADS_PER_ROW = 3
"""Pixels, state and noise. With guidance two more."""


def uploads_per_context(config: PI0ModelConfig) -> int:
    """Returns how many they are: the prompt's tokens; for each block a mask, cosines and sines."""
    return 1 + 3 * (1 + len(config.suffix_blocks))


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
    ) -> Inputs:
        """Returns what is new in one row, on the host.

        Args:
            images: for each camera that the row has (3, image_size, image_size) float32 in [-1, 1].
            state: (state_dim,) float32.
            noise: (horizon, action_dim) float32.
            guidance: with a prefix of (horizon, action_dim) and weights of (horizon, 1).
        """
        token = pad_rows(pad_columns(state[None, None, None, :], round_up(state.shape[-1], TILE)), TILE)
        return Inputs(
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


def token_layout(cameras: int, language: int, config: PI0ModelConfig) -> tuple[Block, ...]:
    """Returns the blocks of a row with so many cameras and so many real language tokens, each from a whole tile on.

    Raises:
        ValueError: there are neither.
    """
    prefix = cameras * config.vision.num_patches + language
    if prefix == 0:
        raise ValueError("expected a camera or a prompt, got a row with neither: there is nothing to attend to")
    return lay_out(prefix, config, multiple=TILE)


def cache_length(layout: Sequence[Block]) -> int:
    """Returns the tokens in a cache for these blocks: whole chunks of keys."""
    return round_up(layout[-1].end, KEY_CHUNK)


def make_context(cameras: int, tokens: Tensor, config: PI0ModelConfig, precision: Precision) -> Context:
    """Returns a context on the host.

    Args:
        cameras: present ones.
        tokens: (L,) int64, real tokens only.
        config: sizes of the model.
        precision: dtypes.
    """
    layout = token_layout(cameras, tokens.shape[0], config)
    is_real = real_tokens(layout, cache_length(layout))
    places = positions(is_real)

    def token_block(block: Block) -> TokenBlock:
        # All queries of a block see the same keys, those in the padding of its tile included: nobody reads them.
        row = torch.where(visible_keys(block, is_real)[0], 0.0, MASKED).bfloat16()
        rotary = rotary_tables(places[:, block.start : block.end], config.vlm, precision.rotary)
        return TokenBlock(block.start, rotary, on_host(row.repeat(1, 1, block.size, 1), ttnn.bfloat16))

    language = layout[0].size - cameras * config.vision.num_patches
    padded = pad_columns(tokens[None, :].to(torch.int32), language)
    return Context(
        layout=layout,
        tokens=on_host(padded, ttnn.uint32, layout=ttnn.ROW_MAJOR_LAYOUT) if language else None,
        blocks=tuple(token_block(block) for block in layout),
    )


class Contexts:
    """The contexts on the device: one for each number of cameras and of tiles of prompt, filled anew for another prompt.

    A context stays where it is, since traces know addresses: what `load` returned is overwritten by the next prompt of its
    size. Filling it allocates nothing and compiles nothing that the first filling had not. Rows of one length share their
    caches: a row is done with them before the next one begins.

    Args:
        backbone: whose embeddings and caches they are.
        traces: the device's, released before a new context is allocated.
    """

    def __init__(self, backbone: PaliGemmaBackboneTTNN, traces: Traces | None) -> None:
        self._backbone = backbone
        self._traces = traces
        self._contexts: dict[tuple[int, int], Context] = {}
        self._prompts: dict[tuple[int, int], tuple[int, ...]] = {}
        self._caches: dict[int, list[KeyValueCache]] = {}

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
            self._fill(size, make_context(cameras, tokens, self._backbone.config, self._backbone.precision))
            self._prompts[size] = prompt
        return self._contexts[size]

    def tensors(self) -> list[ttnn.Tensor]:
        """Returns all that is on the device."""
        contexts, caches = self._contexts.values(), self._caches.values()
        return [
            *(tensor for context in contexts for tensor in context.tensors()),
            *(context.language for context in contexts if context.language is not None),
            *(tensor for layers in caches for cache in layers for tensor in (cache.keys, cache.values)),
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
            self._backbone.embed_language(on_device.tokens, on_device.language)
        self._contexts[size] = replace(on_device, layout=context.layout)

    def _allocated(self, context: Context) -> Context:
        device, stream = self._backbone.device, self._backbone.precision.vlm.stream
        on_device, language = context.on(device), None
        if context.tokens is not None:
            shape = (1, 1, context.tokens.shape[-1], self._backbone.config.vlm.width)
            language = ttnn.empty(shape, stream, ttnn.TILE_LAYOUT, device, ttnn.DRAM_MEMORY_CONFIG)
        length = cache_length(context.layout)
        if length not in self._caches:
            self._caches[length] = self._backbone.make_caches(length)
        return replace(on_device, language=language, caches=self._caches[length])
