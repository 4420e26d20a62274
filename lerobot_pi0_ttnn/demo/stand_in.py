"""A pi0 or pi0.5 of a thousandth of the size with random weights, for environments for which nothing was trained."""

import shutil
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint.files import CheckpointSource
from ..checkpoint.tokenizer import FOLDER
from ..config_loading import CONFIGS
from ..model.tensors import expected_shapes
from .checkpoint import write_random_weights
from .tokenizer import make_tokenizer

SEED = 0
ACTION_STEPS = 10


def make_demo_checkpoint(folder: Path, env: str, model: str = "pi0") -> None:
    """Makes a tiny policy folder for an environment, with its processors and a tokenizer; an earlier one is replaced.

    Args:
        folder: where to.
        env: `pusht` or `aloha`.
        model: `pi0` or `pi05`.
    """
    from lerobot.envs.configs import EnvConfig
    from lerobot.envs.utils import env_to_policy_features
    from lerobot.policies import make_pre_post_processors
    from lerobot.utils.constants import ACTION

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    make_tokenizer(folder / FOLDER)
    features = env_to_policy_features(EnvConfig.get_choice_class(env)())
    config = CONFIGS[model](
        architecture="tiny",
        tokenizer_name=FOLDER,
        n_action_steps=ACTION_STEPS,
        input_features={name: feature for name, feature in features.items() if name != ACTION},
        output_features={ACTION: features[ACTION]},
    )
    config.checkpoint = CheckpointSource(folder)
    for pipeline in make_pre_post_processors(config, dataset_stats=demo_stats(env)):
        pipeline.save_pretrained(folder)
    config.save_pretrained(folder)
    shapes = {f"model.{name}": shape for name, shape in expected_shapes(config.model_config()).items()}
    write_random_weights(folder / "model.safetensors", shapes, seed=SEED, dtype=torch.float32)


def demo_stats(env: str) -> dict[str, dict[str, Tensor]]:
    """Returns statistics under which random actions move the robot visibly and keep it in its workspace."""
    if env == "pusht":
        centre, spread = torch.full((2,), 256.0), torch.full((2,), 60.0)  # pixels of a 512 x 512 table
    else:
        from gym_aloha.constants import START_ARM_POSE

        arms = torch.tensor(START_ARM_POSE)
        # The pose lists two fingers for each gripper, which the state and the action count once, opening as 0 to 1.
        gripper = torch.tensor([0.5])
        centre = torch.cat([arms[:6], gripper, arms[8:14], gripper])
        spread = torch.full((14,), 0.1)
    # As of a normal distribution: between these two quantiles lie 4.65 standard deviations.
    quantiles = {"q01": centre - 2.326 * spread, "q99": centre + 2.326 * spread}
    return {feature: {"mean": centre, "std": spread, **quantiles} for feature in ("observation.state", "action")}
