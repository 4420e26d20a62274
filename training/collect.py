"""Demonstrations of one task by MetaWorld's scripted expert: `python -m training.collect TASK FILE --episodes N --seed S`.

Noise goes into the executed actions only, so that the expert is seen getting back on its way. A frame's label is what the clean
expert does from exactly there: the simulation is branched for it, which costs a hundredth of drawing the frame.
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.policies.common.vla_utils import resize_with_pad_torch

from .model import CHUNK, IMAGE_SIZE
from .simulation import OBJECT, Simulation
from .tasks import MAX_STEPS

EVERY = (6, 14)
"""Steps from one frame to the next, drawn at random: nearer ones hardly differ, and drawing is what takes the time."""
MAX_DRIFT = 25
"""Steps, at most, that a wandering episode spends drifting into a random direction first."""


def collect(task: str, path: Path, *, episodes: int, seed: int) -> None:
    """Writes the frames of some episodes to a compressed .npz file, which appears whole or not at all.

    It holds, a row for each frame: `image` (112, 112, 3) uint8; `state` (4,) as LeRobot's environment has it; `action`
    (chunk, 4) in [-1, 1]; `episode`; where the object is, `object` (3,) in metres and `object_pixel` (2,), and `hand_pixel`
    (2,), both as fractions of the picture's side. And `prompt`, once.

    Args:
        task: MetaWorld's name.
        path: the file.
        episodes: how many.
        seed: of the first one.
    """
    simulation = Simulation(task)
    rows: dict[str, list[np.ndarray[Any, Any]]] = {}
    solved, start = 0, time.monotonic()
    for episode in range(seed, seed + episodes):
        random = np.random.default_rng(episode)
        simulation.reset(episode)
        noise = 0.0 if random.random() < 0.25 else random.uniform(0.1, 0.7)
        drift_steps = int(random.integers(MAX_DRIFT)) if random.random() < 0.5 else 0
        drift: np.ndarray[Any, Any] = random.uniform(-1, 1, 3)
        wander: np.ndarray[Any, Any] = np.zeros(3)
        next_frame = int(random.integers(4))
        for step in range(MAX_STEPS):
            if step == next_frame:
                for name, value in (frame(simulation) | {"episode": np.array(episode)}).items():
                    rows.setdefault(name, []).append(value)
                next_frame += int(random.integers(*EVERY))
            wander = 0.8 * wander + 0.6 * noise * random.normal(size=3)  # Ornstein-Uhlenbeck
            action = simulation.expert_action()
            if step < drift_steps:
                action[:3] = drift
            action[:3] = np.clip(action[:3] + wander, -1, 1)
            if simulation.step(action):
                solved += 1
                break
        done = episode - seed + 1
        if done % 25 == 0 or done == episodes:
            speed = len(rows["episode"]) / (time.monotonic() - start)
            print(f"{task}: {done}/{episodes} episodes, {solved} solved, {speed:.1f} frames/s", flush=True)
    partial = path.with_suffix(".partial.npz")
    table: dict[str, Any] = {name: np.stack(row) for name, row in rows.items()}
    np.savez_compressed(partial, prompt=simulation.prompt, **table)
    os.replace(partial, path)


def frame(simulation: Simulation) -> dict[str, np.ndarray[Any, Any]]:
    """Returns one row of what `collect` writes, without its episode."""
    seen = simulation.look()
    pixels = torch.from_numpy(seen["pixels"])[None].float() / 255
    image = resize_with_pad_torch(pixels, IMAGE_SIZE, IMAGE_SIZE)[0]  # as PI0Policy does
    state, position = seen["agent_pos"].astype(np.float32), simulation.observation[OBJECT].copy()
    object_pixel, hand_pixel = simulation.project(np.stack([position, state[:3]])).astype(np.float32)
    chunk = []
    with simulation.branch():
        for _ in range(CHUNK):
            chunk.append(simulation.expert_action())
            simulation.step(chunk[-1])
    return {
        "image": (image * 255).round().byte().numpy(),
        "state": state,
        "action": np.stack(chunk),
        "object": position.astype(np.float32),
        "object_pixel": object_pixel,
        "hand_pixel": hand_pixel,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task")
    parser.add_argument("path", type=Path)
    parser.add_argument("--episodes", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    collect(options.task, options.path, episodes=options.episodes, seed=options.seed)
