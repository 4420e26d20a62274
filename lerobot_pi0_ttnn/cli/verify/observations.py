"""What the policy is asked: observations of the user's, or made-up ones."""

from pathlib import Path
from typing import Any

import torch
from lerobot.policies.factory import make_pre_post_processors
from safetensors import safe_open
from torch import Tensor

from ...checkpoint.files import CheckpointSource
from ...configuration_pi0_ttnn import PI0TTNNConfig
from ..bench.command import make_batch

TASK = "task"
TOKENS = 12
"""Of a made-up prompt."""


def read_batches(
    where: Path | None, config: PI0TTNNConfig, source: CheckpointSource, count: int
) -> tuple[str, list[dict[str, Any]]]:
    """Returns in words what they are, and so many batches of one row as the policy takes them.

    Args:
        where: a LeRobot data set's folder, of which frames are taken from its beginning to its end; or a safetensors file of
            one observation: `observation.*` as in a data set, the task in its metadata; None: made up.
        config: of the policy.
        source: the checkpoint, whose preprocessor is used.
        count: of a data set.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: it is neither.
    """
    if where is None:
        cameras = len(config.image_features)
        return "made up", [make_batch(config, cameras=cameras, tokens=min(TOKENS, config.tokenizer_max_length))]
    if not where.exists():
        raise FileNotFoundError(f"--observations: {where}: no such file or folder")
    if where.is_dir():
        kind, rows = "of a data set", _frames(where, count)
    elif where.suffix == ".safetensors":
        kind, rows = "of a file", [_observation(where)]
    else:
        raise ValueError(
            f"--observations: expected the folder of a LeRobot data set, or a .safetensors file, got {where}"
        )
    preprocess, _ = make_pre_post_processors(
        config,
        pretrained_path=str(source.path_or_repo_id),
        pretrained_revision=source.revision,
        preprocessor_overrides={"device_processor": {"device": "cpu"}},
        postprocessor_overrides={"device_processor": {"device": "cpu"}},
    )
    return kind, [preprocess(row) for row in rows]


def _frames(folder: Path, count: int) -> list[dict[str, Any]]:
    if not (folder / "meta" / "info.json").is_file():
        raise ValueError(f"--observations: {folder} has no meta/info.json: expected the folder of a LeRobot data set")
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    data_set = LeRobotDataset(folder.name, root=folder)
    numbers = torch.linspace(0, len(data_set) - 1, min(count, len(data_set))).round().int().tolist()
    return [
        {name: value for name, value in data_set[number].items() if name == TASK or name.startswith("observation.")}
        for number in numbers
    ]


def _observation(file: Path) -> dict[str, Any]:
    with safe_open(file, framework="pt") as opened:
        row: dict[str, Tensor | str] = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        task = (opened.metadata() or {}).get(TASK)
    if task is None or not any(name.startswith("observation.") for name in row):
        raise ValueError(
            f"--observations: {file}: expected tensors observation.* as in a data set, and the prompt as `task` in the file's "
            f"metadata, got {', '.join(sorted(row)) or 'none'} and {'no task' if task is None else 'a task'}"
        )
    return {**row, TASK: task}
