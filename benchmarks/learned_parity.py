"""The TTNN twin against the float32 twin part by part, with learned weights and with random ones, on real observations.

    uv run python -m benchmarks.learned_parity                       # an emulated board; the table of docs/success.md
    uv run python -m benchmarks.learned_parity --board auto --observations 2 --precisions accurate balanced fast

The observations are those of an episode that the torch backend plays. Each part gets the float32 twin's own inputs.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
import ttnn
from torch import Tensor

from lerobot_pi0_ttnn.analysis.markdown import markdown_table
from lerobot_pi0_ttnn.analysis.parts import parts
from lerobot_pi0_ttnn.checkpoint.files import CheckpointSource
from lerobot_pi0_ttnn.checkpoint.loader import PI0WeightLoader
from lerobot_pi0_ttnn.config_loading import load_config
from lerobot_pi0_ttnn.demo import LEARNED_CHECKPOINT
from lerobot_pi0_ttnn.demo.checkpoint import random_tensor
from lerobot_pi0_ttnn.deviation import deviation
from lerobot_pi0_ttnn.device.board import open_board
from lerobot_pi0_ttnn.device.executor import PI0ModelTTNN
from lerobot_pi0_ttnn.model.config import PI0ModelConfig
from lerobot_pi0_ttnn.model.observation import Observation
from lerobot_pi0_ttnn.model.tensors import expected_shapes
from lerobot_pi0_ttnn.reference import PI0ModelTorch

TASK, SEED = "faucet-close-v3", 1000
ACTIONS = 4
"""Dimensions of MetaWorld's actions."""


@dataclass(frozen=True)
class Results:
    """What both twins computed of one part, over the observations."""

    got: list[Tensor] = field(default_factory=list)
    want: list[Tensor] = field(default_factory=list)

    def add(self, got: Tensor, want: Tensor) -> None:
        """Takes one observation's."""
        self.got.append(got.flatten().double())
        self.want.append(want.flatten().double())

    def __str__(self) -> str:
        """Returns the root mean square error relative to the float32 twin's spread, and Pearson's correlation."""
        measure = deviation(torch.cat(self.got), torch.cat(self.want))
        return f"{measure.rel_rmse:.4f} ({measure.pcc:.6f})"


def observations(count: int) -> list[Observation]:
    """Returns what the policy sees in the course of an episode that it plays itself, as the model takes it."""
    from training.closed_loop import Player, play
    from training.simulation import Simulation

    player, simulation = Player("torch"), Simulation(TASK)
    seen: list[Observation] = []

    def note(batch: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append(player.policy._read(batch))
        return batch

    play(player, simulation, SEED, change=note)
    simulation.close()
    return [seen[number] for number in torch.linspace(0, len(seen) - 1, min(count, len(seen))).round().int().tolist()]


def measure(
    config: PI0ModelConfig, weights: Mapping[str, Tensor], device: ttnn.Device, precision: str, seen: list[Observation]
) -> dict[str, Results]:
    """Returns the errors of each part of the TTNN twin in one precision."""
    twin, tt = PI0ModelTorch(config, weights), PI0ModelTTNN(config, weights, device, precision=precision)
    errors: dict[str, Results] = {}
    for number, observation in enumerate(seen):
        noise = torch.randn(1, config.horizon, config.action_dim, generator=torch.Generator().manual_seed(number))
        for part in parts(twin, tt, observation, noise, actions=ACTIONS):
            errors.setdefault(part.name, Results()).add(part.got, part.want)
    tt.release()
    return errors


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learned_parity", description=__doc__)
    parser.add_argument("--board", default="emulated:n150")
    parser.add_argument("--observations", type=int, default=8)
    parser.add_argument("--precisions", nargs="+", default=["accurate", "balanced"])
    parser.add_argument("--checkpoint", type=Path, default=LEARNED_CHECKPOINT)
    options = parser.parse_args()
    source = CheckpointSource(options.checkpoint)
    config = load_config(source).model_config()
    generator = torch.Generator().manual_seed(0)
    shapes = expected_shapes(config)
    random = {name: random_tensor(name, shape, generator, torch.float32) for name, shape in shapes.items()}
    seen = observations(options.observations)
    columns: dict[str, dict[str, Results]] = {}
    with open_board(options.board) as board, torch.no_grad():
        for precision in options.precisions:
            for kind, weights in (("learned", PI0WeightLoader(options.checkpoint)), ("random", random)):
                columns[f"{precision}, {kind}"] = measure(config, weights, board.device, precision, seen)
    rows = [[part, *(str(errors[part]) for errors in columns.values())] for part in next(iter(columns.values()))]
    print(markdown_table([f"{len(seen)} observations", *columns], rows, text=columns))


if __name__ == "__main__":
    main()
