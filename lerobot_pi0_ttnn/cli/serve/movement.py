"""Whether a robot has moved since its last chunk, in units of the data that its checkpoint was trained on.

LeRobot's server compares states as the robot gives them and calls them similar within a distance of 1
(`async_inference/helpers.py::observations_similar`): one degree of one joint, but 57 degrees for a robot in radians, which
then gets no new chunk before it has used up the last one.
"""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from lerobot.processor import NormalizerProcessorStep, PolicyProcessorPipeline
from lerobot.utils.constants import OBS_STATE
from torch import Tensor

logger = logging.getLogger(__name__)

MOVED = 0.04
"""Standard deviations, over all joints, from which on a robot has moved: LeRobot's 1 where that of a joint is 25, as is typical
of an arm in degrees or in LeRobot's units from -100 to 100."""
SPREADS = (("q01", "q99", 4.65), ("q10", "q90", 2.56), ("min", "max", 4.0))
"""Where there is no standard deviation: two statistics, and how many of a normal distribution lie between."""
EPSILON = 1e-8
"""As in LeRobot's normaliser: what a joint that never moved in training counts for."""


class Movement:
    """Compares the states of a robot.

    Args:
        names: the joints, in the order of the checkpoint's statistics.
        scale: (n,) what each joint's movements are measured in; None where nothing is known of it, and every state is new.
    """

    def __init__(self, names: list[str], scale: Tensor | None) -> None:
        self.names = names
        self.scale = scale

    def __call__(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
        """Returns whether the robot has moved between two of its observations. A joint that is not there has."""
        if self.scale is None:
            return True
        distance = torch.linalg.vector_norm((self._state(now) - self._state(before)) / self.scale)
        return not bool(distance < MOVED)

    def _state(self, observation: Mapping[str, Any]) -> Tensor:
        return torch.tensor([float(observation.get(name, torch.nan)) for name in self.names], dtype=torch.float64)


def read_movement(preprocessor: PolicyProcessorPipeline[Any, Any], names: list[str]) -> Movement:
    """Returns what compares a robot's states by the statistics that a preprocessor normalises with.

    Args:
        preprocessor: the checkpoint's.
        names: the joints, in the order of the statistics.
    """
    steps = [step for step in preprocessor.steps if isinstance(step, NormalizerProcessorStep)]
    stats = (steps[0].stats or {}).get(OBS_STATE, {}) if steps else {}
    scale = scale_of(stats, len(names))
    if scale is None:
        logger.warning(
            "The checkpoint has no statistics of %s from which to tell how far %d joints move: every observation that the "
            "robot sends gets a new chunk, however little it has moved.",
            OBS_STATE,
            len(names),
        )
    return Movement(names, scale)


def scale_of(stats: Mapping[str, Any], width: int) -> Tensor | None:
    """Returns (width,) float64, about a standard deviation of each joint in training; None where the statistics do not say.

    Args:
        stats: of the states, by name: `std`, or two between which they spread.
        width: number of joints.
    """
    values = {name: torch.as_tensor(value, dtype=torch.float64).flatten() for name, value in stats.items()}
    scales = [values["std"]] if "std" in values else []
    scales += [(values[high] - values[low]) / number for low, high, number in SPREADS if {low, high} <= values.keys()]
    for scale in scales:
        if scale.shape == (width,) and bool(torch.isfinite(scale).all()) and bool((scale >= 0).all()):
            return scale.clamp(min=EPSILON)
    return None
