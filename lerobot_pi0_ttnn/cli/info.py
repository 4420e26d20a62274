"""`lerobot-pi0-ttnn info CKPT`: what a checkpoint holds, and whether this package can run it.

Reads headers only, so a checkpoint of 14 GB takes no longer than a small one. Exit status 1 where it cannot run.
"""

import argparse
import json
import math
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from ..checkpoint import PI0WeightLoader
from ..checkpoint.files import CheckpointSource
from ..checkpoint.processors import read_processors, tokenizer_problem
from ..weights import check_shapes
from .hub import add_checkpoint_options, checkpoint_source


@dataclass
class CheckpointInfo:
    """What a checkpoint holds."""

    checkpoint: str
    files: list[str]
    layout: str
    dtypes: dict[str, int]
    """Tensors by dtype, as safetensors spells it."""
    parameters: int
    """Numbers in the tensors that the model needs."""
    ignored: dict[str, str]
    """Tensors that are not needed, and why."""
    policy_type: str
    architecture: str
    cameras: list[str]
    state_dim: int | None
    action_dim: int | None
    chunk_size: int
    n_action_steps: int
    num_inference_steps: int
    stats: dict[str, list[str]]
    tokenizer: str | None
    problems: list[str] = field(default_factory=list)
    """Why it cannot run."""
    warnings: list[str] = field(default_factory=list)
    """What will go wrong later, or differently than its user may think."""


def register(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser("info", help="what a checkpoint holds", description=__doc__)
    add_checkpoint_options(parser, "checkpoint")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints what the checkpoint holds."""
    info = inspect_checkpoint(checkpoint_source(options, "checkpoint"))
    print(json.dumps(asdict(info), indent=2) if options.json else as_text(info))
    return 1 if info.problems else 0


def inspect_checkpoint(source: CheckpointSource) -> CheckpointInfo:
    """Returns what a checkpoint holds.

    Raises:
        FileNotFoundError, PermissionError, ConnectionError, ValueError: it has no readable weights or no pi0 config.
    """
    from ..configuration_pi0_ttnn import load_config
    from ..processor_pi0_ttnn import missing_stats, missing_stats_message

    loader = PI0WeightLoader(**vars(source))
    config = load_config(source)
    processors = read_processors(source)
    state, action = config.robot_state_feature, config.action_feature
    info = CheckpointInfo(
        checkpoint=str(source),
        files=[path.name for path in loader.files],
        layout=", ".join(loader.layout.traits),
        dtypes=dict(Counter(loader.dtypes().values())),
        parameters=sum(math.prod(shape) for shape in loader.shapes().values()),
        ignored=loader.layout.ignored,
        policy_type=config.type,
        architecture=config.architecture,
        cameras=list(config.image_features),
        state_dim=state.shape[0] if state else None,
        action_dim=action.shape[0] if action else None,
        chunk_size=config.chunk_size,
        n_action_steps=config.n_action_steps,
        num_inference_steps=config.num_inference_steps,
        stats=processors.stats if processors else {},
        tokenizer=processors.tokenizer_name if processors else None,
    )
    try:
        check_shapes(config.model_config(), loader.shapes(), where=str(source))
    except ValueError as error:
        info.problems.append(str(error))
    if processors is None:
        info.warnings.append(
            "there are no saved processors, which lerobot-eval needs; `lerobot-pi0-ttnn convert` makes them."
        )
    elif missing := missing_stats(config, processors.stats):
        info.warnings.append(missing_stats_message(missing))
    tokenizer = info.tokenizer or config.tokenizer_name
    if problem := tokenizer_problem(tokenizer):
        info.warnings.append(f"the tokenizer cannot be had: {problem}")
    return info


def as_text(info: CheckpointInfo) -> str:
    """Returns the information as lines for a person."""
    stats = "; ".join(f"{feature}: {', '.join(sorted(names))}" for feature, names in info.stats.items())
    rows = {
        "checkpoint": info.checkpoint,
        "policy type": f"{info.policy_type} ({info.architecture})",
        "files": ", ".join(info.files),
        "layout": info.layout,
        "dtypes": ", ".join(f"{count} x {dtype}" for dtype, count in info.dtypes.items()),
        "parameters": f"{info.parameters:,} needed, {len(info.ignored)} tensors ignored",
        "cameras": ", ".join(info.cameras) or "none in its config",
        "state, action": f"{info.state_dim} and {info.action_dim} values",
        "chunk": f"{info.chunk_size} actions, {info.n_action_steps} of them executed; {info.num_inference_steps} Euler steps",
        "statistics": stats or "none",
        "tokenizer": info.tokenizer or "none saved",
    }
    lines = [f"{name:<14} {value}" for name, value in rows.items()]
    lines += [f"warning: {warning}" for warning in info.warnings]
    lines += [f"cannot run: {problem}" for problem in info.problems]
    return "\n".join(lines)
