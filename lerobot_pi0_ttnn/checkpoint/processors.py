"""What a checkpoint's saved processors say, without building them: the tokenizer they name and the statistics they hold."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .files import CheckpointSource, open_safetensors

PREPROCESSOR = "policy_preprocessor.json"
POSTPROCESSOR = "policy_postprocessor.json"
STATE = "observation.state"
ACTION = "action"
RENAME = "rename_observations_processor"
NEW_LINE = "pi0_new_line_processor"
STATE_IN_PROMPT = "pi05_prepare_state_tokenizer_processor_step"
TOKENIZER = "tokenizer_processor"
NORMALIZER = "normalizer_processor"
UNNORMALIZER = "unnormalizer_processor"
RELATIVE = "relative_actions_processor"
ABSOLUTE = "absolute_actions_processor"
NORMALISES = (NORMALIZER, UNNORMALIZER)


@dataclass(frozen=True)
class SavedPipeline:
    """A checkpoint's preprocessor or postprocessor."""

    path: Path
    steps: dict[str, dict[str, Any]]
    """Registry name -> the step's settings, in the order of the steps."""
    stats: dict[str, dict[str, Tensor]]
    """Feature -> statistic (`mean`, `q01`, ...) -> value, of the step that normalises or undoes it."""


@dataclass(frozen=True)
class SavedProcessors:
    """The saved processors of a checkpoint; None for one that it does not have."""

    preprocessor: SavedPipeline | None
    postprocessor: SavedPipeline | None

    @property
    def tokenizer_name(self) -> str | None:
        """Folder or Hub id; None where no step tokenizes."""
        name: str | None = self._step(self.preprocessor, TOKENIZER).get("tokenizer_name")
        return name

    @property
    def rename_map(self) -> dict[str, str]:
        """The robot's or the environment's name of an observation -> the checkpoint's; empty where nothing is renamed."""
        return dict(self._step(self.preprocessor, RENAME).get("rename_map") or {})

    @property
    def normalizer(self) -> dict[str, Any]:
        """The settings of the step that normalises; empty where there is none."""
        return self._step(self.preprocessor, NORMALIZER)

    @property
    def unnormalizer(self) -> dict[str, Any]:
        """The settings of the step that undoes it; empty where there is none."""
        return self._step(self.postprocessor, UNNORMALIZER)

    @property
    def state_stats(self) -> dict[str, Tensor]:
        """The statistics with which `observation.state` is normalised, by name; empty where there are none."""
        return self.preprocessor.stats.get(STATE, {}) if self.preprocessor else {}

    @property
    def action_stats(self) -> dict[str, Tensor]:
        """The statistics with which the policy's actions become the robot's, by name; empty where there are none."""
        return self.postprocessor.stats.get(ACTION, {}) if self.postprocessor else {}

    @staticmethod
    def _step(pipeline: SavedPipeline | None, name: str) -> dict[str, Any]:
        return pipeline.steps.get(name, {}) if pipeline else {}


def read_processors(source: CheckpointSource) -> SavedProcessors:
    """Returns what a checkpoint's saved processors say.

    Raises:
        FileNotFoundError, PermissionError, ConnectionError: the checkpoint cannot be loaded.
        ValueError: one of them is not JSON, or its statistics are damaged or absent.
    """
    return SavedProcessors(_read_pipeline(source, PREPROCESSOR), _read_pipeline(source, POSTPROCESSOR))


def _read_pipeline(source: CheckpointSource, filename: str) -> SavedPipeline | None:
    path = source.find(filename)
    if path is None:
        return None
    try:
        saved: list[dict[str, Any]] = json.loads(path.read_text())["steps"]
        steps = {str(step.get("registry_name", "")): dict(step.get("config") or {}) for step in saved}
        _check_settings(steps)
        state_files = [step.get("state_file") for step in saved if step.get("registry_name") in NORMALISES]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a LeRobot processor ({error!r}); fetch it again.") from error
    stats: dict[str, dict[str, Tensor]] = {}
    for state_file in filter(None, state_files):
        tensors = source.find(state_file)
        if tensors is None:
            raise ValueError(f"{source}: {filename} names {state_file}, which is absent; fetch the whole folder.")
        file = open_safetensors(tensors)
        for key in file.keys():  # noqa: SIM118 - not a dict
            feature, _, statistic = key.rpartition(".")
            stats.setdefault(feature, {})[statistic] = file.get_tensor(key)
    for name in NORMALISES:  # what is written into the settings themselves counts for LeRobot, too, and alone
        written = steps.get(name, {}).get("stats") or {}
        stats = {feature: _tensors(path, feature, values) for feature, values in written.items()} or stats
    return SavedPipeline(path, steps, stats)


def _check_settings(steps: dict[str, dict[str, Any]]) -> None:
    """Raises TypeError where settings are not of the kind that LeRobot writes."""
    for step, settings in steps.items():
        for name in ("norm_map", "features", "rename_map", "stats"):
            if not isinstance(settings.get(name) or {}, dict):
                raise TypeError(f"{step}, {name}: expected an object, got {settings[name]!r}")
    for theirs, ours in (steps.get(RENAME, {}).get("rename_map") or {}).items():
        if not isinstance(ours, str):
            raise TypeError(f"{RENAME}, {theirs}: expected a name, got {ours!r}")


def _tensors(path: Path, feature: str, values: Any) -> dict[str, Tensor]:
    try:
        return {name: torch.as_tensor(value, dtype=torch.float32) for name, value in values.items()}
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: the statistics of {feature} are not numbers ({error}); fetch it again.") from error
