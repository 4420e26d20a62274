"""LeRobot's PI0Policy, eager and compiled, against this package's torch backend on this CPU: full width, few layers.

    uv run python -m benchmarks.lerobot_compiled --cameras 2     # 3 layers of each kind; a few minutes, most of them compiling

Three layers take up to two minutes to compile, and `torch.compile` unrolls ten steps of all of them. The three candidates
have the same random weights in bfloat16 and are asked in turn. Prints a Markdown table.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from lerobot_pi0_ttnn.analysis.markdown import markdown_table
from lerobot_pi0_ttnn.reference import PI0ModelTorch
from tests.oracle import CAMERAS, make_batch, make_lerobot_policy, make_noise, model_inputs, state_dict

from .scaling_cpu import shallow


def timed(ask: Callable[[], Tensor]) -> float:
    """Returns the seconds that a chunk takes."""
    start = time.perf_counter()
    with torch.inference_mode():
        ask()
    return time.perf_counter() - start


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--cameras", type=int, default=2, choices=(1, 2, 3))
    parser.add_argument("--mode", default="max-autotune", help="LeRobot's compile_mode (default: its own default)")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    config = replace(shallow(options.layers), vocab_size=512)
    cameras = CAMERAS[: options.cameras]
    batch, noise = make_batch(1, cameras=cameras, lengths=[12], vocab=config.vocab_size, size=(480, 640)), make_noise(1)

    eager, compiled = (
        make_lerobot_policy(model=config, dtype="bfloat16", cameras=cameras, num_inference_steps=10, **how)
        for how in ({}, {"compile_model": True, "compile_mode": options.mode})
    )
    compiled.load_state_dict(eager.state_dict())
    ours, inputs = PI0ModelTorch(config, state_dict(eager), dtype=torch.bfloat16), model_inputs(eager, batch)
    candidates: dict[str, Callable[[], Tensor]] = {
        "LeRobot, eager": lambda: eager.predict_action_chunk(batch, noise=noise),
        f"LeRobot, compiled ({options.mode})": lambda: compiled.predict_action_chunk(batch, noise=noise),
        "ours": lambda: ours.sample_actions(**inputs, noise=noise, num_steps=10),
    }
    first = {name: timed(ask) for name, ask in candidates.items()}
    rounds = [{name: timed(ask) for name, ask in candidates.items()} for _ in range(options.rounds)]
    base = "LeRobot, eager"
    rows = []
    for name in candidates:
        ratio = statistics.median(turn[base] / turn[name] for turn in rounds)
        rows.append(
            [name, f"{first[name]:.1f}", f"{statistics.median(turn[name] for turn in rounds):.2f}", f"{ratio:.2f}"]
        )
    print(markdown_table(["", "first chunk, s", "later ones, s", "eager's time / its"], rows))


if __name__ == "__main__":
    main()
