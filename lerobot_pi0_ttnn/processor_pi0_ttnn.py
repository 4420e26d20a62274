"""The pre- and postprocessors: pi0's own. LeRobot finds this module, and the two functions in it, by their names."""

import logging
from typing import Any

import torch
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

from .checkpoint.files import CheckpointSource
from .checkpoint.tokenizer import FOLDER, find_tokenizer
from .configuration_pi0_ttnn import PI0TTNNConfig
from .pipeline_artifacts import mark_own
from .review import refuse_or_warn
from .review.statistics import check_given_statistics

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
        config: the policy's; where its tokenizer is the checkpoint's own, that is the one that it was loaded from, or
            is at its `pretrained_path`.
        dataset_stats: for `observation.state` and `action`, their `mean` and `std`; without them normalisation does
            nothing, and there is a warning.

    Raises:
        ValueError: statistics that no data set has, or not those that the config's normalisation takes.
    """
    steps, relative, tokenizer = make_steps(config, dataset_stats)
    return make_pipelines(
        config,
        steps,
        relative,
        [
            steps.rename_observations,
            steps.add_batch_dim,
            Pi0NewLineProcessor(),
            tokenizer,
            steps.to_device,
            relative,
            steps.normalize,
        ],
    )


def make_steps(
    config: PI0TTNNConfig, dataset_stats: Stats | None
) -> tuple[Any, RelativeActionsProcessorStep, TokenizerProcessorStep]:
    """Returns the steps that the preprocessors of pi0 and of pi0.5 have in common, each in its own order.

    These are LeRobot's default ones, the one that makes actions relative and the one that tokenizes; see
    `make_pi0_ttnn_pre_post_processors` for arguments and errors.
    """
    refuse_or_warn(list(check_given_statistics(config, dataset_stats or {})), "the data set's statistics", logger)
    relative = RelativeActionsProcessorStep(
        enabled=config.use_relative_actions,
        exclude_joints=config.relative_exclude_joints,
        action_names=config.action_feature_names,
    )
    tokenizer = TokenizerProcessorStep(
        tokenizer_name=tokenizer_of(config),
        max_length=config.tokenizer_max_length,
        padding_side="right",
        padding="max_length",
    )
    if config.tokenizer_name == FOLDER:
        mark_own(tokenizer)
    return make_default_policy_processor_steps(config, dataset_stats), relative, tokenizer


def make_pipelines(
    config: PI0TTNNConfig, steps: Any, relative: RelativeActionsProcessorStep, input_steps: list[Any]
) -> Pipelines:
    """Returns a preprocessor of these steps, and the postprocessor that pi0 and pi0.5 share."""
    pipelines: Pipelines = make_policy_processor_pipelines(
        input_steps=input_steps,
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
    """Returns the folder or Hub id of the tokenizer that `config` names.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    name, checkpoint = config.tokenizer_name, config.checkpoint
    if checkpoint is None and config.pretrained_path:
        checkpoint = CheckpointSource(config.pretrained_path, config.pretrained_revision)
    if name != FOLDER:
        return find_tokenizer(name)
    if checkpoint is None:
        raise FileNotFoundError(
            f"tokenizer_name: {name!r} is a folder of the checkpoint, which this config does not know; set its pretrained_path "
            "to the checkpoint, or use the saved processors: make_pre_post_processors(config, CHECKPOINT)."
        )
    return find_tokenizer(name, artifact_of=checkpoint)
