"""`lerobot-pi0-ttnn demo`: watch pi0 drive a simulated robot through LeRobot's own `lerobot-eval`.

The real checkpoint needs the network and the real tokenizer a licence, so the demo makes stand-ins: a pi0 of a thousandth of
the size with random weights, and a tokenizer of bytes. Every part of the pipeline is real; the robot's skill is not.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint.files import CheckpointSource
from ..checkpoint.tokenizer import FOLDER
from ..configuration_pi0_ttnn import BACKENDS, PI0TTNNConfig
from ..demo.checkpoint import write_random_weights
from ..demo.tokenizer import make_tokenizer
from ..device.cards import card_nodes
from ..model.tensors import expected_shapes
from ..recording import read_recording
from .plot import draw, unnormalised

SEED = 0
STEPS = 60
ACTION_STEPS = 10
EMULATED_BOARD = "emulated:n150"


def register(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser("demo", help="pi0 on a simulated robot, from nothing", description=__doc__)
    parser.add_argument("--env", choices=("pusht", "aloha"), default="pusht", help="aloha needs GL (default: pusht)")
    parser.add_argument("--backend", choices=BACKENDS, default="ttnn", help="what computes (default: ttnn)")
    parser.add_argument("--board", help="for ttnn (default: a card if there is one, else emulated:n150)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"length of the episode (default: {STEPS})")
    parser.add_argument("--output", type=Path, help="folder for all that it makes (default: outputs/demo_ENV)")
    parser.add_argument(
        "--prepare-only", action="store_true", help="make the checkpoint, print the commands, run nothing"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Makes the stand-ins, runs `lerobot-eval`, draws the plot, and prints what it left."""
    if options.steps < 1:
        raise ValueError(f"--steps: expected at least 1, got {options.steps}")
    output: Path = options.output or Path("outputs") / f"demo_{options.env}"
    checkpoint, recording, plot = output / "checkpoint", output / "recording.jsonl", output / "chunks.png"
    make_demo_checkpoint(checkpoint, options.env)
    print(
        "Stand-ins made, with random weights: the real pi0 needs the network, its tokenizer Google's licence.",
        flush=True,
    )
    backend = (
        ["--policy.backend=torch"] if options.backend == "torch" else [f"--policy.board={board_for(options.board)}"]
    )
    command = eval_command(
        checkpoint, options.env, backend, steps=options.steps, output=output / "eval", recording=recording
    )
    environment = {"MUJOCO_GL": "egl"} if options.env == "aloha" and "MUJOCO_GL" not in os.environ else {}
    environment["HF_HUB_OFFLINE"] = "1"
    print(f"$ {' '.join(f'{k}={v}' for k, v in environment.items())} {shlex.join(command)}", flush=True)
    print(f"$ lerobot-pi0-ttnn plot {recording} --checkpoint {checkpoint} -o {plot}", flush=True)
    if options.prepare_only:
        return 0
    program = [sys.executable, "-m", "lerobot.scripts.lerobot_eval", *command[1:]]
    status = subprocess.run(program, env=os.environ | environment, check=False).returncode
    if status != 0:
        raise ChildProcessError(f"lerobot-eval ended with status {status}; its own message is above.")
    shown, unit = unnormalised(read_recording(recording), str(checkpoint))
    draw(shown, plot, episode=0, unit=unit)
    for made in (*sorted((output / "eval").rglob("*.mp4")), output / "eval" / "eval_info.json", plot):
        print(made)
    return 0


def board_for(wanted: str | None) -> str:
    """Returns the board to run on: the wanted one, else a card or the simulator if there is one, else an emulated one."""
    if wanted is not None:
        return wanted
    if card_nodes() or os.environ.get("TT_METAL_SIMULATOR"):
        return "auto"
    print(f"There is no Tenstorrent card here: {EMULATED_BOARD} stands in, exact and slow (--board, --backend=torch).")
    return EMULATED_BOARD


def eval_command(
    checkpoint: Path, env: str, backend: list[str], *, steps: int, output: Path, recording: Path
) -> list[str]:
    """Returns the command line of `lerobot-eval` for one episode.

    Args:
        checkpoint: the policy folder.
        env: `pusht` or `aloha`.
        backend: options that choose the policy's backend and board.
        steps: length of the episode.
        output: where the video and the metrics go.
        recording: where the policy's chunks and actions go.
    """
    return [
        "lerobot-eval",
        f"--policy.path={checkpoint}",
        *backend,
        f"--policy.recording_path={recording}",
        f"--env.type={env}",
        f"--env.episode_length={steps}",
        "--eval.n_episodes=1",
        "--eval.batch_size=1",
        "--eval.use_async_envs=false",
        f"--output_dir={output}",
    ]


def make_demo_checkpoint(folder: Path, env: str) -> None:
    """Makes a tiny pi0 policy folder for an environment, with its processors and a tokenizer; an earlier one is replaced.

    Args:
        folder: where to.
        env: `pusht` or `aloha`.
    """
    from lerobot.envs.configs import EnvConfig
    from lerobot.envs.utils import env_to_policy_features
    from lerobot.utils.constants import ACTION

    from ..processor_pi0_ttnn import make_pi0_ttnn_pre_post_processors

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    make_tokenizer(folder / FOLDER)
    features = env_to_policy_features(EnvConfig.get_choice_class(env)())
    config = PI0TTNNConfig(
        architecture="tiny",
        tokenizer_name=FOLDER,
        n_action_steps=ACTION_STEPS,
        input_features={name: feature for name, feature in features.items() if name != ACTION},
        output_features={ACTION: features[ACTION]},
    )
    config.checkpoint = CheckpointSource(folder)
    for pipeline in make_pi0_ttnn_pre_post_processors(config, demo_stats(env)):
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
    return {feature: {"mean": centre, "std": spread} for feature in ("observation.state", "action")}
