"""What a tick costs the host before anything can be sent, on one core, beside what LeRobot's PI0Policy does with the batch.

    uv run python -m benchmarks.input_path             # a minute

Two cameras of 480x640, a prompt of 12 tokens, sizes of pi0_base. Medians of the process's time, which does not go on while
others have the core; all is timed in turn, so that a change in the machine's speed meets all of it. Prints a Markdown table,
and as its last line JSON.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
import ttnn
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies.pi0.configuration_pi0 import PI0Config
from lerobot.policies.pi0.modeling_pi0 import PI0Policy

from lerobot_pi0_ttnn.analysis.markdown import markdown_table
from lerobot_pi0_ttnn.device.board import open_board
from lerobot_pi0_ttnn.device.executor import present_images, real_prompts
from lerobot_pi0_ttnn.device.uploads import InputMaker, make_prompt
from lerobot_pi0_ttnn.model.config import PI0_BASE, PI05_BASE
from lerobot_pi0_ttnn.observation import ObservationReader
from lerobot_pi0_ttnn.tt.precision import preset
from lerobot_pi0_ttnn.tt.siglip import patch_rows
from lerobot_pi0_ttnn.tt.weights import on_host

from .lerobot_cpu import CAMERAS, make_batch

PRESENT = 2
LEROBOT, OURS = "LeRobot: images and state", "ours: all of a tick, ready to be sent"


def timed() -> dict[str, Callable[[], Any]]:
    """Returns what is timed, by name: the two candidates, parts of ours, and what is not done at each tick or not at all."""
    precision, vision = preset("balanced", ttnn.device.Arch.WORMHOLE_B0), PI0_BASE.vision
    batch = make_batch(PRESENT)
    keys = [f"observation.images.{camera}" for camera in CAMERAS[:PRESENT]]
    read = ObservationReader(keys, vision.image_size, PI0_BASE.state_dim, PI0_BASE.vocab_size)
    make_inputs = InputMaker(PI0_BASE, precision)
    noise = torch.randn(1, PI0_BASE.horizon, PI0_BASE.action_dim)
    seen = read(batch)
    images, prompt = present_images(seen), real_prompts(seen)
    rows, with_state = patch_rows(images, vision), [torch.arange(78)]

    # Of the policy no more than these two methods look at: it would have 3 billion random numbers.
    cameras = {key: PolicyFeature(FeatureType.VISUAL, (3, 480, 640)) for key in keys}
    config, device = PI0Config(device="cpu", input_features=cameras), torch.zeros(1)
    policy: Any = SimpleNamespace(config=config, parameters=lambda: iter([device]))

    def theirs() -> None:
        PI0Policy._preprocess_images(policy, batch)
        PI0Policy.prepare_state(policy, batch)

    def ours() -> None:
        new = read(batch)
        tuple(real_prompts(new)[0].tolist())  # by which the prompt is known again
        make_inputs(present_images(new), prompt, new.state, noise)

    return {
        LEROBOT: theirs,
        OURS: ours,
        "batch checked, images resized and normalised": lambda: read(batch),
        "of which torch's interpolation": lambda: [
            F.interpolate(batch[key], size=(168, 224), mode="bilinear", align_corners=False) for key in keys
        ],
        "pixels rounded, in the order of the patches": lambda: patch_rows(images, vision),
        "pixels handed to ttnn": lambda: on_host(rows, ttnn.bfloat16, layout=ttnn.ROW_MAJOR_LAYOUT),
        "state and noise handed to ttnn": lambda: make_inputs([], prompt, seen.state, noise),
        "not done: pixels put in tiles": lambda: on_host(rows, ttnn.bfloat16),
        "only for a new prompt: tokens, padding, tables": lambda: make_prompt(PRESENT, prompt, PI0_BASE, precision),
        "pi0.5, besides at each tick: a prompt of 78": lambda: make_prompt(PRESENT, with_state, PI05_BASE, precision),
    }


def measure(rounds: int) -> dict[str, float]:
    """Returns the median milliseconds of one core, by name."""
    torch.set_num_threads(1)
    functions = timed()
    milliseconds: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds):
        # Who comes second finds the images in the core's caches: each is, half of the time.
        for name, function in sorted(functions.items(), reverse=number % 2 == 1):
            start = time.process_time()
            function()
            milliseconds[name].append(1e3 * (time.process_time() - start))
    return {name: statistics.median(values) for name, values in milliseconds.items()}


def as_markdown(medians: dict[str, float]) -> str:
    """Returns the table for docs/input.md."""
    rows = [[name, f"{value:.3f}", f"{value / medians[LEROBOT]:.2f}"] for name, value in medians.items()]
    return markdown_table(["", "ms", "of LeRobot's"], rows)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--board", default="emulated:p150", help="for whose layouts (default: %(default)s)")
    options = parser.parse_args()
    # ttnn lays out nothing before it knows a board; what is timed stays on the host.
    with open_board(options.board), torch.no_grad():
        medians = measure(options.rounds)
    print(as_markdown(medians))
    print(json.dumps(medians))


if __name__ == "__main__":
    main()
