"""Flow matching: noise, times, their embedding, an Euler step. Pure torch, shared by both twins.

pi0 carries noise at t = 1 to actions at t = 0. Source: openpi `models/pi0.py::PI0.sample_actions` and `posemb_sincos`.
"""

import math
from collections.abc import Sequence
from typing import Protocol, Self

import torch
from torch import Tensor


class Scalable(Protocol):
    """What the Euler loop asks of x and of its velocity: a torch tensor has it, and so has a ttnn tensor."""

    def __add__(self, other: Self, /) -> Self: ...
    def __rmul__(self, other: float, /) -> Self: ...


def sample_noise(
    shape: Sequence[int], device: torch.device | str = "cpu", generator: torch.Generator | None = None
) -> Tensor:
    """Returns float32 standard normal noise, drawn as LeRobot's `sample_noise` draws it.

    Args:
        shape: (B, horizon, action_dim).
        device: torch's, on which it is drawn; the models here take it from the CPU.
        generator: source of randomness; torch's global one by default.
    """
    return torch.normal(mean=0.0, std=1.0, size=tuple(shape), dtype=torch.float32, device=device, generator=generator)


def schedule(num_steps: int) -> list[float]:
    """Returns the times at which the velocity is evaluated: 1, 1 - 1/n, ..., 1/n.

    Raises:
        ValueError: where `num_steps` is not positive.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps: expected at least 1, got {num_steps}")
    return [1.0 + step * (-1.0 / num_steps) for step in range(num_steps)]


def time_embedding(times: Sequence[float], width: int, min_period: float, max_period: float) -> Tensor:
    """Returns (len(times), width) float32, sines then cosines of each time at `width / 2` geometrically spaced periods.

    Computed in float64: at the shortest period a time that is rounded to bfloat16 is off by radians.

    Args:
        times: in [0, 1]; rounded to float32 first, since LeRobot's loop carries them so.
        width: even.
        min_period: the shortest period.
        max_period: the longest.
    """
    fraction = torch.linspace(0.0, 1.0, width // 2, dtype=torch.float64)
    period = min_period * (max_period / min_period) ** fraction
    phase = (1.0 / period * 2 * math.pi) * torch.tensor(times, dtype=torch.float32)[:, None]
    return torch.cat([torch.sin(phase), torch.cos(phase)], dim=1).float()


def advanced[T: Scalable](x: T, velocity: T, dt: float) -> T:
    """Returns x after one Euler step of `dt`."""
    return x + dt * velocity
