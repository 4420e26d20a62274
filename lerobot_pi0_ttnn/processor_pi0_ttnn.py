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

from .configuration_pi0_ttnn import PI0TTNNConfig
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
        config: the policy's.
        dataset_stats: for `observation.state` and `action`, their `mean` and `std`; without them normalisation does
            nothing, and there is a warning.

    Raises:
        ValueError: statistics that no data set has, or not those that the config's normalisation takes.
    """
    refuse_or_warn(list(check_given_statistics(config, dataset_stats or {})), "the data set's statistics", logger)
    relative = RelativeActionsProcessorStep(
        enabled=config.use_relative_actions,
        exclude_joints=config.relative_exclude_joints,
        action_names=config.action_feature_names,
    )
    steps = make_default_policy_processor_steps(config, dataset_stats)
    tokenizer = TokenizerProcessorStep(
        tokenizer_name=config.tokenizer_name,
        max_length=config.tokenizer_max_length,
        padding_side="right",
        padding="max_length",
    )
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
