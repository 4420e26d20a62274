"""What the graph is given, all of it on the device: what is new at every call, and what belongs to a prompt."""

from collections.abc import Sequence
from dataclasses import dataclass

import ttnn

from ..model.blocks import Block
from ..model.rtc import Guidance
from .gemma import KeyValueCache, TokenBlock
from .movable import Movable, Move


@dataclass(frozen=True)
class Inputs(Movable):
    """What is new in one row of a batch.

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

    def moved(self, move: Move) -> "Inputs":
        """Returns the inputs, each of them moved, always in the same order."""
        guidance = self.guidance
        return Inputs(
            pixels=None if self.pixels is None else move(self.pixels),
            proprioception=move(self.proprioception),
            noise=move(self.noise),
            guidance=guidance and Guidance(move(guidance.prefix), move(guidance.weights), guidance.max_gain),
        )


@dataclass(frozen=True)
class Context(Movable):
    """What the rows of one prompt and one number of cameras share.

    Attributes:
        layout: where the tokens go.
        tokens: (1, language tokens rounded up to whole tiles) uint32, or None without a prompt.
        blocks: the prefix, then what follows it; the last one is denoised.
        language: (1, 1, language tokens, D), the tokens' embeddings, on the device only; None without a prompt.
        caches: each layer's keys and values, on the device only.
    """

    layout: tuple[Block, ...]
    tokens: ttnn.Tensor | None
    blocks: tuple[TokenBlock, ...]
    language: ttnn.Tensor | None = None
    caches: Sequence[KeyValueCache] = ()

    def moved(self, move: Move) -> "Context":
        """Returns the context with each tensor that the host makes moved, always in the same order."""
        return Context(
            layout=self.layout,
            tokens=None if self.tokens is None else move(self.tokens),
            blocks=tuple(block.moved(move) for block in self.blocks),
        )
