"""How each stage of the torch backend grows on this CPU with cameras, prompt, steps and batch: full size, bfloat16.

    uv run python -m benchmarks.scaling_cpu --plot docs/scaling_cpu.png   # 8 minutes, 9 GB of memory
    uv run python -m benchmarks.scaling_cpu --layers 1 --rounds 1         # a try

Every chunk is timed right after one at the base point, and only the ratio of the two counts: a change in the machine's speed
that lasts longer meets both. The weights are random, and no checkpoint is needed. Prints a Markdown table, and as its last
line JSON.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lerobot_pi0_ttnn.demo.checkpoint import random_tensor
from lerobot_pi0_ttnn.latency import Stopwatch
from lerobot_pi0_ttnn.model.config import PI0_BASE, PI0ModelConfig
from lerobot_pi0_ttnn.model.tensors import expected_shapes
from lerobot_pi0_ttnn.reference.model import PI0ModelTorch

from .growth import BASE, POINTS, Costs, draw, growth_table

SEED = 0

Seconds = dict[str, float]
"""Of one chunk, by stage."""


def shallow(layers: int) -> PI0ModelConfig:
    """Returns pi0_base's sizes with so many layers in each of its transformers."""
    return replace(
        PI0_BASE,
        vision=replace(PI0_BASE.vision, num_hidden_layers=layers),
        vlm=replace(PI0_BASE.vlm, depth=layers),
        expert=replace(PI0_BASE.expert, depth=layers),
    )


def random_model(config: PI0ModelConfig) -> PI0ModelTorch:
    """Returns a bfloat16 model of these sizes."""
    generator = torch.Generator().manual_seed(SEED)
    weights = {
        name: random_tensor(name, shape, generator, torch.bfloat16) for name, shape in expected_shapes(config).items()
    }
    return PI0ModelTorch(config, weights, dtype=torch.bfloat16)


def time_chunk(model: PI0ModelTorch, point: Mapping[str, int]) -> Seconds:
    """Returns how long the stages of one chunk take; `point` has the keys of `BASE`. Nothing in it is padding."""
    config, batch = model.config, point["batch"]
    generator = torch.Generator().manual_seed(SEED)
    size = config.vision.image_size
    images = [torch.rand(batch, 3, size, size, generator=generator) * 2 - 1 for _ in range(point["cameras"])]
    tokens = torch.randint(config.vocab_size, (batch, point["tokens"]), generator=generator)
    state = torch.randn(batch, config.state_dim, generator=generator)
    stopwatch = Stopwatch()
    model.sample_actions(
        images,
        [torch.ones(batch, dtype=torch.bool) for _ in images],
        tokens,
        torch.ones_like(tokens, dtype=torch.bool),
        state,
        num_steps=point["steps"],
        generator=generator,
        stage=stopwatch.stage,
    )
    once = {name: summary.max for name, summary in stopwatch.summaries().items()}
    stages = {name: seconds for name, seconds in once.items() if not name.startswith("step ")}
    return stages | {"denoising": sum(seconds for name, seconds in once.items() if name.startswith("step "))}


def measure(chunk: Callable[[Mapping[str, int]], Seconds], rounds: int) -> Costs:
    """Returns the seconds of each stage: the median at `BASE`, times the median ratio to the base chunk just before.

    Args:
        chunk: times one chunk.
        rounds: how often each point is timed.
    """
    moved = {key: point for key, point in POINTS.items() if point != BASE}
    chunk(BASE)  # the first one reads weights that no cache holds
    pairs = {key: [(chunk(BASE), chunk(point)) for _ in range(rounds)] for key, point in moved.items()}
    bases = [base for found in pairs.values() for base, _ in found]
    costs: dict[tuple[str, int], Seconds] = {}
    for key in POINTS:
        costs[key] = {stage: statistics.median(base[stage] for base in bases) for stage in bases[0]}
        for stage in costs[key] if key in pairs else ():
            costs[key][stage] *= statistics.median(then[stage] / base[stage] for base, then in pairs[key])
    return costs


def as_json(costs: Costs, **what: Any) -> str:
    """Returns one line: `what` was measured, and the seconds of each stage, by `cameras 1` and so on."""
    return json.dumps(what | {"seconds": {f"{name} {value}": dict(stages) for (name, value), stages in costs.items()}})


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="timed chunks at each point; the median counts")
    parser.add_argument("--layers", type=int, help="of each transformer; by default all of pi0_base's")
    parser.add_argument("--plot", type=Path, help="the picture's file")
    options = parser.parse_args()
    config = shallow(options.layers) if options.layers else PI0_BASE
    model = random_model(config)
    costs = measure(lambda point: time_chunk(model, point), options.rounds)
    threads = torch.get_num_threads()
    if options.plot:
        layers = f"{options.layers} layers" if options.layers else "pi0_base"
        draw(costs, "seconds", f"{layers}, torch backend in bfloat16, {threads} threads: measured", options.plot)
    print(growth_table(costs, "measured, s", 2))
    print(as_json(costs, threads=threads, rounds=options.rounds, layers=options.layers))


if __name__ == "__main__":
    main()
