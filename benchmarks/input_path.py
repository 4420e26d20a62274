"""What a tick costs the host before anything can be sent, on one core, beside what LeRobot's PI0Policy does with the batch.

    uv run python -m benchmarks.input_path             # a minute

Two cameras of 480x640, a prompt of 12 tokens, sizes of pi0_base. The process's time, which does not go on while others have the
core. Each round times everything once, in a random order, and a ratio is the median of the ratios within a round: a change in
the machine's speed meets both. Prints a Markdown table, and as its last line JSON.
"""

import argparse
import json
import random
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
from lerobot.policies.utils import prepare_observation_for_inference

from lerobot_pi0_ttnn.analysis.markdown import markdown_table
from lerobot_pi0_ttnn.device.board import open_board
from lerobot_pi0_ttnn.device.executor import present_images, real_prompts
from lerobot_pi0_ttnn.device.uploads import InputMaker, make_prompt
from lerobot_pi0_ttnn.frames import Resizer
from lerobot_pi0_ttnn.model.config import PI0_BASE, PI05_BASE
from lerobot_pi0_ttnn.observation import ObservationReader
from lerobot_pi0_ttnn.tt.precision import preset
from lerobot_pi0_ttnn.tt.siglip import patch_rows
from lerobot_pi0_ttnn.tt.weights import on_host

from .lerobot_cpu import CAMERAS, make_batch

PRESENT = 2
LEROBOT, OURS = "LeRobot: images and state", "ours: all of a tick, ready to be sent"
LEROBOT_FRAMES, OURS_FRAMES = "LeRobot: the same, from uint8 frames", "ours: the same, from uint8 frames"
BASELINE = {OURS_FRAMES: LEROBOT_FRAMES}
"""What a row is compared with, if not `LEROBOT`."""


def timed() -> dict[str, Callable[[], Any]]:
    """Returns what is timed, by name: the candidates, parts of ours, and what is not done at each tick or not at all."""
    precision, vision = preset("balanced", ttnn.device.Arch.WORMHOLE_B0), PI0_BASE.vision
    batch = make_batch(PRESENT)
    keys = [f"observation.images.{camera}" for camera in CAMERAS[:PRESENT]]
    frames = {key: (batch[key][0] * 255).to(torch.uint8).movedim(0, -1).contiguous() for key in keys}
    read = ObservationReader(keys, vision.image_size, PI0_BASE.state_dim, PI0_BASE.vocab_size)
    make_inputs = InputMaker(PI0_BASE, precision)
    noise = torch.randn(1, PI0_BASE.horizon, PI0_BASE.action_dim)
    seen = read(batch)
    images, prompt = present_images(seen), real_prompts(seen)
    rows, with_state = patch_rows(images, vision), [torch.arange(78)]
    resize = Resizer(vision.image_size)
    by_pixel = [batch[key].contiguous(memory_format=torch.channels_last) for key in keys]

    # Of the policy no more than these two methods look at: it would have 3 billion random numbers.
    cameras = {key: PolicyFeature(FeatureType.VISUAL, (3, 480, 640)) for key in keys}
    config, device = PI0Config(device="cpu", input_features=cameras), torch.zeros(1)
    policy: Any = SimpleNamespace(config=config, parameters=lambda: iter([device]))

    def theirs(batch: dict[str, Any]) -> None:
        PI0Policy._preprocess_images(policy, batch)
        PI0Policy.prepare_state(policy, batch)

    def theirs_of_frames() -> None:
        prepared = prepare_observation_for_inference({key: x.numpy() for key, x in frames.items()}, device.device)
        theirs(batch | {key: prepared[key] for key in keys})

    def ours(batch: dict[str, Any]) -> None:
        new = read(batch)
        tuple(real_prompts(new)[0].tolist())  # by which the prompt is known again
        make_inputs(present_images(new), prompt, new.state, noise)

    def interpolated(images: list[torch.Tensor]) -> None:
        for image in images:
            F.interpolate(image, size=(168, 224), mode="bilinear", align_corners=False)

    return {
        LEROBOT: lambda: theirs(batch),
        OURS: lambda: ours(batch),
        "batch checked, images resized and normalised": lambda: read(batch),
        "of which OpenCV's merge of planes": lambda: [resize.channels_last(batch[key]) for key in keys],
        "of which torch's interpolation": lambda: interpolated(by_pixel),
        "pixels rounded, in the order of the patches": lambda: patch_rows(images, vision),
        "pixels handed to ttnn": lambda: on_host(rows, ttnn.bfloat16, layout=ttnn.ROW_MAJOR_LAYOUT),
        "state and noise handed to ttnn": lambda: make_inputs([], prompt, seen.state, noise),
        LEROBOT_FRAMES: theirs_of_frames,
        OURS_FRAMES: lambda: ours(batch | {key: x[None] for key, x in frames.items()}),
        "not done: torch's interpolation of planes": lambda: interpolated([batch[key] for key in keys]),
        "not done: pixels put in tiles": lambda: on_host(rows, ttnn.bfloat16),
        "only for a new prompt: tokens, padding, tables": lambda: make_prompt(PRESENT, prompt, PI0_BASE, precision),
        "pi0.5, besides at each tick: a prompt of 78": lambda: make_prompt(PRESENT, with_state, PI05_BASE, precision),
    }


def measure(rounds: int) -> dict[str, list[float]]:
    """Returns the milliseconds of one core in each round, by name."""
    torch.set_num_threads(1)
    functions = timed()
    order, shuffle = list(functions), random.Random(0).shuffle
    milliseconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        # Who comes after another finds the images in the core's caches.
        shuffle(order)
        for name in order:
            start = time.process_time()
            functions[name]()
            milliseconds[name].append(1e3 * (time.process_time() - start))
    return milliseconds


def as_markdown(milliseconds: dict[str, list[float]]) -> str:
    """Returns the table for docs/input.md."""
    rows = []
    for name, values in milliseconds.items():
        theirs = milliseconds[BASELINE.get(name, LEROBOT)]
        ratio = statistics.median(own / other for own, other in zip(values, theirs, strict=True))
        least = min(values) / min(theirs)
        rows.append([name, f"{min(values):.3f}", f"{statistics.median(values):.3f}", f"{least:.2f}", f"{ratio:.2f}"])
    return markdown_table(["", "ms, least", "median", "of LeRobot's least", "ratio, median"], rows)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--board", default="emulated:p150", help="for whose layouts (default: %(default)s)")
    options = parser.parse_args()
    # ttnn lays out nothing before it knows a board; what is timed stays on the host.
    with open_board(options.board), torch.no_grad():
        milliseconds = measure(options.rounds)
    print(as_markdown(milliseconds))
    print(json.dumps({name: statistics.median(values) for name, values in milliseconds.items()}))


if __name__ == "__main__":
    main()
