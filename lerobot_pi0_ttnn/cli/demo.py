"""`lerobot-pi0-ttnn demo`: watch pi0 or pi0.5 drive a simulated robot through LeRobot's own `lerobot-eval`.

On MetaWorld a small pi0 that was trained by LeRobot does what the prompt says. It comes with this package: a thousandth of the
size, words for a tokenizer. On pusht and aloha the weights are random: every part of the pipeline is real, the skill is not.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoint.files import CONFIG_FILE
from ..config_loading import MODELS
from ..configuration_pi0_ttnn import BACKENDS
from ..demo import LEARNED_CHECKPOINTS
from ..demo.stand_in import make_demo_checkpoint
from ..device.cards import card_nodes
from ..recording import read_recording
from .plot import draw, unnormalised

METAWORLD = "metaworld"
STAND_IN_ENVS = ("pusht", "aloha")
TASK = "faucet-close-v3"
STEPS = 60
EMULATED_BOARD = "emulated:n150"
NEEDS_GL = (METAWORLD, "aloha")


def register(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser("demo", help="pi0 or pi0.5 on a simulated robot, from nothing", description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="pi0", help="default: pi0")
    parser.add_argument("--env", choices=(METAWORLD, *STAND_IN_ENVS), default=METAWORLD, help=f"default: {METAWORLD}")
    parser.add_argument(
        "--task", nargs="+", default=[TASK], help=f"MetaWorld's names, see its model card (default: {TASK})"
    )
    parser.add_argument(
        "--checkpoint", type=Path, help="for MetaWorld, of either model (default: the package's own of --model)"
    )
    parser.add_argument("--backend", choices=BACKENDS, default="ttnn", help="what computes (default: ttnn)")
    parser.add_argument("--board", help="for ttnn (default: a card if there is one, else emulated:n150)")
    parser.add_argument("--episodes", type=int, default=1, help="of each task (default: 1)")
    parser.add_argument("--seed", type=int, default=1000, help="of the first episode (default: 1000, as lerobot-eval)")
    parser.add_argument("--steps", type=int, help=f"length of an episode on pusht and aloha (default: {STEPS})")
    parser.add_argument("--output", type=Path, help="folder for all that it makes (default: outputs/demo_ENV)")
    parser.add_argument(
        "--prepare-only", action="store_true", help="make the checkpoint, print the commands, run nothing"
    )
    parser.set_defaults(run=run)


@dataclass(frozen=True)
class Episodes:
    """One call of `lerobot-eval`, and what it leaves."""

    checkpoint: Path
    output: Path
    environment: list[str]
    """`--env...` options."""
    prompt: str | None = None

    @property
    def recording(self) -> Path:
        """Returns the file of the policy's chunks and actions."""
        return self.output / "recording.jsonl"

    @property
    def plot(self) -> Path:
        """Returns the picture of the chunks."""
        return self.output / "chunks.png"

    @property
    def evaluation(self) -> Path:
        """Returns lerobot-eval's folder."""
        return self.output / "eval"

    @property
    def videos(self) -> list[Path]:
        """Returns the episodes' videos."""
        return sorted(self.evaluation.rglob("*.mp4"))

    def success(self) -> float:
        """Returns the part of the episodes that ended with the task done, in percent."""
        return float(json.loads((self.evaluation / "eval_info.json").read_text())["overall"]["pc_success"])


def run(options: argparse.Namespace) -> int:
    """Runs `lerobot-eval`, draws the plots, prints success and files."""
    for flag, value in (("--steps", options.steps), ("--episodes", options.episodes)):
        if value is not None and value < 1:
            raise ValueError(f"{flag}: expected at least 1, got {value}")
    runs = plan(options)
    gl = {"MUJOCO_GL": "egl"} if options.env in NEEDS_GL and "MUJOCO_GL" not in os.environ else {}
    environment = gl | {"HF_HUB_OFFLINE": "1"}
    if options.env in NEEDS_GL and not options.prepare_only:
        check_gl(os.environ | gl)
    backend = (
        ["--policy.backend=torch"] if options.backend == "torch" else [f"--policy.board={board_for(options.board)}"]
    )
    for episodes in runs:
        command = eval_command(
            episodes.checkpoint,
            [*episodes.environment, f"--seed={options.seed}"],
            backend,
            output=episodes.evaluation,
            recording=episodes.recording,
            episodes=options.episodes,
        )
        if episodes.prompt is not None:
            print(f"Prompt: {episodes.prompt}")
        print(f"$ {' '.join(f'{k}={v}' for k, v in environment.items())} {shlex.join(command)}", flush=True)
        print(
            f"$ lerobot-pi0-ttnn plot {episodes.recording} --checkpoint {episodes.checkpoint} -o {episodes.plot}",
            flush=True,
        )
        if not options.prepare_only:
            evaluate(command, environment)
            shown, unit = unnormalised(read_recording(episodes.recording), str(episodes.checkpoint))
            draw(shown, episodes.plot, episode=0, unit=unit)
    if not options.prepare_only:
        report(runs, options)
    return 0


def plan(options: argparse.Namespace) -> list[Episodes]:
    """Returns what is to be run, its checkpoints made or found.

    Raises:
        ValueError: MetaWorld has no such task.
        FileNotFoundError: there is no such checkpoint.
    """
    output: Path = options.output or Path("outputs") / f"demo_{options.env}"
    if options.env != METAWORLD:
        stand_in = output / "checkpoint"
        make_demo_checkpoint(stand_in, options.env, options.model)
        print("Stand-ins made, with random weights: nothing was trained for this environment.", flush=True)
        length = f"--env.episode_length={options.steps or STEPS}"
        return [Episodes(stand_in, output, [f"--env.type={options.env}", length])]
    checkpoint: Path = options.checkpoint or LEARNED_CHECKPOINTS[options.model]
    if not (checkpoint / CONFIG_FILE).is_file():
        raise FileNotFoundError(f"--checkpoint: expected a folder with {CONFIG_FILE}, got {checkpoint}")
    if checkpoint.is_relative_to(Path.cwd()):
        checkpoint = checkpoint.relative_to(Path.cwd())  # as one would type it
    if options.steps is not None:
        raise ValueError("--steps: LeRobot's MetaWorld ends an episode when the task is done, or after 500 steps")
    from lerobot.envs.metaworld import TASK_DESCRIPTIONS

    unknown = sorted(set(options.task) - set(TASK_DESCRIPTIONS))
    if unknown:
        raise ValueError(f"--task: unknown to MetaWorld: {', '.join(unknown)}; it has {', '.join(TASK_DESCRIPTIONS)}")
    # A call for each: two scenes in one process draw each other's meshes.
    return [
        Episodes(
            checkpoint,
            output / task,
            [f"--env.type={METAWORLD}", f"--env.task={task}"],
            prompt=TASK_DESCRIPTIONS[task],
        )
        for task in options.task
    ]


def check_gl(environment: dict[str, str]) -> None:
    """Draws nothing with MuJoCo, in a process of its own.

    Raises:
        OSError: it cannot draw here; with the package that is absent, and the environment that needs none.
    """
    program = "import mujoco; context = mujoco.GLContext(8, 8); context.make_current(); context.free()"
    tried = subprocess.run(
        [sys.executable, "-c", program], env=environment, check=False, capture_output=True, text=True
    )
    if tried.returncode:
        reason = (tried.stderr.strip().splitlines() or [f"status {tried.returncode}"])[-1]
        raise OSError(
            f"MuJoCo cannot draw with MUJOCO_GL={environment['MUJOCO_GL']} ({reason}). `apt-get install libegl1 libgl1` "
            "brings what MUJOCO_GL=egl needs, libosmesa6 what osmesa needs; `lerobot-pi0-ttnn demo --env pusht` needs neither."
        )


def evaluate(command: list[str], environment: dict[str, str]) -> None:
    """Runs `lerobot-eval`.

    Raises:
        ChildProcessError: it failed.
    """
    program = [sys.executable, "-m", "lerobot.scripts.lerobot_eval", *command[1:]]
    status = subprocess.run(program, env=os.environ | environment, check=False).returncode
    if status != 0:
        raise ChildProcessError(f"lerobot-eval ended with status {status}; its own message is above.")


def report(runs: list[Episodes], options: argparse.Namespace) -> None:
    """Draws the strip of pictures of the trained tasks, prints what came of them and where it lies."""
    made = [file for episodes in runs for file in (*episodes.videos, episodes.evaluation, episodes.plot)]
    if options.env == METAWORLD:
        from ..demo.strip import draw_strip

        strip = (options.output or Path("outputs") / f"demo_{options.env}") / "strip.png"
        titled = {str(episodes.prompt): episodes.videos[0] for episodes in runs}
        draw_strip(titled, strip)
        made.append(strip)
        for episodes in runs:
            print(f"{episodes.prompt}: success in {episodes.success():.0f} % of {options.episodes} episodes")
    print(*made, sep="\n")


def board_for(wanted: str | None) -> str:
    """Returns the board to run on: the wanted one, else a card or the simulator if there is one, else an emulated one."""
    if wanted is not None:
        return wanted
    if card_nodes() or os.environ.get("TT_METAL_SIMULATOR"):
        return "auto"
    print(f"There is no Tenstorrent card here: {EMULATED_BOARD} stands in, exact and slow (--board, --backend=torch).")
    return EMULATED_BOARD


def eval_command(
    checkpoint: Path, environment: list[str], backend: list[str], *, output: Path, recording: Path, episodes: int = 1
) -> list[str]:
    """Returns the command line of `lerobot-eval`.

    Args:
        checkpoint: the policy folder.
        environment: options that choose the environment.
        backend: options that choose the policy's backend and board.
        output: where the video and the metrics go.
        recording: where the policy's chunks and actions go.
        episodes: how many.
    """
    return [
        "lerobot-eval",
        "--discover_packages_path=lerobot_pi0_ttnn.plugins",
        f"--policy.path={checkpoint}",
        *backend,
        f"--policy.recording_path={recording}",
        *environment,
        f"--eval.n_episodes={episodes}",
        "--eval.batch_size=1",
        "--eval.use_async_envs=false",
        f"--output_dir={output}",
    ]
