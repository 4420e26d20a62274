"""What the graph is given, all of it on the device: what is new at every call, a prompt, and what prompts of a size share.

It is of the rows of a batch that are computed together: B of them, of as many cameras each.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import ttnn

from ..model.blocks import Block
from ..model.rtc import Guidance
from .gemma import KeyValueCache, RotaryTables, TokenBlock
from .movable import Movable, Move


@dataclass(frozen=True)
class Prompt(Movable):
    """What depends on the rows' prompts, beyond the number of their tiles.

    Attributes:
        tokens: (1, B * language tokens rounded up to whole tiles) uint32, or None without a prompt.
        padding: (B, 1, 1, S) bfloat16, added to the scores of all queries: what hides the prompt's padding.
        rotary: tables of the suffix, whose positions go on from each prompt's last token.
    """

    tokens: ttnn.Tensor | None
    padding: ttnn.Tensor
    rotary: RotaryTables

    def moved(self, move: Move) -> "Prompt":
        """Returns the prompt with each of its tensors moved, always in the same order."""
        return Prompt(
            tokens=None if self.tokens is None else move(self.tokens),
            padding=move(self.padding),
            rotary=self.rotary.moved(move),
        )


@dataclass(frozen=True)
class Inputs(Movable):
    """What is new in the rows of a batch.

    Attributes:
        pixels: (B * cameras, 1, patches, pixels) bfloat16, row by row, not in tiles; None without a camera.
        proprioception: (1, 1, B * T, state_dim) float32, each in the first of T rows; None where the prompt holds it.
        noise: (1, 1, B * T, action_dim) float32, where T are the suffix's tokens, and both are rounded up to whole tiles.
        guidance: its prefix and its weights shaped like the noise, or None.
        prompt: where it holds the state, and so is new at every call; else None, and the context has it.
    """

    pixels: ttnn.Tensor | None
    proprioception: ttnn.Tensor | None
    noise: ttnn.Tensor
    guidance: Guidance[ttnn.Tensor] | None
    prompt: Prompt | None

    def moved(self, move: Move) -> "Inputs":
        """Returns the inputs, each of them moved, always in the same order."""
        guidance = self.guidance
        return Inputs(
            pixels=None if self.pixels is None else move(self.pixels),
            proprioception=None if self.proprioception is None else move(self.proprioception),
            noise=move(self.noise),
            guidance=guidance and Guidance(move(guidance.prefix), move(guidance.weights), guidance.max_gain),
            prompt=self.prompt and self.prompt.moved(move),
        )


@dataclass(frozen=True)
class Context(Movable):
    """What batches share that have as many rows, whose cameras and whose prompts' tiles are as many.

    Attributes:
        rows: B.
        layout: where the tokens of prefix and suffix go, those that pad the prompt's last tile included.
        rotary: tables of the prefix, of one row for all.
        all_visible: for each block (1, 1, T, S) bfloat16, added to the scores of its queries, were the prompt without padding.
        is_action: (1, 1, B * T, 1) float32, 0 for the state's token of the suffix, else 1; None without such a token.
        masks: where those of a prompt go, on the device only, as is all that follows.
        language: (1, 1, B * language tokens, D), where the tokens' embeddings go; None without a prompt.
        caches: each layer's keys and values.
        blocks: those of a prompt, once `PaliGemmaBackboneTTNN.read_prompt` has read one; the suffix is denoised.
    """

    rows: int
    layout: tuple[Block, ...]
    rotary: RotaryTables
    all_visible: tuple[ttnn.Tensor, ...]
    is_action: ttnn.Tensor | None
    masks: tuple[ttnn.Tensor, ...] = ()
    language: ttnn.Tensor | None = None
    caches: Sequence[KeyValueCache] = ()
    blocks: tuple[TokenBlock, ...] = ()

    def moved(self, move: Move) -> "Context":
        """Returns the context with each tensor that the host makes moved, always in the same order."""
        return Context(
            self.rows,
            self.layout,
            self.rotary.moved(move),
            tuple(move(mask) for mask in self.all_visible),
            None if self.is_action is None else move(self.is_action),
        )
