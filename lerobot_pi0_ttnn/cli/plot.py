"""`lerobot-pi0-ttnn plot RECORDING`: the predicted action chunks against the executed actions."""

import argparse
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.files import CheckpointSource
from ..checkpoint.processors import ABSOLUTE, POSTPROCESSOR, read_processors
from ..recording import Recording, read_recording

SHOWN_DIMS = 8


def register(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser("plot", help="plot a recorded run", description=__doc__)
    parser.add_argument("recording", type=Path, help="what --policy.recording_path wrote")
    parser.add_argument("-o", "--output", type=Path, help="the picture (default: beside the recording, .png)")
    parser.add_argument("--checkpoint", help="un-normalise the actions with this checkpoint's postprocessor")
    parser.add_argument("--episode", type=int, default=0, help="which episode (default: 0)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Draws the plot and prints where it is."""
    output = options.output or options.recording.with_suffix(".png")
    recording, unit = read_recording(options.recording), "normalised"
    if options.checkpoint:
        recording, unit = unnormalised(recording, options.checkpoint)
    draw(recording, output, episode=options.episode, unit=unit)
    print(output)
    return 0


def unnormalised(recording: Recording, checkpoint: str) -> tuple[Recording, str]:
    """Returns the recording through the checkpoint's own postprocessor, and its units.

    Relative actions stay so: the recording does not hold the state that would make them absolute.
    """
    from lerobot.processor import PolicyProcessorPipeline
    from lerobot.processor.converters import policy_action_to_transition, transition_to_policy_action

    saved = read_processors(CheckpointSource(checkpoint)).postprocessor
    if saved is None:
        raise FileNotFoundError(
            f"{checkpoint}: has no {POSTPROCESSOR}; leave --checkpoint out to plot normalised actions."
        )
    postprocess = PolicyProcessorPipeline.from_pretrained(
        checkpoint,
        config_filename=POSTPROCESSOR,
        overrides={ABSOLUTE: {"enabled": False}} if ABSOLUTE in saved.steps else {},
        to_transition=policy_action_to_transition,
        to_output=transition_to_policy_action,
    )

    def convert(entries: list[tuple[int, int, torch.Tensor]]) -> list[tuple[int, int, torch.Tensor]]:
        return [(episode, tick, postprocess(value)) for episode, tick, value in entries]

    is_relative = saved.steps.get(ABSOLUTE, {}).get("enabled", False)
    unit = "environment units, relative to the state of each chunk" if is_relative else "environment units"
    return Recording(convert(recording.chunks), convert(recording.actions)), unit


def draw(recording: Recording, output: Path, *, episode: int, unit: str) -> None:
    """Writes the picture: a panel for each action dimension, the executed actions, and each chunk from its tick on.

    Args:
        recording: the run.
        output: the picture's file; its suffix is its format.
        episode: which episode of the run.
        unit: of the actions.

    Raises:
        ValueError: the recording has no such episode.
    """
    from matplotlib.figure import Figure

    chunks = [(tick, value[0]) for number, tick, value in recording.chunks if number == episode]
    actions = {tick: value[0] for number, tick, value in recording.actions if number == episode}
    if not chunks or not actions:
        episodes = sorted({number for number, _, _ in recording.actions})
        raise ValueError(f"episode {episode} is not in the recording, which has {episodes or 'none'}.")
    dims = min(SHOWN_DIMS, chunks[0][1].shape[1])
    figure = Figure(figsize=(10, 1 + 2 * dims), layout="constrained")
    panels = figure.subplots(dims, 1, sharex=True, squeeze=False)[:, 0]
    ticks = sorted(actions)
    for dim, panel in enumerate(panels):
        for number, (tick, chunk) in enumerate(chunks):
            label = "predicted chunks" if number == 0 else None
            panel.plot(range(tick, tick + len(chunk)), chunk[:, dim], color="tab:orange", alpha=0.4, lw=1, label=label)
        panel.plot(
            ticks, [float(actions[tick][dim]) for tick in ticks], color="tab:blue", lw=2, label="executed actions"
        )
        panel.set_xlim(0, max(ticks) + len(chunks[0][1]))
        panel.set_ylabel(f"action[{dim}]")
    panels[0].legend(loc="upper right")
    panels[0].set_title(f"{len(chunks)} chunks of {len(chunks[0][1])}, {len(ticks)} executed actions ({unit})")
    panels[-1].set_xlabel("tick")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=100)
