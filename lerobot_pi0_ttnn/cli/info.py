"""`lerobot-pi0-ttnn info CKPT`: what a checkpoint holds, of which model it is, and whether this package can run it.

Reads headers only, so a checkpoint of 14 GB takes no longer than a small one. With --board emulated:NAME, also what its model
asks of that board, and whether it fits. Exit status 1 where it cannot run.
"""

import argparse
import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..checkpoint import CheckpointWeights, MergedWeights, open_weights
from ..checkpoint.files import CheckpointSource
from ..checkpoint.processors import SavedProcessors, read_processors
from ..config_loading import load_config, saved_type
from ..configuration_pi0_ttnn import PRECISIONS, PI0TTNNConfig
from ..joints import names_of_actions
from ..review import review, settle_features
from .hub import add_checkpoint_options, checkpoint_source
from .verify.report import certificate_lines


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
    rename_map: dict[str, str]
    """The robot's or the environment's name of an observation -> the checkpoint's, as the preprocessor has it."""
    state_dim: int | None
    action_dim: int | None
    joints: list[str] | None
    """Names of the actions in training, in order; None where the checkpoint does not say."""
    chunk_size: int
    n_action_steps: int
    num_inference_steps: int
    stats: dict[str, list[str]]
    tokenizer: str | None
    adapter: dict[str, Any] | None = None
    """What `adapter_info` returns, for an adapter."""
    problems: list[str] = field(default_factory=list)
    """Why it cannot run."""
    warnings: list[str] = field(default_factory=list)
    """What will go wrong later, or differently than its user may think."""
    notes: list[str] = field(default_factory=list)
    """What one should know of it."""
    board: dict[str, Any] | None = None
    """What its model asks of the board, see `analysis/report.py`."""


def register(subparsers: Any) -> None:
    """Adds the subcommand."""
    parser = subparsers.add_parser("info", help="what a checkpoint holds", description=__doc__)
    add_checkpoint_options(parser, "checkpoint")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--board", help="walk its model on an emulated board: emulated:n150, emulated:p150, ...")
    parser.add_argument("--precision", choices=PRECISIONS, default="balanced", help="for --board (default: balanced)")
    parser.add_argument(
        "--certificate",
        type=Path,
        metavar="FILE",
        help="also show the verify.json of `verify --report`, if it is whole",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints what the checkpoint holds."""
    source = checkpoint_source(options, "checkpoint")
    config = load_config(source, [f"--base_model={options.base_model}"] if options.base_model else [])
    loader = open_weights(source, config.base_model)
    info = inspect_checkpoint(source, config, loader)
    if options.board and not info.problems:
        walk_board(info, config, loader, options.board, options.precision)
    shown = certificate_lines(options.certificate, loader.fingerprint()) if options.certificate else []
    print(json.dumps(asdict(info), indent=2) if options.json else "\n".join([as_text(info), *shown]))
    return 1 if info.problems else 0


def inspect_checkpoint(source: CheckpointSource, config: PI0TTNNConfig, loader: CheckpointWeights) -> CheckpointInfo:
    """Returns what a checkpoint holds.

    Args:
        source: where the checkpoint is.
        config: its config.
        loader: its weights.

    Raises:
        FileNotFoundError, PermissionError: it cannot be loaded.
    """
    try:
        processors = read_processors(source)
    except (ValueError, ConnectionError):  # which the review says
        processors = SavedProcessors(None, None)
    problems = review(config, source)
    settle_features(config, source)
    state, action = config.robot_state_feature, config.action_feature
    info = CheckpointInfo(
        checkpoint=str(source),
        files=[path.name for path in loader.files],
        layout=", ".join(loader.layout.traits),
        dtypes=dict(Counter(loader.dtypes().values())),
        parameters=sum(math.prod(shape) for shape in loader.shapes().values()),
        ignored=loader.layout.ignored,
        policy_type=saved_type(source),
        architecture=config.architecture,
        cameras=list(config.image_features),
        rename_map=processors.rename_map,
        state_dim=state.shape[0] if state else None,
        action_dim=action.shape[0] if action else None,
        joints=names_of_actions(config.action_feature_names, action.shape[0] if action else 0),
        chunk_size=config.chunk_size,
        n_action_steps=config.n_action_steps,
        num_inference_steps=config.num_inference_steps,
        stats=stats_names(processors),
        tokenizer=processors.tokenizer_name,
        adapter=adapter_info(loader),
    )
    for problem in problems:
        {"error": info.problems, "warning": info.warnings, "note": info.notes}[problem.severity].append(str(problem))
    return info


def stats_names(processors: SavedProcessors) -> dict[str, list[str]]:
    """Returns the names of the statistics that a checkpoint's processors hold, by feature."""
    pipelines = (processors.preprocessor, processors.postprocessor)
    return {feature: list(stats) for pipeline in pipelines if pipeline for feature, stats in pipeline.stats.items()}


def adapter_info(weights: CheckpointWeights) -> dict[str, Any] | None:
    """Returns what an adapter is and what it changes; None for a whole model. Layers are counted, their numbers left out."""
    if not isinstance(weights, MergedWeights):
        return None
    lora, changes = weights.lora, weights.changes
    return {
        "base": str(weights.base),
        "rank": lora.r,
        "alpha": lora.lora_alpha,
        "rank_pattern": dict(lora.rank_pattern),
        "alpha_pattern": dict(lora.alpha_pattern),
        "rslora": lora.use_rslora,
        "targets": _without_numbers(name.removesuffix(".weight") for name in changes.added),
        "replaced": _without_numbers(changes.replaced),
    }


def _without_numbers(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(re.sub(r"\.\d+\.", ".*.", name) for name in names))


def walk_board(
    info: CheckpointInfo, config: PI0TTNNConfig, weights: CheckpointWeights, board_name: str, precision: str
) -> None:
    """Adds what the checkpoint's model asks of an emulated board, all cameras and a full prompt, or why it cannot run there.

    Raises:
        ValueError: the board is not an emulated one.
    """
    from ..device.board import open_board
    from ..emulation.boards import PREFIX

    if not board_name.startswith(PREFIX):
        raise ValueError(f"--board: expected an emulated board, such as {PREFIX}n150, got {board_name!r}")
    with open_board(board_name) as board:
        from ..analysis.report import walk

        try:
            info.board = walk(
                config.model_config(),
                weights,
                board,
                precision=precision,
                cameras=max(1, len(info.cameras)),
                tokens=config.tokenizer_max_length,
            )
        except RuntimeError as error:
            info.problems.append(f"{board_name}, {precision}: {error}")


def as_text(info: CheckpointInfo) -> str:
    """Returns the information as lines for a person."""
    stats = "; ".join(f"{feature}: {', '.join(sorted(names))}" for feature, names in info.stats.items())
    renamed = ", ".join(f"{theirs} -> {ours}" for theirs, ours in info.rename_map.items())
    rows = {
        "checkpoint": info.checkpoint,
        "policy type": f"{info.policy_type}, tiny" if info.architecture == "tiny" else info.policy_type,
        "files": ", ".join(info.files),
        "layout": info.layout,
        "dtypes": ", ".join(f"{count} x {dtype}" for dtype, count in info.dtypes.items()),
        "parameters": f"{info.parameters:,} needed, {len(info.ignored)} tensors ignored",
        "cameras": ", ".join(info.cameras) or "none in its config",
        **({"renamed": renamed} if renamed else {}),
        "state, action": f"{info.state_dim} and {info.action_dim} values",
        "joints": ", ".join(info.joints) if info.joints else "not named, they go by position",
        "chunk": f"{info.chunk_size} actions, {info.n_action_steps} of them executed; {info.num_inference_steps} Euler steps",
        "statistics": stats or "none",
        "tokenizer": info.tokenizer or "none saved",
    }
    lines = [f"{name:<14} {value}" for name, value in rows.items()]
    if info.adapter:
        lines += adapter_lines(info.adapter)
    if info.board:
        lines += board_lines(info.board)
    lines += [f"note: {note}" for note in info.notes]
    lines += [f"warning: {warning}" for warning in info.warnings]
    lines += [f"cannot run: {problem}" for problem in info.problems]
    return "\n".join(lines)


def adapter_lines(adapter: dict[str, Any]) -> list[str]:
    """Returns what an adapter is and changes as lines for a person."""
    rank = f"rank {adapter['rank']}, alpha {adapter['alpha']}{', rank-stabilised' if adapter['rslora'] else ''}"
    patterns = [f"{name} {adapter[name]}" for name in ("rank_pattern", "alpha_pattern") if adapter[name]]
    return [
        f"{'adapter':<14} LoRA on {adapter['base']}: {', '.join([rank, *patterns])}",
        *(f"  LoRA     {count:3} x {name}" for name, count in adapter["targets"].items()),
        *(f"  replaced {count:3} x {name}" for name, count in adapter["replaced"].items()),
    ]


def board_lines(report: dict[str, Any]) -> list[str]:
    """Returns a walk's report as lines for a person."""
    board, model = report["board"], report["model"]
    columns, rows = board["grid"]
    each, of_each = (f"{board['chips']} chips, each of ", " of each chip") if board["chips"] > 1 else ("", "")
    used, there = board["dram_bytes_in_use"] / 2**30, board["dram_bytes"] / 2**30
    lines = [
        f"{'board':<14} {board['name']} ({board['kind']}, {board['arch']}), {each}{columns} x {rows} workers",
        f"{'memory':<14} {used:.2f} of {there:.1f} GiB of DRAM in use{of_each}",
        f"{'precision':<14} {model['precision']['preset']}",
    ]
    lines += [f"  {part:<22} {size / 2**20:8.1f} MiB" for part, size in model["weight_bytes"].items()]
    for stage, counts in report["stages"].items():
        operations = sum(row["count"] for row in counts["operations"].values())
        lines.append(
            f"  {stage:<24} {operations:4} device operations, {counts['uploads']} uploads, {counts['readbacks']} readbacks"
        )
    lines += [f"  program refused, left to ttnn: {what}: {why}" for what, why in model["programs_refused"].items()]
    return lines
