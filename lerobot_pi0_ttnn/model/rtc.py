"""Real-time chunking: a new chunk is drawn towards what is left of the former one. Pure torch, shared by both twins.

While a chunk is computed the robot goes on executing the former one. Of the new chunk the first `delay` actions are thus
settled, those after them should follow on smoothly, and those from `execution_horizon` on are free:

    weight  1 1 1 1 1 . . . . . 0 0 0 0 0 0 0 0 0 0
            |- delay -|         |
            |- execution_horizon|- free

Source: LeRobot `policies/rtc/modeling_rtc.py::RTCProcessor`. It differentiates x_1(x) = x - t v with v held constant, so
that its Jacobian is the identity: what remains needs no gradients, and is computed here as such.

LeRobot's rollout engine fills a former chunk that has fewer than `execution_horizon` actions left with rows of zeros
(`rollout/inference/rtc.py::_normalize_prev_actions_length`), and its processor guides towards them: in normalised units they
are the mean pose. Here they count as absent, as if the engine had handed over what is left and no more.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch import Tensor

from .flow import Scalable

ATTENTION_SCHEDULES = ("ZEROS", "ONES", "LINEAR", "EXP")
"""How the weights go from 1 to 0 between the delay and the execution horizon; LeRobot's `RTCAttentionSchedule`."""


class Guidable(Scalable, Protocol):
    """What guidance asks of x beyond what the Euler loop does: a torch tensor has it, and so has a ttnn tensor."""

    def __sub__(self, other: Self, /) -> Self: ...
    def __mul__(self, other: Self, /) -> Self: ...


@dataclass(frozen=True)
class Guidance[T]:
    """What a chunk is drawn towards, and how much.

    Attributes:
        prefix: (B, horizon, action_dim) float32, the rest of the former chunk, then zeros.
        weights: (horizon, 1) float32 in [0, 1], of each action of the chunk; (B, horizon, 1) where rows differ.
        max_gain: the most that the difference counts for, positive.
    """

    prefix: T
    weights: T
    max_gain: float


def guidance_of(guidance: Guidance[Tensor], rows: slice | Sequence[int]) -> Guidance[Tensor]:
    """Returns the guidance of some rows of the batch."""
    weights = guidance.weights.expand(*guidance.prefix.shape[:2], 1)
    return replace(guidance, prefix=guidance.prefix[rows], weights=weights[rows])


def guided[T: Guidable](velocity: T, x_t: T, guidance: Guidance[T], time: float, gain: float) -> T:
    """Returns the velocity that leads towards `guidance.prefix`.

    Args:
        velocity: the model's at x_t.
        x_t: float32; the tensors of `guidance` are like it, or such that they broadcast to it.
        guidance: of the chunk.
        time: t, in (0, 1].
        gain: at this time, see `gains`.
    """
    destination = x_t - time * velocity
    return velocity - gain * ((guidance.prefix - destination) * guidance.weights)


def gains(times: Sequence[float], max_gain: float) -> list[float]:
    """Returns for each time what the difference counts for.

    In float32 as LeRobot computes it: at small times the subtraction from 1 loses digits that a large `max_gain` shows.

    Args:
        times: in (0, 1].
        max_gain: positive; what it is limited to.
    """
    tau = torch.tensor([1.0 - time for time in times], dtype=torch.float32)
    time = 1.0 - tau
    gain: list[float] = ((time / tau) * ((time**2 + tau**2) / time**2)).clamp(max=max_gain).tolist()
    return gain


def prefix_weights(schedule: str, delay: int, end: int, horizon: int) -> Tensor:
    """Returns (horizon,) float32: 1 before `delay`, 0 from `end` on, and in between what `schedule` says.

    Args:
        schedule: one of `ATTENTION_SCHEDULES`.
        delay: number of settled actions, those after `end` not counted.
        end: at most `horizon`.
        horizon: length of the chunk.
    """
    start = min(delay, end)
    weights = torch.zeros(horizon)
    weights[:start] = 1.0
    if schedule == "ONES":
        weights[start:end] = 1.0
    elif schedule in ("LINEAR", "EXP"):
        ramp = torch.linspace(1, 0, end - start + 2)[1:-1]
        weights[start:end] = ramp if schedule == "LINEAR" else ramp * (torch.expm1(ramp) / (math.e - 1))
    return weights


def make_guidance(
    left_over: Tensor,
    shape: tuple[int, int, int],
    *,
    widths: Sequence[int],
    delay: int,
    execution_horizon: int,
    schedule: str,
    max_gain: float,
) -> Guidance[Tensor]:
    """Returns the guidance towards what is left of the former chunk.

    Args:
        left_over: (T, A) for all rows or (B, T, A), normalised; shorter than the chunk or as long. Rows of zeros at its end
            are padding and count as absent: a model never computes an action of exact zeros.
        shape: (B, horizon, action_dim) of the chunk.
        widths: what A may be.
        delay: how many actions will be executed while the chunk is computed.
        execution_horizon: from which action on the chunk is free; sooner where the actions of `left_over` end sooner.
        schedule: one of `ATTENTION_SCHEDULES`.
        max_gain: see `Guidance`.

    Raises:
        ValueError: one of them is not as said.
    """
    rows, horizon, _ = shape
    if left_over.ndim not in (2, 3):
        raise ValueError(
            f"prev_chunk_left_over: expected (T, A) or (B, T, A), got {left_over.ndim} dimensions, {tuple(left_over.shape)}."
        )
    left_over = left_over if left_over.ndim == 3 else left_over[None]
    batch, length, width = left_over.shape
    if batch not in (1, rows) or length > horizon or width not in widths:
        expected = f"({rows} or 1, at most {horizon}, {' or '.join(str(width) for width in dict.fromkeys(widths))})"
        raise ValueError(
            f"prev_chunk_left_over: expected {expected}, got {tuple(left_over.shape)}; pass the actions of the former chunk "
            "that are not executed yet, as predict_action_chunk returned them."
        )
    if not left_over.isfinite().all():
        raise ValueError(
            "prev_chunk_left_over: has values that are not finite; leave it out to begin anew with a free chunk."
        )
    for name, value in (("inference_delay", delay), ("execution_horizon", execution_horizon)):
        if value < 0:
            raise ValueError(f"{name}: expected a number of actions, got {value}")
    if schedule not in ATTENTION_SCHEDULES:
        raise ValueError(
            f"prefix_attention_schedule: expected one of {', '.join(ATTENTION_SCHEDULES)}, got {schedule!r}"
        )
    if not 0.0 < max_gain < math.inf:
        raise ValueError(f"max_guidance_weight: expected a positive number, got {max_gain}")
    prefix = torch.zeros(shape)
    prefix[:, :length, :width] = left_over
    weights = [
        prefix_weights(schedule, delay, min(execution_horizon, length), horizon) for length in true_lengths(left_over)
    ]
    return Guidance(prefix, torch.stack(weights)[:, :, None], max_gain)


def true_lengths(left_over: Tensor) -> list[int]:
    """Returns for each row of (B, T, A) the number of actions before the rows of zeros, if any, at its end."""
    numbers = torch.arange(1, left_over.shape[1] + 1)
    return [int(numbers[actions].max()) if actions.any() else 0 for actions in left_over.ne(0.0).any(dim=2).cpu()]
