"""Finding and opening a checkpoint's files, in a folder or on the Hub: each way this goes wrong has its sentence."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError, safe_open
from torch import Tensor

CONFIG_FILE = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
LFS_POINTER = b"version https://git-lfs"
MAPPED_BYTES = 256 << 20
HEADER_BYTES = 100 << 20
"""The longest header that safetensors takes."""


@dataclass(frozen=True)
class CheckpointSource:
    """Where a checkpoint is: a folder, a `.safetensors` file, or a repository on the Hub.

    Args:
        path_or_repo_id: the folder, the file, or `owner/name`.
        revision: branch, tag or commit on the Hub.
        token: the Hub's access token; the one of `hf auth login` by default.
        cache_dir: the Hub's cache folder; huggingface_hub's own by default.
        local_files_only: never ask the network.
        subfolder: where in the folder or repository the checkpoint lies.
        force_download: fetch files from the Hub even where the cache has them.
    """

    path_or_repo_id: str | Path
    revision: str | None = None
    token: str | bool | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    subfolder: str | None = None
    force_download: bool = False

    def __str__(self) -> str:
        name = str(self.path_or_repo_id)
        name = f"{name}/{self.subfolder}" if self.subfolder else name
        return f"{name}@{self.revision}" if self.revision else name

    def find(self, filename: str) -> Path | None:
        """Returns the local path of one of the checkpoint's files, downloaded if need be; None where it has none such.

        Raises:
            FileNotFoundError: there is no such folder, repository or revision.
            PermissionError: the repository is private or gated.
            ConnectionError: the Hub cannot be reached and the file is not in the cache.
        """
        local = Path(self.path_or_repo_id).expanduser()
        if local.is_file():
            return local if filename == SINGLE else _if_file(local.parent / filename)
        if local.is_dir():
            return _if_file(local / (self.subfolder or "") / filename)
        if local.is_absolute() or str(self.path_or_repo_id).startswith((".", "~")):
            raise FileNotFoundError(
                f"{self}: there is no such folder; give a checkpoint folder or a Hub id (owner/name)."
            )
        return self._download(filename)

    def find_folder(self, name: str) -> Path | None:
        """Returns the local path of one of the checkpoint's folders, downloaded if need be; None where it has none such.

        Raises:
            ConnectionError: the Hub cannot be reached and the folder is not in the cache.
        """
        local = Path(self.path_or_repo_id).expanduser()
        inside = f"{self.subfolder}/{name}" if self.subfolder else name
        if local.exists():
            folder = local.parent / name if local.is_file() else local / inside
            return folder if folder.is_dir() else None
        try:
            snapshot = snapshot_download(
                str(self.path_or_repo_id),
                revision=self.revision,
                token=self.token,
                cache_dir=self.cache_dir,
                local_files_only=self.local_files_only,
                force_download=self.force_download,
                allow_patterns=f"{inside}/*",
            )
        except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
            raise ConnectionError(
                f"{self}: the Hub did not give its folder {name} ({error}); try again, or give a folder."
            ) from error
        folder = Path(snapshot) / inside
        return folder if folder.is_dir() else None

    def _download(self, filename: str) -> Path | None:
        try:
            return Path(
                hf_hub_download(
                    repo_id=str(self.path_or_repo_id),
                    filename=filename,
                    subfolder=self.subfolder,
                    revision=self.revision,
                    token=self.token,
                    cache_dir=self.cache_dir,
                    local_files_only=self.local_files_only,
                    force_download=self.force_download,
                )
            )
        except HFValidationError as error:
            raise FileNotFoundError(
                f"{self}: neither a folder that exists nor a Hub id of the form owner/name; check the spelling."
            ) from error
        except GatedRepoError as error:
            raise PermissionError(
                f"{self}: the Hub asks you to accept this repository's terms; do so at "
                f"https://huggingface.co/{self.path_or_repo_id}, then run `hf auth login`."
            ) from error
        except RepositoryNotFoundError as error:
            raise FileNotFoundError(
                f"{self}: no such folder here and no such repository on the Hub; check the spelling, and run "
                "`hf auth login` if it is private."
            ) from error
        except RevisionNotFoundError as error:
            raise FileNotFoundError(
                f"{self}: the repository has no revision {self.revision!r}; give an existing branch, tag or commit."
            ) from error
        except LocalEntryNotFoundError as error:
            if self._cached_elsewhere(filename):
                return None
            raise ConnectionError(
                f"{self}: no such folder here, {filename} is not in the Hub's cache, and the Hub cannot be reached; "
                "give a folder that holds the checkpoint, or connect to the network (and unset HF_HUB_OFFLINE)."
            ) from error
        except EntryNotFoundError:
            return None
        except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
            raise ConnectionError(
                f"{self}: the Hub did not give {filename} ({error}); try again, or give a folder."
            ) from error

    def _cached_elsewhere(self, filename: str) -> bool:
        """Returns whether another kind of checkpoint is in the cache: then this file may be taken as absent."""
        if filename not in (SINGLE, INDEX, ADAPTER):
            return False
        others = {SINGLE, INDEX, ADAPTER} - {filename}
        names = [f"{self.subfolder}/{other}" if self.subfolder else other for other in others]
        repo = str(self.path_or_repo_id)
        return any(isinstance(try_to_load_from_cache(repo, name, self.cache_dir, self.revision), str) for name in names)

    def weight_files(self) -> list[Path]:
        """Returns the local paths of the safetensors files, one or several shards, with the shards' index first if any.

        Raises:
            FileNotFoundError: the checkpoint has no weights, or lacks a shard that its index names.
            ValueError: the index is not one.
        """
        single = self.find(SINGLE)
        if single is not None:
            return [single]
        index = self.find(INDEX)
        if index is None:
            raise FileNotFoundError(f"{self}: expected {SINGLE} or {INDEX}, found neither. {self._what_instead()}")
        try:
            shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"{index}: expected a JSON index with a weight_map ({error}); fetch it again.") from error
        paths = {shard: self.find(shard) for shard in shards}
        absent = [shard for shard, path in paths.items() if path is None]
        if absent:
            raise FileNotFoundError(
                f"{self}: {INDEX} names {len(shards)} files, of which {', '.join(absent)} are absent; "
                "fetch the whole folder."
            )
        return [index, *(path for path in paths.values() if path is not None)]

    def _what_instead(self) -> str:
        if self.find(ADAPTER) is not None:
            return "It is an adapter, not a whole model; `lerobot-pi0-ttnn convert` merges it into its base model."
        folder = Path(self.path_or_repo_id).expanduser()
        if folder.is_dir() and any((folder / (self.subfolder or "")).glob("*.bin")):
            return "It holds PyTorch .bin files; save the model as safetensors first."
        if folder.is_dir() and any((folder / (self.subfolder or "")).rglob("*.distcp")):
            return "It holds a distributed checkpoint of LeRobot's main; run that release's lerobot-convert-dcp on it first."
        return "Give the folder (or the Hub repository, with its subfolder) in which the weights lie."


def _if_file(path: Path) -> Path | None:
    return path if path.is_file() else None


def read_json(path: Path) -> dict[str, Any]:
    """Returns the fields of a JSON file.

    Raises:
        ValueError: it is not one.
    """
    try:
        fields = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); fetch it again.") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(fields).__name__}; fetch it again.")
    return fields


def open_safetensors(path: Path) -> Any:
    """Returns the open file: its header is read, its tensors are mapped but not read.

    Raises:
        ValueError: it is not a safetensors file, or not all of it.
    """
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        with path.open("rb") as file:
            start = file.read(len(LFS_POINTER))
        if start == LFS_POINTER:
            problem, remedy = "a git-lfs pointer, not the file itself", "run `git lfs pull` in its folder"
        elif path.stat().st_size < (whole := _whole_size(path)):
            problem = f"cut short at {path.stat().st_size} bytes, expected {whole} by its header"
            remedy = "delete it and fetch it again"
        else:
            problem, remedy = f"not a safetensors file ({error})", "save the model as safetensors, or fetch it again"
        raise ValueError(f"{path}: {problem}; {remedy}.") from error


def _whole_size(path: Path) -> int:
    """Returns the bytes that a safetensors file must have by what there is of its header; 0 where there is none."""
    with path.open("rb") as file:
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or length > HEADER_BYTES:
            return 0
        header = file.read(length)
    if len(header) < length:
        return 8 + length
    try:
        ends = [entry["data_offsets"][1] for name, entry in json.loads(header).items() if name != "__metadata__"]
        return 8 + length + int(max(ends, default=0))
    except (ValueError, AttributeError, LookupError, TypeError):
        return 0


class MappedTensors:
    """The tensors of safetensors files by their saved names; each is a view of the mapped file, not a copy.

    The files must stay as they are while tensors of them are read: the kernel ends a process with SIGBUS that reads a
    mapped page beyond the end of its file, and no code can prevent that. So each tensor is handed out only if no file has
    changed since it was opened.

    Args:
        paths: the files.

    Raises:
        ValueError: one of them is not a safetensors file, or not all of it.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self._states = [_state(path) for path in self.paths]
        self._map()

    def __iter__(self) -> Iterator[str]:
        return iter(self._handles)

    def __len__(self) -> int:
        return len(self._handles)

    def _map(self) -> None:
        handles = [open_safetensors(path) for path in self.paths]
        self._handles = {name: handle for handle in handles for name in handle.keys()}  # noqa: SIM118 - not a dict
        self._bytes_handed_out = 0

    def check_unchanged(self) -> None:
        """Raises ValueError if a file is not the one that was opened: the tensors would be of two checkpoints, or of none."""
        for path, opened in zip(self.paths, self._states, strict=True):
            if (now := _state(path)) != opened:
                raise ValueError(
                    f"{path}: changed while it was being loaded: {opened} when it was opened, {now or 'gone'} now; load it "
                    "again when nothing writes to it any more."
                )

    def tensor(self, name: str) -> Tensor:
        """Returns a tensor; whoever changes it changes a copy of the page, not the file.

        Raises:
            ValueError: a file has changed since it was opened.
        """
        self.check_unchanged()
        # A mapping keeps the pages that were read of it until its last tensor is gone. Who lets go of tensors as it
        # converts them shall get that memory back, so files are mapped anew from time to time.
        if self._bytes_handed_out > MAPPED_BYTES:
            self._map()
        tensor: Tensor = self._handles[name].get_tensor(name)
        self._bytes_handed_out += tensor.nbytes
        return tensor

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns a tensor's shape, from the header."""
        return tuple(self._handles[name].get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """Returns a tensor's dtype, from the header, as safetensors spells it (F32, BF16, ...)."""
        return str(self._handles[name].get_slice(name).get_dtype())


@dataclass(frozen=True)
class _State:
    """What a file was like at a moment."""

    inode: tuple[int, int]
    size: int
    modified_ns: int

    def __str__(self) -> str:
        return f"{self.size} bytes of {datetime.fromtimestamp(self.modified_ns / 1e9):%F %T} (inode {self.inode[1]})"


def _state(path: Path) -> _State | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return _State((status.st_dev, status.st_ino), status.st_size, status.st_mtime_ns)


def identity(path: Path) -> bytes:
    """Returns what tells a file from another: its name (on the Hub, a digest of its content), size and time."""
    file = path.resolve()
    status = file.stat()
    return hashlib.sha256(f"{file.name} {status.st_size} {status.st_mtime_ns}".encode()).digest()
