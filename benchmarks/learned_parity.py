"""The TTNN twin against the float32 twin part by part, with learned weights and with random ones, on real observations.

    uv run python -m benchmarks.learned_parity                       # an emulated board; the table of docs/success.md
    uv run python -m benchmarks.learned_parity --board auto --observations 2 --precisions accurate balanced fast

The observations are those of an episode that the torch backend plays. Each part gets the float32 twin's own inputs.
"""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
import ttnn
from torch import Tensor

from lerobot_pi0_ttnn.analysis.markdown import markdown_table
from lerobot_pi0_ttnn.checkpoint.files import CheckpointSource
from lerobot_pi0_ttnn.checkpoint.loader import PI0WeightLoader
from lerobot_pi0_ttnn.config_loading import load_config
from lerobot_pi0_ttnn.demo import LEARNED_CHECKPOINT
from lerobot_pi0_ttnn.demo.checkpoint import random_tensor
from lerobot_pi0_ttnn.device.board import open_board
from lerobot_pi0_ttnn.device.executor import PI0ModelTTNN
from lerobot_pi0_ttnn.model.config import PI0ModelConfig
from lerobot_pi0_ttnn.model.flow import schedule
from lerobot_pi0_ttnn.model.observation import Observation
from lerobot_pi0_ttnn.model.tensors import expected_shapes
from lerobot_pi0_ttnn.reference import PI0ModelTorch
from lerobot_pi0_ttnn.reference.paligemma import make_context
from tests.parity.tt import down, store, tokens_of, up, upload_row

TASK, SEED = "faucet-close-v3", 1000


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
        got, want = torch.cat(self.got), torch.cat(self.want)
        relative = (got - want).square().mean().sqrt() / want.std(correction=0)
        correlation = torch.corrcoef(torch.stack([got, want]))[0, 1]
        return f"{relative:.4f} ({correlation:.6f})"


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
        for part, got, want in parts(twin, tt, observation, noise):
            errors.setdefault(part, Results()).add(got, want)
    tt.release()
    return errors


def parts(
    twin: PI0ModelTorch, tt: PI0ModelTTNN, observation: Observation, noise: Tensor
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yields (part, what the TTNN twin computes, what the float32 twin computes)."""
    fields = {
        name: getattr(observation, name) for name in ("images", "img_masks", "lang_tokens", "lang_masks", "state")
    }
    row = upload_row(tt, fields, 0, noise)
    context = make_context(observation, twin.config)
    embeddings = twin.embed_prefix(observation, context)
    length = embeddings.shape[1]
    images = sum(int(mask[0]) for mask in observation.img_masks) * twin.config.vision.num_patches
    got = down(tt.backbone.embed_prefix(row.inputs, row.context), length)
    yield "vision and projector", got[:images], embeddings[0, :images]
    yield "language", got[images:], embeddings[0, images:]
    prefix = twin.prefill(embeddings, observation, context)
    stream = up(tt, embeddings[0], tt.precision.vlm.stream)
    caches = tt.backbone.prefill(stream, row.context).caches
    for layer, (ours, theirs) in enumerate(zip(caches, prefix.caches, strict=True)):
        for name in ("keys", "values"):
            yield (
                f"{name}, layer {layer}",
                tokens_of(getattr(ours, name), 0, length),
                getattr(theirs, name)[0, 0, :length],
            )
    times = schedule(twin.config.num_steps)
    steps, tt_steps = twin.steps(times), tt.chips[0].steps(times)
    graph = tt.chips[0].graph
    tt_prefix = graph.prefill(stream, row.inputs, row.context)
    for cache, source in zip(
        tt_prefix.caches, prefix.caches, strict=True
    ):  # parts after it answer for their own errors
        keys, values = (up(tt, x[0, 0, :length], ttnn.bfloat16) for x in (source.keys, source.values))
        store(cache, keys, values, 0)
    x_t = noise
    for number, (step, tt_step) in enumerate(zip(steps, tt_steps, strict=True)):
        want = twin.velocity(x_t, step, prefix)
        if number in (0, len(times) // 2, len(times) - 1):
            got = down(graph.velocity(up(tt, x_t[0]), tt_step, tt_prefix), twin.config.horizon)
            yield f"velocity at t = {times[number]:.1f}", got[:, : twin.config.action_dim], want[0]
        x_t = x_t - want / len(times)
    chunk = twin.sample_actions(observation, noise=noise)
    yield "whole chunk", tt.sample_actions(observation, noise=noise)[..., :4], chunk[..., :4]


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
