"""What goes up to a chip: what is new in rows at every call, their prompts, and what stays for all prompts of a size.

Absent cameras and language padding stay on the host: the device has each row's real tokens, and padding only up to whole
tiles, as many for each row as the longest prompt of its pass takes. The keys lie in the cache block by block, and the mask
of each block of queries hides what it must not see:

               prefix  pads   state  actions  pads
    prefix        1      0      0       0       0
    state         1      0      1       0       0
    actions       1      0      1       1       0

Only the first column of pads depends on how long a prompt is, and so do the positions of state and actions. The rest is the
same for all prompts of as many tiles.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
import ttnn
from torch import Tensor

from ..model.blocks import Block, lay_out, positions, real_tokens, visible_keys
from ..model.config import PI0ModelConfig
from ..model.rtc import Guidance
from ..tt.gemma import KeyValueCache, rotary_tables
from ..tt.inputs import Context, Inputs, Prompt
from ..tt.layers import pad_columns, pad_rows
from ..tt.paligemma import PaliGemmaBackboneTTNN
from ..tt.precision import Precision
from ..tt.program import KEY_CHUNK, TILE, round_up
from ..tt.siglip import patch_rows
from ..tt.weights import on_host
from .trace import Traces

type Size = tuple[int, int, int]
"""Rows that are computed together, the cameras of each, the tokens of its prefix."""

MASKED = -1e4
"""Added to the scores of hidden keys: far enough for exp to give zero, and finite, since -inf - -inf is NaN."""


UPLOADS_PER_PROMPT = 4
"""Tensors of a prompt: tokens, padding, and cosines and sines of the suffix."""


def uploads_per_pass(config: PI0ModelConfig) -> int:
    """Returns how many tensors go up for one pass, two more with guidance: pixels, noise, and the states or the prompts."""
    return 2 + (1 if config.state_dim else UPLOADS_PER_PROMPT)


class InputMaker:
    """Lays out rows that are computed together on the host as the device wants them.

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
        tokens: Sequence[Tensor],
        state: Tensor,
        noise: Tensor,
        guidance: Guidance[Tensor] | None = None,
    ) -> Inputs:
        """Returns what is new in rows that have as many cameras each, on the host.

        Args:
            images: row by row, for each camera that it has, (3, image_size, image_size) float32 in [-1, 1].
            tokens: of each row (L,) int64, real ones only.
            state: (B, state_dim) float32.
            noise: (B, horizon, action_dim) float32.
            guidance: of the rows.
        """
        has_state = self.config.state_dim > 0
        return Inputs(
            pixels=self._pixels(images) if images else None,
            proprioception=self._proprioception(state) if has_state else None,
            noise=self.actions(noise),
            guidance=self._guidance(guidance) if guidance else None,
            prompt=None if has_state else make_prompt(len(images) // len(tokens), tokens, self.config, self.precision),
        )

    def _proprioception(self, state: Tensor) -> ttnn.Tensor:
        return self._suffix(state[:, None, :])

    def _pixels(self, images: Sequence[Tensor]) -> ttnn.Tensor:
        return on_host(patch_rows(images, self.config.vision), ttnn.bfloat16, layout=ttnn.ROW_MAJOR_LAYOUT)

    def actions(self, actions: Tensor) -> ttnn.Tensor:
        """Returns (B, horizon, action_dim) where the suffix has its actions, shaped like the noise of `Inputs`, on the host."""
        return self._suffix(F.pad(actions, (0, 0, self.config.state_tokens, 0)))

    def _suffix(self, tokens: Tensor) -> ttnn.Tensor:
        rows, columns = round_up(self.config.suffix_tokens, TILE), round_up(tokens.shape[-1], TILE)
        padded = pad_rows(pad_columns(tokens, columns), rows)
        return on_host(padded.flatten(0, 1)[None, None], self.precision.suffix.activations)

    def _guidance(self, guidance: Guidance[Tensor]) -> Guidance[ttnn.Tensor]:
        weights = guidance.weights.expand(-1, -1, self.config.action_dim)
        return Guidance(self.actions(guidance.prefix), self.actions(weights), guidance.max_gain)


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


def make_prompt(cameras: int, tokens: Sequence[Tensor], config: PI0ModelConfig, precision: Precision) -> Prompt:
    """Returns the prompts of rows that are computed together, on the host.

    Args:
        cameras: that each row has.
        tokens: of each row (L,) int64, real ones only.
        config: sizes of the model.
        precision: dtypes.

    Raises:
        ValueError: there is neither a camera nor a token.
    """
    layout = token_layout(cameras, max(map(len, tokens)), config)
    prefix, suffix = layout
    patches = cameras * config.vision.num_patches
    real = [
        real_tokens((replace(prefix, groups=(patches + len(row),)), suffix), cache_length(layout)) for row in tokens
    ]
    is_real = torch.cat(real)
    places = positions(is_real)
    hides = ~is_real & (torch.arange(is_real.shape[1]) < prefix.end)
    padding = torch.where(hides, MASKED, 0.0).bfloat16()[:, None, None]
    language = prefix.size - patches
    padded = torch.cat([pad_columns(row[None, :].to(torch.int32), language) for row in tokens], dim=1)
    return Prompt(
        tokens=on_host(padded, ttnn.uint32, layout=ttnn.ROW_MAJOR_LAYOUT) if language else None,
        padding=on_host(padding, ttnn.bfloat16),
        rotary=rotary_tables(places[:, suffix.start : suffix.end], config.vlm, precision.rotary),
    )


def make_context(rows: int, prefix: int, config: PI0ModelConfig, precision: Precision) -> Context:
    """Returns a context on the host.

    Args:
        rows: that are computed together.
        prefix: tokens in that of each row, a multiple of `TILE`.
        config: sizes of the model.
        precision: dtypes.
    """
    layout = lay_out(prefix, config, multiple=TILE)
    is_real = real_tokens(layout, cache_length(layout))

    def all_visible(block: Block) -> ttnn.Tensor:
        return on_host(torch.where(visible_keys(block, is_real), 0.0, MASKED).bfloat16()[None], ttnn.bfloat16)

    is_action = torch.ones(rows, layout[-1].size, 1)
    is_action[:, : config.state_tokens] = 0
    return Context(
        rows,
        layout,
        rotary_tables(torch.arange(prefix)[None], config.vlm, precision.rotary),
        tuple(all_visible(block) for block in layout),
        on_host(is_action.view(1, 1, -1, 1), ttnn.float32) if config.state_tokens else None,
    )


class Contexts:
    """The contexts on the device, one for each number of rows, cameras and tiles of prompt, and the prompts that each may keep.

    A context stays where it is, since traces know addresses: the blocks that `load` returned are overwritten by the next
    prompts of its size. That allocates nothing and compiles nothing that the first ones had not. Contexts of one length share
    their caches: one batch is done with them before the next one begins.

    Args:
        backbone: whose embeddings and caches they are.
        traces: the device's, released before anything is allocated.
    """

    def __init__(self, backbone: PaliGemmaBackboneTTNN, traces: Traces | None) -> None:
        self._backbone = backbone
        self._traces = traces
        self._contexts: dict[Size, Context] = {}
        self._prompts: dict[Size, Prompt] = {}
        self._tokens: dict[Size, tuple[tuple[int, ...], ...]] = {}
        self._caches: dict[tuple[int, int], list[KeyValueCache]] = {}

    def load(self, cameras: int, tokens: Sequence[Tensor]) -> Context:
        """Returns the context for rows; where prompts are not among their inputs, with the blocks of their prompts.

        Uploads only what is not there yet.

        Args:
            cameras: that each row has.
            tokens: of each row (L,) int64, real ones only.

        Raises:
            ValueError: there is neither a camera nor a token.
        """
        config, precision = self._backbone.config, self._backbone.precision
        rows, prefix = len(tokens), token_layout(cameras, max(map(len, tokens)), config)[0].size
        size, prompts = (rows, cameras, prefix), tuple(tuple(row.tolist()) for row in tokens)
        if size not in self._contexts:
            self._contexts[size] = self._allocated(cameras, make_context(rows, prefix, config, precision))
        if config.state_dim and self._tokens.get(size) != prompts:
            # Until it is whole again it holds no prompt at all.
            self._tokens.pop(size, None)
            self._fill(size, make_prompt(cameras, tokens, config, precision))
            self._tokens[size] = prompts
        return self._contexts[size]

    def tensors(self) -> list[ttnn.Tensor]:
        """Returns all that is on the device."""
        contexts, caches = self._contexts.values(), self._caches.values()
        return [
            *(tensor for context in contexts for tensor in (*context.tensors(), *context.masks)),
            *(context.language for context in contexts if context.language is not None),
            *(tensor for prompt in self._prompts.values() for tensor in prompt.tensors()),
            *(tensor for layers in caches for cache in layers for tensor in (cache.keys, cache.values)),
        ]

    def _fill(self, size: Size, prompt: Prompt) -> None:
        if size in self._prompts:
            prompt.copy_over(self._prompts[size])
        else:
            self._release_traces()
            self._prompts[size] = prompt.on(self._backbone.device)
        self._contexts[size] = self._backbone.read_prompt(self._prompts[size], self._contexts[size])

    def _allocated(self, cameras: int, context: Context) -> Context:
        self._release_traces()
        backbone, on_device = self._backbone, context.on(self._backbone.device)
        tokens = context.layout[0].size - cameras * backbone.config.vision.num_patches
        rows, length = context.rows, cache_length(context.layout)
        if (rows, length) not in self._caches:
            self._caches[rows, length] = backbone.make_caches(rows, length)

        def empty(shape: Sequence[int], dtype: ttnn.DataType) -> ttnn.Tensor:
            return ttnn.empty(shape, dtype, ttnn.TILE_LAYOUT, backbone.device, ttnn.DRAM_MEMORY_CONFIG)

        return replace(
            on_device,
            masks=tuple(empty((rows, *list(mask.shape)[1:]), ttnn.bfloat16) for mask in context.all_visible),
            language=empty((1, 1, rows * tokens, backbone.config.vlm.width), backbone.precision.vlm.stream)
            if tokens
            else None,
            caches=self._caches[rows, length],
        )

    def _release_traces(self) -> None:
        if self._traces is not None:
            self._traces.release()
