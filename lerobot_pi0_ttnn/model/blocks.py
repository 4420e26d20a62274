"""Where tokens stand and who may attend to whom: pure torch, shared by both twins.

A row's tokens come in two blocks, the prefix, which is computed once, and the suffix, which is computed in each denoising step,
and in groups: the suffix is pi0's state and its actions, or pi0.5's actions alone. A token attends to those of its own and of
earlier groups, except to padding:

                 prefix  state  actions
    prefix          1      0       0
    state           1      1       0
    actions         1      1       1

The state's token is the same in each step, and is computed again all the same, as in openpi: it takes a row that is padding
otherwise, on a chip as in a matmul of the CPU, while a pass of its own would read all of the expert's weights once more.

The prefix is the cameras' patches and the prompt. Only there a batch has padding (absent cameras, the tail of a short prompt);
a device adds some wherever a block ends within a tile. All that depends on the blocks is a loop over them.
Source: openpi `models/pi0.py::make_attn_mask` and `PI0.embed_prefix`, `PI0.embed_suffix`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .config import PI0ModelConfig


@dataclass(frozen=True)
class Block:
    """Where a block's tokens lie among those of a row, and so in a key/value cache.

    Attributes:
        name: for people.
        start: number of its first token.
        groups: how many they are, of each group; a token does not attend to later groups than its own.
        size: how many with the padding after them.
    """

    name: str
    start: int
    groups: tuple[int, ...]
    size: int

    @property
    def tokens(self) -> int:
        """Returns how many its tokens are, without padding."""
        return sum(self.groups)

    @property
    def end(self) -> int:
        """Returns the number after that of its last token, padding included."""
        return self.start + self.size


def lay_out(prefix: int, config: PI0ModelConfig, *, multiple: int = 1) -> tuple[Block, ...]:
    """Returns the blocks of a row, the prefix and the suffix, one after the other.

    Args:
        prefix: tokens in it.
        config: says which tokens follow.
        multiple: of which each block's size is one.
    """
    first, then = (-(-tokens // multiple) * multiple for tokens in (prefix, config.suffix_tokens))
    groups = (config.state_tokens, config.horizon) if config.state_tokens else (config.horizon,)
    return Block("prefix", 0, (prefix,), first), Block("suffix", first, groups, then)


def real_tokens(blocks: Sequence[Block], length: int) -> Tensor:
    """Returns (1, length) bool, False on the padding after each block.

    Args:
        blocks: of `lay_out`.
        length: of the row; there may be further padding at its end.
    """
    token = torch.arange(length)
    is_real = [(token >= block.start) & (token < block.start + block.tokens) for block in blocks]
    return torch.stack(is_real).any(dim=0)[None]


def visible_keys(block: Block, is_real: Tensor) -> Tensor:
    """Returns (B, T, S) bool, the keys that this block's queries may attend to: real ones of their own and of earlier groups.

    Padding is hidden as a key only. LeRobot also masks the rows of padding queries; nothing ever attends to what they
    compute, so both give the same actions, and no row is left without a key.

    Args:
        block: of the queries.
        is_real: (B, S) bool, False on padding.
    """
    ends = block.start + torch.tensor(block.groups).cumsum(0)
    end = torch.full((block.size,), block.end)
    end[: block.tokens] = ends.repeat_interleave(torch.tensor(block.groups))
    return is_real[:, None] & (torch.arange(is_real.shape[1]) < end[:, None])


def positions(is_real: Tensor) -> Tensor:
    """Returns (B, S) int64, the position of each token for RoPE: padding does not advance it.

    Leading padding gets -1, as in LeRobot: nothing attends to it. State and actions go on from the real tokens of the prefix.

    Args:
        is_real: (B, S) bool, False on padding.
    """
    return torch.cumsum(is_real, dim=1) - 1


def rotary_angles(token_positions: Tensor, head_dim: int, theta: float) -> Tensor:
    """Returns (B, 1, T, head_dim / 2) float32, by which RoPE rotates each pair of a head at these positions.

    Source: transformers `GemmaRotaryEmbedding`, which computes in float32.

    Args:
        token_positions: (B, T) int64.
        head_dim: even.
        theta: the base of the geometric frequencies.
    """
    exponent = torch.arange(0, head_dim, 2).float() / head_dim
    return token_positions[:, None, :, None].float() * (1.0 / theta**exponent)


def live_columns(is_real: Tensor) -> Tensor:
    """Returns the int64 indices of the columns that are real in at least one row of the batch.

    Tokens that are padding in every row are neither attended to nor counted in positions: dropping them is exact.

    Args:
        is_real: (B, S) bool, False on padding.
    """
    return is_real.any(dim=0).nonzero().squeeze(1)


def present_cameras(img_masks: Sequence[Tensor]) -> list[int]:
    """Returns the indices of the cameras that at least one row of the batch has.

    Args:
        img_masks: for each camera (B,) bool, False where it is absent.
    """
    return [camera for camera, mask in enumerate(img_masks) if bool(mask.any())]
