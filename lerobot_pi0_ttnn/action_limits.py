"""What keeps an action from the robot: values that are not finite always, values beyond the data set's range if asked."""

from dataclasses import dataclass

import torch
from lerobot.configs import FeatureType
from lerobot.processor import NormalizerProcessorStep, TransitionKey, create_transition
from lerobot.utils.constants import ACTION
from torch import Tensor

from .checkpoint.files import CheckpointSource
from .checkpoint.processors import read_processors
from .configuration_pi0_ttnn import PI0TTNNConfig


@dataclass(frozen=True)
class ActionLimits:
    """The range of a data set's actions, in the normalised units in which the policy returns them.

    Attributes:
        low: (A,) float32.
        high: (A,) float32.
    """

    low: Tensor
    high: Tensor

    def clamp(self, actions: Tensor) -> Tensor:
        """Returns the actions, (..., A), none of them out of range."""
        return torch.clamp(actions, self.low, self.high)


def read_action_limits(config: PI0TTNNConfig, source: CheckpointSource) -> ActionLimits:
    """Returns the range of the actions that a checkpoint was trained on, through LeRobot's own normaliser.

    Args:
        config: says how actions are normalised.
        source: the checkpoint; its postprocessor holds the statistics.

    Raises:
        ValueError: there is no such range in it, or not one number for each action.
    """
    stats = read_processors(source).action_stats
    missing = [name for name in ("min", "max") if name not in stats]
    if missing:
        raise ValueError(
            f"clamp_actions: {source} has no {' and '.join(missing)} of the actions it was trained on (its postprocessor has "
            f"{', '.join(sorted(stats)) or 'no statistics'}); make its processors from your data set, "
            "make_pre_post_processors(config, dataset_stats=dataset.meta.stats), or run without clamp_actions."
        )
    features = {ACTION: config.output_features[ACTION]}
    shape = tuple(features[ACTION].shape)
    if any(tuple(stats[name].shape) != shape for name in ("min", "max")):
        raise ValueError(
            f"clamp_actions: expected a minimum and a maximum for each of {shape} actions, got "
            f"{tuple(stats['min'].shape)} and {tuple(stats['max'].shape)} in {source}."
        )
    norm_map = {FeatureType[kind]: mode for kind, mode in config.normalization_mapping.items()}
    normalize = NormalizerProcessorStep(features=features, norm_map=norm_map, stats={ACTION: stats})
    low, high = (
        normalize(create_transition(action=stats[name].float()))[TransitionKey.ACTION] for name in ("min", "max")
    )
    return ActionLimits(low, high)


def check_finite(actions: Tensor) -> None:
    """Raises FloatingPointError where an action is NaN or infinite: no robot can follow it.

    Args:
        actions: (B, horizon, A).
    """
    if not bool(torch.isfinite(actions).all()):
        rows = (~torch.isfinite(actions)).flatten(1).any(dim=1).nonzero().squeeze(1).tolist()
        raise FloatingPointError(
            f"the model computed NaN or infinity for row(s) {rows} of the batch; no action of this chunk is handed out: hold "
            "the arm where it is. Check the weights (`lerobot-pi0-ttnn info CKPT`), the machine (`lerobot-pi0-ttnn doctor`), "
            "and whether --policy.backend=torch gives finite actions for the same observation."
        )
