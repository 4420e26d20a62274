"""Whether the statistics with which state and actions are normalised can be right."""

from collections.abc import Collection, Iterator

from lerobot.configs import NormalizationMode

from ..checkpoint.processors import ACTION, STATE
from ..configuration_pi0_ttnn import PI0TTNNConfig
from .problem import Problem, Subject

FEATURES = {"STATE": STATE, "ACTION": ACTION}
"""What pi0 normalises, by LeRobot's type of feature."""


def check_statistics(subject: Subject) -> Iterator[Problem]:
    """Yields what is wrong with a checkpoint's statistics."""
    processors = subject.processors
    if processors.preprocessor is None:
        return
    there = {name for name, stats in ((STATE, processors.state_stats), (ACTION, processors.action_stats)) if stats}
    if missing := missing_stats(subject.config, there):
        yield missing_stats_problem(missing)


def missing_stats(config: PI0TTNNConfig, there: Collection[str]) -> list[str]:
    """Returns the features that `config` normalises and of which there are no statistics."""
    modes = config.normalization_mapping
    return [
        feature
        for kind, feature in FEATURES.items()
        if modes.get(kind, NormalizationMode.IDENTITY) is not NormalizationMode.IDENTITY and feature not in there
    ]


def missing_stats_problem(missing: list[str]) -> Problem:
    """Returns what to tell a user whose checkpoint has no statistics for these features."""
    return Problem(
        "warning",
        "statistics",
        f"{', '.join(missing)}: normalised by mean and std in training, but the checkpoint has no statistics, so values pass "
        "unchanged and actions will be wrong on a real robot",
        "use a fine-tuned checkpoint, or make its processors from your data set: make_pre_post_processors(config, "
        "dataset_stats=dataset.meta.stats)",
    )
