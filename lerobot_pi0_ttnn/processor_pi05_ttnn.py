"""The pre- and postprocessors: pi0.5's own. LeRobot finds this module, and the two functions in it, by their names."""

from lerobot.policies.pi05.processor_pi05 import Pi05PrepareStateTokenizerProcessorStep

from .configuration_pi05_ttnn import PI05TTNNConfig
from .processor_pi0_ttnn import Pipelines, Stats, make_pipelines, make_steps


def make_pi05_ttnn_pre_post_processors(config: PI05TTNNConfig, dataset_stats: Stats | None = None) -> Pipelines:
    """Returns the preprocessor and the postprocessor that LeRobot makes for pi0.5, with the tokenizer that `config` names.

    The state is normalised before it is written into the prompt. Source: LeRobot
    `processor_pi05.py::make_pi05_pre_post_processors`; arguments and errors as of `make_pi0_ttnn_pre_post_processors`.
    """
    steps, relative, tokenizer = make_steps(config, dataset_stats)
    return make_pipelines(
        config,
        steps,
        relative,
        [
            steps.rename_observations,
            steps.add_batch_dim,
            relative,
            steps.normalize,
            Pi05PrepareStateTokenizerProcessorStep(max_state_dim=config.max_state_dim),
            tokenizer,
            steps.to_device,
        ],
    )


make_pi05_pre_post_processors = make_pi05_ttnn_pre_post_processors
"""The name under which LeRobot looks while `plugins.as_pi05` runs checkpoints of type `pi05`."""
