"""What a checkpoint's saved processors say, without building them: the tokenizer they name and the statistics they hold."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

from .files import CheckpointSource, open_safetensors

PREPROCESSOR = "policy_preprocessor.json"
POSTPROCESSOR = "policy_postprocessor.json"
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
    try:
        steps: list[dict[str, Any]] = json.loads(path.read_text())["steps"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a LeRobot processor ({error!r}); fetch it again.") from error
    by_name = {step.get("registry_name"): step for step in steps}
    tokenizer = by_name.get("tokenizer_processor", {}).get("config", {}).get("tokenizer_name")
    return SavedProcessors(path, tokenizer, _stats(source, by_name.get("normalizer_processor", {}).get("state_file")))


def _stats(source: CheckpointSource, state_file: str | None) -> dict[str, list[str]]:
    if state_file is None:
        return {}
    path = source.find(state_file)
    if path is None:
        raise FileNotFoundError(
            f"{source}: {PREPROCESSOR} names {state_file}, which is absent; fetch the whole folder."
        )
    stats: dict[str, list[str]] = {}
    for key in open_safetensors(path).keys():  # noqa: SIM118 - not a dict
        feature, _, statistic = key.rpartition(".")
        stats.setdefault(feature, []).append(statistic)
    return stats


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
    folder = Path(name).expanduser()
    if folder.is_dir():
        if any((folder / file).is_file() for file in TOKENIZER_FILES):
            return None
        return f"{name}: this folder holds no tokenizer (none of {', '.join(TOKENIZER_FILES)})."
    if tokenizer_is_here(name):
        return None
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
