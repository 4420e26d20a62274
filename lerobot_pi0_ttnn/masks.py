"""Who may attend to whom, and where each token stands: pure torch, shared by both twins.

pi0 has three blocks. A token attends to the tokens of its own and of earlier blocks, except to padding:

                 prefix  state  actions
    prefix          1      0       0
    state           1      1       0
    actions         1      1       1

The prefix is the cameras' patches and the prompt; padding lies only in it (absent cameras, the tail of a short prompt).
Source: openpi `models/pi0.py::make_attn_mask` and `PI0.embed_prefix`, `PI0.embed_suffix`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def block_mask(starts_block: Tensor, is_real: Tensor) -> Tensor:
    """Returns (B, S, S) bool, True where query `[b, i]` may attend to key `[b, j]`.

    Padding is hidden as a key only. LeRobot also masks the rows of padding queries; nothing ever attends to what they
    compute, so both give the same actions, and no row is left without a key.

    Args:
        starts_block: (S,) bool, True on the first token of each block but the first.
        is_real: (B, S) bool, False on padding.
    """
    block = torch.cumsum(starts_block, dim=0)
    return (block[None, :] <= block[:, None]) & is_real[:, None, :]


def positions(is_real: Tensor) -> Tensor:
    """Returns (B, S) int64, the position of each token for RoPE: padding does not advance it.

    Leading padding gets -1, as in LeRobot: nothing attends to it.

    Args:
        is_real: (B, S) bool, False on padding.
    """
    return torch.cumsum(is_real, dim=1) - 1


def suffix_positions(prefix_is_real: Tensor, length: int) -> Tensor:
    """Returns (B, length) int64, the positions of the state token (first) and of the actions.

    They go on from the number of *real* prefix tokens, whatever the padding.

    Args:
        prefix_is_real: (B, P) bool, False on padding.
        length: tokens in the suffix; all of them are real.
    """
    return prefix_is_real.sum(dim=1, keepdim=True) + torch.arange(length)


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
