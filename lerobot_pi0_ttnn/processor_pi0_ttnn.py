"""The pre- and postprocessors: pi0's own. LeRobot finds this module, and the two functions in it, by their names."""

import logging
from pathlib import Path
from typing import Any

import torch
from lerobot.configs import NormalizationMode
from lerobot.policies.pi0.processor_pi0 import Pi0NewLineProcessor
from lerobot.processor import (
    AbsoluteActionsProcessorStep,
    PolicyAction,
    PolicyProcessorPipeline,
    RelativeActionsProcessorStep,
    TokenizerProcessorStep,
    make_default_policy_processor_steps,
    make_policy_processor_pipelines,
)
from lerobot.utils.constants import ACTION, OBS_STATE

from .checkpoint.files import CheckpointSource
from .checkpoint.processors import read_processors, tokenizer_problem
from .checkpoint.tokenizer import FOLDER, find_tokenizer
from .configuration_pi0_ttnn import PI0TTNNConfig
from .pipeline_artifacts import mark_own

logger = logging.getLogger(__name__)

Stats = dict[str, dict[str, torch.Tensor]]
Pipelines = tuple[
    PolicyProcessorPipeline[dict[str, Any], dict[str, Any]],
    PolicyProcessorPipeline[PolicyAction, PolicyAction],
]


def make_pi0_ttnn_pre_post_processors(config: PI0TTNNConfig, dataset_stats: Stats | None = None) -> Pipelines:
    """Returns the preprocessor and the postprocessor that LeRobot makes for pi0, with the tokenizer that `config` names.

    Source: LeRobot `processor_pi0.py::make_pi0_pre_post_processors`, which always takes Google's gated tokenizer.

    Args:
        config: the policy's; a relative `tokenizer_name` is looked for in the checkpoint at its `pretrained_path`.
        dataset_stats: for `observation.state` and `action`, their `mean` and `std`; without them normalisation does
            nothing, and there is a warning.
    """
    missing = missing_stats(config, dataset_stats or {})
    if missing:
        logger.warning(missing_stats_message(missing))
    relative = RelativeActionsProcessorStep(
        enabled=config.use_relative_actions,
        exclude_joints=config.relative_exclude_joints,
        action_names=config.action_feature_names,
    )
    steps = make_default_policy_processor_steps(config, dataset_stats)
    tokenizer = TokenizerProcessorStep(
        tokenizer_name=tokenizer_of(config),
        max_length=config.tokenizer_max_length,
        padding_side="right",
        padding="max_length",
    )
    if config.tokenizer_name == FOLDER:
        mark_own(tokenizer)
    pipelines: Pipelines = make_policy_processor_pipelines(
        input_steps=[
            steps.rename_observations,
            steps.add_batch_dim,
            Pi0NewLineProcessor(),
            tokenizer,
            steps.to_device,
            relative,
            steps.normalize,
        ],
        output_steps=[
            steps.unnormalize,
            AbsoluteActionsProcessorStep(enabled=config.use_relative_actions, relative_step=relative),
            steps.to_cpu,
        ],
    )
    return pipelines


make_pi0_pre_post_processors = make_pi0_ttnn_pre_post_processors
"""The name under which LeRobot looks while `plugins.as_pi0` runs checkpoints of type `pi0`."""


def tokenizer_of(config: PI0TTNNConfig) -> str:
    """Returns the folder or Hub id of the tokenizer that `config` names; a relative folder is its checkpoint's.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    name, checkpoint = config.tokenizer_name, config.pretrained_path
    if name != FOLDER:
        return find_tokenizer(name, Path(checkpoint) if checkpoint else None)
    if checkpoint is None:
        raise FileNotFoundError(
            f"tokenizer_name: {name!r} is a folder of the checkpoint, which this config does not know; set its pretrained_path "
            "to the checkpoint, or use the saved processors: make_pre_post_processors(config, CHECKPOINT)."
        )
    return find_tokenizer(name, artifact_of=CheckpointSource(checkpoint, config.pretrained_revision))


def missing_stats(config: PI0TTNNConfig, stats: dict[str, Any]) -> list[str]:
    """Returns the features that `config` normalises and that `stats` says nothing of."""
    modes = config.normalization_mapping
    features = {"STATE": OBS_STATE, "ACTION": ACTION}
    return [
        feature
        for kind, feature in features.items()
        if modes.get(kind, NormalizationMode.IDENTITY) is not NormalizationMode.IDENTITY and feature not in stats
    ]


def missing_stats_message(missing: list[str]) -> str:
    """Returns what to tell a user whose checkpoint has no statistics for these features."""
    return (
        f"{', '.join(missing)}: normalised by mean and std in training, but the checkpoint has no statistics, so values pass "
        "unchanged and actions will be wrong on a real robot; use a fine-tuned checkpoint, or make its processors from your "
        "data set: make_pre_post_processors(config, dataset_stats=dataset.meta.stats)."
    )


def warn_of_processors(config: PI0TTNNConfig, source: CheckpointSource) -> None:
    """Says, before the weights are loaded, what LeRobot would do wrong or refuse later on."""
    try:
        processors = read_processors(source)
    except ConnectionError as error:
        logger.warning("The processors could not be looked for. %s", error)
        return
    if processors is None:
        return
    missing = missing_stats(config, processors.stats)
    if missing:
        logger.warning("%s: %s", source, missing_stats_message(missing))
    problem = tokenizer_problem(processors.tokenizer_name) if processors.tokenizer_name else None
    if problem:
        logger.warning("%s: the tokenizer cannot be had: %s", source, problem)
