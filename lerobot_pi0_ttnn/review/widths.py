"""Of how many values state and actions are: the statistics say, for LeRobot keeps the base model's widths in the config."""

from collections.abc import Iterator

from lerobot.configs import FeatureType, PolicyFeature

from ..checkpoint.processors import ACTION, STATE
from ..configuration_pi0_ttnn import PI0TTNNConfig
from .problem import Problem, Subject
from .statistics import AGAIN, NEEDED, Normalised, normalised

STATISTICS = {name for names in NEEDED.values() for name in names}


def check_widths(subject: Subject) -> Iterator[Problem]:
    """Yields where the config and the statistics contradict each other."""
    config = subject.config
    features = {STATE: config.robot_state_feature, ACTION: config.action_feature}
    limits = {STATE: _most_states(config), ACTION: config.max_action_dim}
    for each in normalised(subject):
        width, feature, limit = statistics_width(each), features[each.feature], limits[each.feature]
        if width is None:
            continue
        asked = feature.shape[0] if feature else limit
        if limit is not None and width > limit:
            yield each.problem(
                "error", f"the statistics are of {width} values, and {config.model_name} takes {limit}", AGAIN
            )
        elif feature is None or asked == width:
            continue
        elif width == 1:
            message = f"the config says {asked} values, the statistics are of 1, which would count for all of them"
            yield each.problem("error", message, AGAIN)
        elif each.feature == STATE or asked == limit:
            yield each.problem(
                "warning",
                f"the config says {asked} values, the statistics are of {width}, which is what counts",
                f"use it with a robot of {width}; `lerobot-pi0-ttnn convert` writes that into the config",
            )
        else:
            yield each.problem(
                "error",
                f"the policy is to give {asked} values, the statistics are of {width}",
                "use it with the robot or the environment that it was trained on, or " + AGAIN,
            )


def _most_states(config: PI0TTNNConfig) -> int | None:
    """Returns the most values that a state may have; None where any number fits, in the prompt."""
    return config.model_config().state_dim or None


def statistics_width(each: Normalised) -> int | None:
    """Returns of how many values a feature's statistics are; None where there are none, or they do not agree."""
    widths = {each.stats[name].numel() for name in STATISTICS & each.stats.keys()}
    return (widths.pop() or None) if len(widths) == 1 else None


def adopt_widths(subject: Subject) -> None:
    """Writes into the config of how many values state and actions are by the statistics, where those count.

    Actions keep the width that an environment, a data set or the config gives them, unless it is the base model's: the policy
    is then asked for as many.
    """
    config = subject.config
    state, action = (statistics_width(each) for each in normalised(subject))
    most = _most_states(config)
    if state is not None and (most is None or state <= most):
        config.input_features = {**(config.input_features or {}), STATE: PolicyFeature(FeatureType.STATE, (state,))}
    asked = config.action_feature.shape[0] if config.action_feature else config.max_action_dim
    if action is not None and action <= config.max_action_dim == asked:
        config.output_features = {
            **(config.output_features or {}),
            ACTION: PolicyFeature(FeatureType.ACTION, (action,)),
        }
