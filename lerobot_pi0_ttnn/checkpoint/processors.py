"""What a checkpoint's saved processors say, without building them: the tokenizer they name and the statistics they hold."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError
from torch import Tensor

from .files import CheckpointSource, open_safetensors

PREPROCESSOR = "policy_preprocessor.json"
POSTPROCESSOR = "policy_postprocessor.json"
ACTION = "action"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")


@dataclass(frozen=True)
class SavedProcessors:
    """The saved processors of a checkpoint."""

    preprocessor: Path
    tokenizer_name: str | None
    """Folder or Hub id; None where no step tokenizes."""
    stats: dict[str, list[str]]
    """Feature -> the statistics that the normaliser holds of it."""


def read_processors(source: CheckpointSource) -> SavedProcessors | None:
    """Returns what a checkpoint's preprocessor says; None where the checkpoint has none.

    Raises:
        FileNotFoundError: it names a file of statistics that is absent.
        ValueError: it is not JSON, or its statistics are damaged.
    """
    path = source.find(PREPROCESSOR)
    if path is None:
        return None
    by_name = _steps(path)
    tokenizer = by_name.get("tokenizer_processor", {}).get("config", {}).get("tokenizer_name")
    stats: dict[str, list[str]] = {}
    for feature, statistic, _ in _stats(source, path, by_name.get("normalizer_processor", {})):
        stats.setdefault(feature, []).append(statistic)
    return SavedProcessors(path, tokenizer, stats)


def read_action_stats(source: CheckpointSource) -> dict[str, Tensor]:
    """Returns the statistics of the actions by name (`min`, `mean`, ...) with which a checkpoint's postprocessor ends.

    Empty where it has none, or there is no postprocessor. Raises as `read_processors` does.
    """
    path = source.find(POSTPROCESSOR)
    if path is None:
        return {}
    stats = _stats(source, path, _steps(path).get("unnormalizer_processor", {}))
    return {
        statistic: file.get_tensor(f"{ACTION}.{statistic}") for feature, statistic, file in stats if feature == ACTION
    }


def _steps(path: Path) -> dict[str, dict[str, Any]]:
    try:
        steps: list[dict[str, Any]] = json.loads(path.read_text())["steps"]
        return {step.get("registry_name", ""): step for step in steps}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a LeRobot processor ({error!r}); fetch it again.") from error


def _stats(source: CheckpointSource, pipeline: Path, step: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yields (feature, statistic, the open file that holds its value) of a step that normalises."""
    state_file = step.get("state_file")
    if state_file is None:
        return
    path = source.find(state_file)
    if path is None:
        raise FileNotFoundError(
            f"{source}: {pipeline.name} names {state_file}, which is absent; fetch the whole folder."
        )
    file = open_safetensors(path)
    for key in file.keys():  # noqa: SIM118 - not a dict
        feature, _, statistic = key.rpartition(".")
        yield feature, statistic, file


def tokenizer_is_here(name: str) -> bool:
    """Returns whether a tokenizer, named by folder or Hub id, can be read without the network."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return any((folder / file).is_file() for file in TOKENIZER_FILES)
    return any(isinstance(try_to_load_from_cache(name, file), str) for file in TOKENIZER_FILES)


def tokenizer_problem(name: str) -> str | None:
    """Returns why the tokenizer could not be had, and what to do; None where it can.

    Args:
        name: folder or Hub id.
    """
    if tokenizer_is_here(name):
        return None
    if Path(name).expanduser().is_dir():
        return f"{name}: this folder holds no tokenizer (none of {', '.join(TOKENIZER_FILES)})."
    remedy = (
        f"accept its terms at https://huggingface.co/{name} and run `hf auth login`, or name a folder that holds the "
        "tokenizer as tokenizer_name in policy_preprocessor.json (`lerobot-pi0-ttnn convert --tokenizer`)."
    )
    if constants.HF_HUB_OFFLINE:
        return f"{name}: not in the Hub's cache, and HF_HUB_OFFLINE forbids the network; {remedy}"
    try:
        HfApi().auth_check(name)
    except GatedRepoError:
        return f"{name}: not in the Hub's cache, and the repository is gated; {remedy}"
    except RepositoryNotFoundError:
        return f"{name}: neither a folder nor a repository that this account may see; {remedy}"
    except (HfHubHTTPError, OfflineModeIsEnabled, httpx.HTTPError, OSError) as error:
        return f"{name}: not in the Hub's cache, and the Hub cannot be reached ({type(error).__name__}); {remedy}"
    return None
