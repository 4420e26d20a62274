"""The tokenizer that a checkpoint names: where it lies, whether it loads without the network, and whether it is pi0's.

What is said to be here has been loaded, as LeRobot's `TokenizerProcessorStep` will load it: no list of files says that.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined] # it is in its documentation

from .files import CONFIG_FILE, LFS_POINTER, CheckpointSource
from .processors import PREPROCESSOR

FOLDER = "tokenizer"
"""Where a checkpoint keeps its tokenizer, as LeRobot's main after 0.6.1 has it: the preprocessor names it relatively."""
TOKENIZER_STEP = "tokenizer_processor"
ARGUMENT = "tokenizer_name"
"""Of LeRobot's tokenizer step: folder or Hub id, and the key under which the step declares an artifact."""
VOCABULARIES = ("tokenizer.json", "tokenizer.model")
"""One of these a tokenizer has; tokenizer_config.json alone says which tokens are special."""
FETCH = f"{CONFIG_FILE} tokenizer.json tokenizer_config.json special_tokens_map.json"
"""What `hf download` is to be given: transformers asks for config.json before it looks at a tokenizer on the Hub."""
PALIGEMMA = "google/paligemma-3b-pt-224"
NEWLINE, NEWLINE_IDS = "\n", [2, 108]
"""The end of every prompt, and what PaliGemma's tokenizer makes of it alone: <bos> and the newline."""


@dataclass(frozen=True)
class TokenizerStep:
    """What a saved preprocessor says of its tokenizer."""

    name: str
    folder: Path
    """Where the preprocessor lies on this machine."""
    is_artifact: bool
    """The name is that of a folder of the checkpoint, see LeRobot's `artifacts`."""


@dataclass(frozen=True)
class TokenizerState:
    """What is known of a tokenizer before LeRobot builds the step that uses it."""

    place: str | None
    """The folder or Hub id that LeRobot is to load; None where the name is neither."""
    is_here: bool = False
    """It loads without the network."""
    problem: str = ""
    """What is wrong with it; empty where nothing is known to be."""
    fix: str = ""
    is_fatal: bool = False
    """No prompt can be tokenized with it, on this machine as it is."""


@dataclass(frozen=True)
class NamedTokenizer:
    """A checkpoint's tokenizer."""

    name: str
    state: TokenizerState
    by_preprocessor: bool
    """Its saved preprocessor names it, else only its config, for processors that are still to be made."""


def read_tokenizer_step(source: CheckpointSource) -> TokenizerStep | None:
    """Returns which tokenizer a checkpoint's saved preprocessor names; None where it names none.

    Raises:
        ValueError: the preprocessor is not one.
    """
    path = source.find(PREPROCESSOR)
    if path is None:
        return None
    try:
        for step in json.loads(path.read_text())["steps"]:
            artifact = step.get("artifacts", {}).get(ARGUMENT)
            name = step.get("config", {}).get(ARGUMENT) if artifact is None else artifact
            if step.get("registry_name") == TOKENIZER_STEP and name is not None:
                return TokenizerStep(str(name), path.parent, is_artifact=artifact is not None)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a LeRobot processor ({error!r}); fetch it again.") from error
    return None


def inspect_checkpoint_tokenizer(
    source: CheckpointSource, *, otherwise: str, vocab_size: int | None = None, is_paligemma: bool = False
) -> NamedTokenizer:
    """Returns what is known of a checkpoint's tokenizer.

    Args:
        source: the checkpoint.
        otherwise: the tokenizer that its config names, if its preprocessor names none.
        vocab_size: see `inspect_tokenizer`.
        is_paligemma: see there.

    Raises:
        FileNotFoundError, PermissionError: the checkpoint cannot be loaded.
    """
    try:
        step = read_tokenizer_step(source)
    except (ValueError, ConnectionError):  # the preprocessor cannot be read, which is said elsewhere
        step = None
    name = step.name if step else otherwise
    state = inspect_tokenizer(
        name,
        step.folder if step else None,
        artifact_of=source if (step.is_artifact if step else name == FOLDER) else None,
        vocab_size=vocab_size,
        is_paligemma=is_paligemma,
    )
    return NamedTokenizer(name, state, by_preprocessor=step is not None)


def find_tokenizer(name: str, checkpoint: Path | None = None, *, artifact_of: CheckpointSource | None = None) -> str:
    """Returns the folder on this machine, or else the Hub id, that a tokenizer's name stands for.

    A relative name is a folder of the checkpoint before it is one of the working directory. Of a Hub id whose config.json
    is not in the Hub's cache it is the cache's folder, where the tokenizer is there: transformers loads that, and not the id.

    Args:
        name: as a checkpoint's preprocessor or a user gives it; `~` is the home folder.
        checkpoint: the checkpoint's folder on this machine.
        artifact_of: the checkpoint, if its preprocessor declares the tokenizer as one of its artifacts: a folder of its
            own, which is downloaded if need be.

    Raises:
        FileNotFoundError: there is no such folder, and a Hub id it cannot be.
        ConnectionError: the checkpoint is on the Hub, and its folder cannot be downloaded.
    """
    path = Path(name).expanduser()
    if artifact_of is not None:
        return str(_artifact(path, artifact_of))
    if checkpoint is not None and name and not path.is_absolute() and (checkpoint / path).is_dir():
        return str(checkpoint / path)
    if name and path.is_dir():
        return str(path)
    if not _may_be_hub_id(name):
        raise FileNotFoundError(_no_such_folder(name))
    if _cached(name, CONFIG_FILE) is None:
        for file in VOCABULARIES:
            if (cached := _cached(name, file)) is not None:
                return str(cached.parent)
    return name


def load_tokenizer(place: str) -> Any:
    """Returns the tokenizer of a folder or Hub id, as LeRobot loads it, but never from the network.

    Raises:
        Exception: whatever transformers and its parsers raise for files that are absent or damaged.
    """
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(place, local_files_only=True, trust_remote_code=False)


def inspect_tokenizer(
    name: str,
    checkpoint: Path | None = None,
    *,
    artifact_of: CheckpointSource | None = None,
    vocab_size: int | None = None,
    is_paligemma: bool = False,
) -> TokenizerState:
    """Returns what is known of a tokenizer. The network is asked only for what is not here; only an artifact is downloaded.

    Args:
        name: folder or Hub id.
        checkpoint: see `find_tokenizer`.
        artifact_of: see `find_tokenizer`.
        vocab_size: rows of the model's embedding table.
        is_paligemma: the model was trained with PaliGemma's tokenizer, as every pi0 of full size.
    """
    try:
        place = find_tokenizer(name, checkpoint, artifact_of=artifact_of)
    except (FileNotFoundError, ConnectionError) as error:
        return TokenizerState(None, problem=str(error), fix=_convert("FOLDER_OR_HUB_ID"), is_fatal=True)
    try:
        tokenizer = load_tokenizer(place)
    except Exception as error:  # files of any origin, read by several libraries
        if not Path(place).is_dir():
            problem, fix = _hub_problem(name)
            return TokenizerState(place, problem=problem, fix=fix)
        reason = _is_lfs_pointer(Path(place)) or (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        problem = f"{place}: transformers loads no tokenizer from this folder ({reason})"
        fix = f"fetch it again, whole, or {_convert('FOLDER_OR_HUB_ID')}"
        return TokenizerState(place, problem=problem, fix=fix, is_fatal=True)
    if tokenizer.pad_token_id is None:
        problem = f"{place}: this tokenizer has no padding token, and LeRobot pads every prompt"
        fix = "add `pad_token` to its tokenizer_config.json (PaliGemma's is <pad>, id 0)"
        return TokenizerState(place, is_here=True, problem=problem, fix=fix, is_fatal=True)
    highest = _highest_id(tokenizer)
    if vocab_size is not None and highest >= vocab_size:
        problem = (
            f"{place}: expected a tokenizer with ids from 0 to {vocab_size - 1}, the rows of the model's embedding table, got "
            f"ids up to {highest}: it is another model's"
        )
        return TokenizerState(place, is_here=True, problem=problem, fix=_convert(PALIGEMMA), is_fatal=True)
    ids = list(tokenizer(NEWLINE).input_ids)
    if is_paligemma and ids != NEWLINE_IDS:
        problem = (
            f"{place}: expected PaliGemma's tokenizer, with which pi0 is trained, whose ids for a newline are {NEWLINE_IDS} "
            f"(<bos> first), got {ids}: prompts mean something else to the model"
        )
        fix = f"unless it was trained with this tokenizer, {_convert(PALIGEMMA)}"
        return TokenizerState(place, is_here=True, problem=problem, fix=fix)
    return TokenizerState(place, is_here=True)


def save_tokenizer(place: str, checkpoint: Path) -> None:
    """Puts a tokenizer, and nothing else that its folder may hold, into a checkpoint's folder."""
    load_tokenizer(place).save_pretrained(checkpoint / FOLDER)


def name_tokenizer(step: dict[str, Any], name: str) -> None:
    """Lets the saved tokenizer step of a preprocessor name a tokenizer; the checkpoint's own as LeRobot's main writes it."""
    step.setdefault("config", {})[ARGUMENT] = name
    step.pop("artifacts", None)
    if name == FOLDER:
        step["artifacts"] = {ARGUMENT: FOLDER}


def _artifact(path: Path, source: CheckpointSource) -> Path:
    if path.is_absolute() or ".." in path.parts:
        raise FileNotFoundError(f"{source}: expected its tokenizer in a folder of the checkpoint, got {path}")
    folder = source.find_folder(path.as_posix())
    if folder is None:
        raise FileNotFoundError(
            f"{source}: its tokenizer should be in the checkpoint's folder {path}, which is absent: the checkpoint is not whole"
        )
    return folder


def _may_be_hub_id(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _no_such_folder(name: str) -> str:
    if not name:
        return "its name is empty"
    if re.match(r"[A-Za-z]:[\\/]|\\\\", name):
        return f"{name}: a path of a Windows machine"
    return f"{name}: there is no such folder on this machine, and no Hub id is written like that"


def _convert(tokenizer: str) -> str:
    return f"`lerobot-pi0-ttnn convert CKPT DST --tokenizer {tokenizer}` makes a copy that has one, a folder's files included"


def _cached(repo: str, file: str) -> Path | None:
    path = try_to_load_from_cache(repo, file)
    return Path(path) if isinstance(path, str) else None


def _is_lfs_pointer(folder: Path) -> str | None:
    for file in VOCABULARIES:
        path = folder / file
        if path.is_file() and path.read_bytes().startswith(LFS_POINTER):
            return f"{file} is a git-lfs pointer, not the file itself: `git lfs pull` fetches it"
    return None


def _highest_id(tokenizer: Any) -> int:
    """Returns the highest id that a prompt or its padding can have.

    Added tokens, such as PaliGemma's <image>, may lie beyond the table: only a prompt that spells one out has it.
    """
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    added, pad = tokenizer.get_added_vocab(), int(tokenizer.pad_token_id)
    return max([pad, *(number for token, number in vocabulary.items() if token not in added)])


def _hub_problem(name: str) -> tuple[str, str]:
    """Returns why a tokenizer that is not here cannot be fetched, and what to do; two empty strings where it can be."""
    fix = (
        f"accept its terms at https://huggingface.co/{name}, run `hf auth login`, then `hf download {name} {FETCH}`; or, with "
        f"a folder that holds the tokenizer, {_convert('FOLDER')}"
    )
    if constants.HF_HUB_OFFLINE:
        return f"{name}: it is not, or not whole, in the Hub's cache, and HF_HUB_OFFLINE forbids the network", fix
    try:
        HfApi().auth_check(name)
        if not {*VOCABULARIES, "vocab.json", "vocab.txt"} & set(HfApi().list_repo_files(name)):
            return f"{name}: this repository holds no tokenizer", _convert(PALIGEMMA)
    except GatedRepoError:
        return f"{name}: not in the Hub's cache, and the repository is gated", fix
    except RepositoryNotFoundError:
        return f"{name}: neither a folder nor a repository that this account may see", fix
    except (HfHubHTTPError, OfflineModeIsEnabled, httpx.HTTPError, OSError) as error:
        return f"{name}: not in the Hub's cache, and the Hub cannot be reached ({type(error).__name__})", fix
    return "", ""
