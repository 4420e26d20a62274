"""`python -m training`: demonstrations, a pretrained vision tower, a trained policy, its checkpoint. Seeded; about two hours.

What has been collected already is not collected again.
"""

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from lerobot.envs.metaworld import TASK_DESCRIPTIONS

from . import data
from .model import PROMPT_TOKENS, make_policy
from .tasks import TASKS
from .train import train
from .vision import pretrain

FIRST_SEED = 100_000
"""Of the demonstrations; lerobot-eval starts at 1000."""


def collect(folder: Path, task: str, episodes: int) -> None:
    """Collects one task in a process of its own, unless its file is there."""
    path = folder / f"{task}.npz"
    if path.exists():
        print(f"{path} is there already")
        return
    command = [sys.executable, "-m", "training.collect", task, str(path)]
    # LP: of Mesa's software renderer.
    one_thread = {"OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "1"}
    flags = ["--episodes", str(episodes), "--seed", str(FIRST_SEED)]
    subprocess.run([*command, *flags], env=os.environ | one_thread, check=True)


def main() -> None:
    """Runs the three stages."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("outputs/training"))
    parser.add_argument("--model", choices=PROMPT_TOKENS, default="pi0", help="pi05 takes the same frames")
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=sorted(TASK_DESCRIPTIONS))
    parser.add_argument("--episodes", type=int, default=320, help="of each task")
    parser.add_argument("--vision-steps", type=int, default=1500)
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="tasks collected at once")
    parser.add_argument(
        "--threads", type=int, default=1, help="of torch: more only on a machine that does nothing else"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recorded, checkpoint = options.output / "data", options.output / f"checkpoint_{options.model}"
    recorded.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda task: collect(recorded, task, options.episodes), options.tasks))
    frames = data.load(recorded, options.tasks)
    print(f"{len(frames.task)} frames of {len(options.tasks)} tasks")
    policy = make_policy(options.seed, options.model)
    pretrain(policy, frames, steps=options.vision_steps, seed=options.seed)
    train(
        policy,
        frames,
        checkpoint,
        steps=options.steps,
        seed=options.seed,
        vocabulary=[*TASK_DESCRIPTIONS.values()],
    )
    print(f"{checkpoint}: try it with `uv run lerobot-pi0-ttnn demo --checkpoint {checkpoint}`")


if __name__ == "__main__":
    main()
