"""Episodes of one task, any of the policies in the loop: `python -m training.closed_loop TASK WHO... --output FOLDER`.

Pictures are drawn only for the ticks at which a chunk is asked for. Seeds and noise are the same for every policy.
"""

import argparse
import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lerobot.envs.utils import preprocess_observation
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from safetensors.torch import load_file
from torch import Tensor

from lerobot_pi0_ttnn import PI0TTNNPolicy, load_policy
from lerobot_pi0_ttnn.checkpoint.files import CheckpointSource
from lerobot_pi0_ttnn.checkpoint.processors import read_processors
from lerobot_pi0_ttnn.config_loading import load_config, saved_type
from lerobot_pi0_ttnn.demo import LEARNED_CHECKPOINT

from .model import FIELDS, Policy, build_policy
from .simulation import Simulation
from .tasks import MAX_STEPS, OPPOSITE

WHO = {
    "lerobot": {},
    "torch": {"backend": "torch"},
    "torch-bfloat16": {"backend": "torch", "dtype": "bfloat16"},
    "accurate": {"precision": "accurate"},
    "balanced": {"precision": "balanced"},
    "fast": {"precision": "fast"},
}
"""LeRobot's own `PI0Policy` or `PI05Policy` in float32; ours by how they are loaded: on a board unless they say `torch`."""
CONTROLS = ("image", "prompt", "state")
OTHER_EPISODE = 1
"""Seed of the episode whose first picture stands for every picture in the control of that name."""


@dataclass
class Outcomes:
    """What came of some episodes of one task."""

    solved: list[bool] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    chunks: int = 0
    jumps: list[float] = field(default_factory=list)
    """For each episode, by how much the hand's velocity changes where one chunk takes over from another, see `Episode.jump`."""


class Episode(NamedTuple):
    """One episode."""

    solved: bool
    actions: Tensor
    """Those executed, (steps, 4) float32."""
    switches: list[int]
    """Ticks from which another chunk was executed than before."""

    def jump(self) -> float:
        """Returns the mean difference of an action's first three values from the former one's, where chunks change."""
        if not self.switches:
            return math.nan
        ticks = torch.tensor(self.switches)
        return (self.actions[ticks] - self.actions[ticks - 1])[:, :3].abs().mean().item()


class Player:
    """A policy with its processors.

    Args:
        who: a key of `WHO`.
        checkpoint: its folder.
        board: for those on a board.
    """

    def __init__(self, who: str, checkpoint: Path = LEARNED_CHECKPOINT, *, board: str = "emulated:n150") -> None:
        options: dict[str, Any] = dict(WHO[who])
        if "lerobot" in who:
            self.policy = load_lerobot(checkpoint)
        else:
            if "precision" in options:
                options["board"] = board
            self.policy = load_policy(checkpoint, **options)
        # LeRobot's config has no name for the size; of it the factory of the processors takes only the type.
        source = CheckpointSource(checkpoint)
        config = load_config(source)
        self.mean_state = read_processors(source).state_stats["mean"]
        self.preprocess, self.postprocess = make_pre_post_processors(config, str(checkpoint))

    def batch(self, seen: dict[str, np.ndarray[Any, Any]], prompt: str, state: Tensor | None = None) -> dict[str, Any]:
        """Returns an observation of LeRobot's MetaWorld as the policy takes it; `state`, if any, replaces the robot's."""
        raw = preprocess_observation({name: values[None] for name, values in seen.items()}) | {"task": [prompt]}
        if state is not None:
            raw["observation.state"] = state[None]
        batch: dict[str, Any] = self.preprocess(raw)
        return batch

    def chunk(self, batch: dict[str, Any], generator: torch.Generator, **rtc: Any) -> Tensor:
        """Returns a chunk, (16, 4) float32, normalised; the noise is of the generator."""
        noise = torch.randn(1, FIELDS["chunk_size"], self.policy.config.max_action_dim, generator=generator)
        with torch.no_grad():
            chunk: Tensor = self.policy.predict_action_chunk(batch, noise=noise, **rtc)[0].float()
        return chunk

    def actions(self, chunk: Tensor) -> np.ndarray[Any, Any]:
        """Returns the actions of a chunk as the environment takes them, (16, 4) float32."""
        actions: np.ndarray[Any, Any] = self.postprocess(chunk).numpy()
        return actions

    def close(self) -> None:
        """Gives the board back, if it has one."""
        if isinstance(self.policy, PI0TTNNPolicy):
            self.policy.close()


def load_lerobot(checkpoint: Path) -> Policy:
    """Returns LeRobot's own policy with the weights of a checkpoint of tiny size."""
    policy = build_policy(saved_type(CheckpointSource(checkpoint)))
    policy.load_state_dict(load_file(checkpoint / "model.safetensors"))
    return policy.eval()


def play(
    player: Player,
    simulation: Simulation,
    seed: int,
    *,
    prompt: str | None = None,
    state: Tensor | None = None,
    change: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    delay: int = 0,
    rtc: bool = False,
    max_steps: int = MAX_STEPS,
) -> Episode:
    """Returns an episode, played.

    A chunk is asked for every `n_action_steps` ticks, and the former one goes on until it is there.

    Args:
        player: whose chunks.
        simulation: of the task.
        seed: of the episode and of the noise.
        prompt: another one than the task's.
        state: in place of the robot's.
        change: of each batch, before the policy gets it.
        delay: ticks from an observation to the first action that is chosen by it; the actions due meanwhile are dropped. The
            first chunk of an episode is waited for.
        rtc: whether the policy is told of the former chunk and of the delay.
        max_steps: of the episode.
    """
    generator = torch.Generator().manual_seed(seed)
    simulation.reset(seed)
    every = player.policy.config.n_action_steps
    current: tuple[int, Tensor] | None = None  # the tick at which a chunk was asked for, and the chunk
    actions = np.empty(0)  # of the current one
    coming: tuple[int, Tensor] | None = None
    executed: list[np.ndarray[Any, Any]] = []
    switches: list[int] = []
    solved = False
    for tick in range(max_steps):
        if coming and tick == coming[0] + delay:
            current, coming = coming, None
            actions = player.actions(current[1])
            switches.append(tick)
        if tick % every == 0:
            batch = player.batch(simulation.look(), prompt or simulation.prompt, state)
            guidance: dict[str, Any] = {}
            if rtc and current:
                guidance = {"prev_chunk_left_over": current[1][tick - current[0] :], "inference_delay": delay}
            coming = tick, player.chunk(change(batch) if change else batch, generator, **guidance)
            if not (current and delay):
                switches += [tick] if current else []
                current, coming = coming, None
                actions = player.actions(current[1])
        assert current
        executed.append(actions[tick - current[0]])
        solved = simulation.step(executed[-1])
        if solved:
            break
    return Episode(solved, torch.from_numpy(np.stack(executed)), switches)


def control(name: str, player: Player, simulation: Simulation) -> dict[str, Any]:
    """Returns arguments of `play` with which the policy lacks one of its inputs.

    Args:
        name: `image`: the first picture of another episode, throughout; `state`: the mean of the demonstrations, throughout;
            `prompt`: that of the task's opposite.
        player: whose.
        simulation: of the task.
    """
    if name == "prompt":
        from lerobot.envs.metaworld import TASK_DESCRIPTIONS

        return {"prompt": TASK_DESCRIPTIONS[OPPOSITE[simulation.lerobot.task]]}
    if name == "state":
        return {"state": player.mean_state}
    simulation.reset(OTHER_EPISODE)
    picture = player.batch(simulation.look(), simulation.prompt)["observation.image"]
    return {"change": lambda batch: batch | {"observation.image": picture}}


@dataclass(frozen=True)
class Series:
    """One way to play a task."""

    who: str
    control: str | None = None
    delay: int = 0
    rtc: bool = False

    @property
    def name(self) -> str:
        """Returns what it is called, as `parse` reads it."""
        control = f"/without-{self.control}" if self.control else ""
        return f"{self.who}{control}{f'/delay-{self.delay}' if self.delay else ''}{'/rtc' if self.rtc else ''}"

    @classmethod
    def parse(cls, name: str) -> "Series":
        """Returns the series of a name.

        Raises:
            ValueError: it is none.
        """
        who, *rest = name.split("/")
        control, delay, rtc = None, 0, False
        for word in rest:
            if word == "rtc":
                rtc = True
            elif word.startswith("delay-"):
                delay = int(word.removeprefix("delay-"))
            else:
                control = word.removeprefix("without-")
        series = cls(who, control, delay, rtc)
        if who not in WHO or series.name != name or control not in (None, *CONTROLS):
            raise ValueError(
                f"expected WHO[/without-INPUT][/delay-TICKS][/rtc] with {WHO.keys()}, {CONTROLS}, got {name}"
            )
        return series

    def path(self, folder: Path, task: str) -> Path:
        """Returns the file of its outcomes on a task."""
        return folder / f"{self.name.replace('/', '-')}-{task}.json"


def play_series(series: Series, player: Player, simulation: Simulation, *, seed: int, episodes: int) -> Outcomes:
    """Plays some episodes in one way and returns what came of them.

    Raises:
        ValueError: the chunks are too short for the delay.
    """
    every, length = player.policy.config.n_action_steps, player.policy.config.chunk_size
    if not 0 <= series.delay <= length - every:
        raise ValueError(f"delay: expected 0 to {length - every}, got {series.delay}")
    if series.rtc:
        player.policy.config.rtc_config = RTCConfig(enabled=True, execution_horizon=every)
        player.policy.init_rtc_processor()
    without = control(series.control, player, simulation) if series.control else {}
    outcomes = Outcomes()
    for episode in range(seed, seed + episodes):
        played = play(player, simulation, episode, delay=series.delay, rtc=series.rtc, **without)
        outcomes.solved.append(played.solved)
        outcomes.steps.append(len(played.actions))
        outcomes.jumps.append(played.jump())
        outcomes.chunks += -(-len(played.actions) // every)
    if series.rtc:
        player.policy.config.rtc_config = None
        player.policy.init_rtc_processor()
    return outcomes


def main() -> None:
    """Plays the episodes and writes their outcomes, a file for each series."""
    parser = argparse.ArgumentParser(prog="python -m training.closed_loop", description=__doc__)
    parser.add_argument("task")
    parser.add_argument("series", nargs="+", type=Series.parse, metavar="WHO[/without-INPUT][/delay-TICKS][/rtc]")
    parser.add_argument("--checkpoint", type=Path, default=LEARNED_CHECKPOINT)
    parser.add_argument("--board", default="emulated:n150")
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1000, help="of the first episode; lerobot-eval's by default")
    parser.add_argument("--output", type=Path, required=True, help="folder")
    options = parser.parse_args()
    torch.set_num_threads(1)
    simulation = Simulation(options.task)
    for who, all_series in groupby(options.series, key=lambda series: series.who):
        player = Player(who, options.checkpoint, board=options.board)
        for series in all_series:
            outcomes = play_series(series, player, simulation, seed=options.seed, episodes=options.episodes)
            print(f"{options.task} {series.name}: {sum(outcomes.solved)}/{options.episodes}", flush=True)
            output = series.path(options.output, options.task)
            partial = output.with_suffix(".partial")
            partial.write_text(json.dumps(asdict(outcomes)))
            os.replace(partial, output)
        player.close()


if __name__ == "__main__":
    main()
