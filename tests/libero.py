"""A pi0 with LIBERO's features, saved as LeRobot saves it: for the tests, and `python -m tests.libero FOLDER` for trying it."""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from lerobot.configs import PreTrainedConfig
from lerobot.envs.configs import LiberoEnv
from lerobot.envs.factory import make_env, make_env_pre_post_processors
from lerobot.policies.factory import make_policy, make_pre_post_processors
from lerobot.policies.pi0.modeling_pi0 import PI0Policy
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.scripts.lerobot_eval import rollout
from lerobot.utils.random_utils import set_seed
from torch import Tensor

from tests.checkpoints import edit_json, save_lerobot_checkpoint
from tests.oracle import make_lerobot_policy

CAMERAS = ("image", "image2")
N_ACTION_STEPS = 10
TOKENS = 128
"""The stand-in tokenizer makes a token of every byte, of which LIBERO's prompts have up to 88."""
STATS: dict[str, dict[str, Tensor]] = {
    # Position in m, axis times angle in rad, fingers in m: near what LIBERO's demonstrations have, no two alike.
    "observation.state": {
        "mean": torch.tensor([-0.05, 0.04, 0.76, 2.97, -0.22, -0.13, 0.027, -0.028]),
        "std": torch.tensor([0.11, 0.15, 0.38, 0.34, 0.91, 0.33, 0.014, 0.015]),
    },
    "action": {
        "mean": torch.tensor([0.06, 0.09, -0.09, 0.001, 0.006, -0.005, -0.05]),
        "std": torch.tensor([0.34, 0.38, 0.44, 0.04, 0.06, 0.08, 0.99]),
    },
}


def save_libero_checkpoint(folder: Path, kind: str = "pi0") -> PI0Policy:
    """Saves LeRobot's own tiny policy, random weights, and returns it.

    Args:
        folder: where to.
        kind: `pi0`, as LeRobot writes it; or `pi0_ttnn`, as `lerobot-pi0-ttnn convert` does.
    """
    policy = make_lerobot_policy(
        CAMERAS, state_dim=8, action_dim=7, n_action_steps=N_ACTION_STEPS, tokenizer_max_length=TOKENS
    )
    for camera in CAMERAS:
        policy.config.input_features[f"observation.images.{camera}"].shape = (3, 256, 256)
    save_lerobot_checkpoint(policy, folder, STATS)
    if kind != "pi0":
        edit_json(folder / "config.json", type=kind, architecture="tiny")
    return policy


def load_for(env: LiberoEnv, checkpoint: Path, *flags: str) -> PreTrainedPolicy:
    """The checkpoint's policy, as `lerobot-eval` loads it for the environment; flags are its `--policy.` ones."""
    config = PreTrainedConfig.from_pretrained(checkpoint, cli_overrides=list(flags))
    config.pretrained_path = checkpoint
    return make_policy(config, env_cfg=env)


def play(env: LiberoEnv, policy: PreTrainedPolicy, checkpoint: Path, seeds: Sequence[int], task: int = 0) -> Tensor:
    """The actions of an episode in an environment for each seed, (seeds, ticks, 7), by what `lerobot-eval` calls."""
    made = make_env(env, n_envs=len(seeds), use_async_envs=False)[env.task]
    processors = (
        *make_env_pre_post_processors(env, policy.config),
        *make_pre_post_processors(policy.config, str(checkpoint)),
    )
    set_seed(seeds[0])
    actions = rollout(made[task], policy, *processors, seeds=list(seeds))["action"]
    for vector in made.values():
        vector.close()
    return actions


if __name__ == "__main__":
    save_libero_checkpoint(Path(sys.argv[1]))
