"""The loader: a checkpoint as a mapping from our names to tensors that are mapped from disk, not copied."""

import hashlib
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from ..model.tensors import Shapes
from .files import CheckpointSource, MappedTensors, identity
from .layout import recognise
from .writer import Header

logger = logging.getLogger(__name__)

COPY_BYTES = 16 << 20


class PI0WeightLoader(Mapping[str, Tensor]):
    """The tensors of a pi0 checkpoint by our names, in any layout that pi0 was ever saved in.

    Opening it reads the files' headers. A tensor is a view of the mapped file, in the dtype it was saved in: nothing is
    copied, and only what is computed with is ever read from disk. `check_weights` says whether all that a model needs
    is there.

    Args:
        path_or_repo_id: a folder, a `.safetensors` file, or `owner/name` on the Hub.
        revision: branch, tag or commit on the Hub.
        token: the Hub's access token; the one of `hf auth login` by default.
        cache_dir: the Hub's cache folder; huggingface_hub's own by default.
        local_files_only: never ask the network.
        subfolder: where in the folder or repository the checkpoint lies.
        force_download: fetch the files from the Hub even where the cache has them.

    Raises:
        FileNotFoundError: no such folder, repository or revision, or no weights in it.
        PermissionError: the repository is private or gated.
        ConnectionError: the Hub cannot be reached and the files are not in the cache.
        ValueError: a file is damaged or of another format, or the checkpoint is of another model.
    """

    def __init__(
        self,
        path_or_repo_id: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        subfolder: str | None = None,
        force_download: bool = False,
    ) -> None:
        self.source = CheckpointSource(
            path_or_repo_id, revision, token, cache_dir, local_files_only, subfolder, force_download
        )
        self.files = self.source.weight_files()
        self._tensors = MappedTensors([path for path in self.files if path.suffix != ".json"])
        self.layout = recognise(self._tensors, str(self.source))
        logger.info("%s: %d tensors (%s)", self.source, len(self), ", ".join(self.layout.traits))

    def __str__(self) -> str:
        return str(self.source)

    def __getitem__(self, name: str) -> Tensor:
        return self.saved(self.layout.names[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.layout.names)

    def __len__(self) -> int:
        return len(self.layout.names)

    def saved(self, saved_name: str) -> Tensor:
        """Returns a tensor by the checkpoint's own name, the ignored ones included."""
        return self._tensors.tensor(saved_name)

    def saved_headers(self) -> dict[str, Header]:
        """Returns dtype and shape of each tensor by the checkpoint's own name, the ignored ones included."""
        return {name: (self._tensors.dtype(name), self._tensors.shape(name)) for name in self._tensors}

    def fingerprint(self) -> str:
        """Returns a digest of what the files are: names (on the Hub, digests of content), sizes, times, headers."""
        digest = hashlib.sha256()
        for path in self.files:
            digest.update(identity(path))
        for ours, saved in self.layout.names.items():
            digest.update(f"{ours} {saved} {self._tensors.shape(saved)} {self._tensors.dtype(saved)}".encode())
        return digest.hexdigest()

    def check_unchanged(self) -> None:
        """Raises ValueError if a file has changed since it was opened."""
        self._tensors.check_unchanged()

    def shapes(self) -> Shapes:
        """Returns the shape of each tensor by our name, from the headers."""
        return {ours: self._tensors.shape(saved) for ours, saved in self.layout.names.items()}

    def dtypes(self) -> dict[str, str]:
        """Returns the dtype of each tensor by our name, from the headers, as safetensors spells it (F32, BF16, ...)."""
        return {ours: self._tensors.dtype(saved) for ours, saved in self.layout.names.items()}

    def save(self, folder: Path) -> None:
        """Puts the checkpoint's files in a folder, as hard links where the file system allows, else as copies."""
        for path in self.files:
            link_or_copy(path, folder / path.name)


def link_or_copy(source: Path, target: Path) -> None:
    """Makes `target` the same file as `source`, by a hard link if possible, else by a copy with a progress bar.

    A target that exists is replaced only once the new one is complete; one that is the same file is left alone.
    """
    source = source.resolve()
    if target.exists() and target.samefile(source):
        return
    partial = target.with_name(f".{target.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError:
        _copy(source, partial)
    partial.replace(target)


def _copy(source: Path, target: Path) -> None:
    size = source.stat().st_size
    try:
        with (
            source.open("rb") as reader,
            target.open("wb") as writer,
            tqdm(total=size, unit="B", unit_scale=True, desc=f"Copying {source.name}", delay=2) as bar,
        ):
            while chunk := reader.read(COPY_BYTES):
                writer.write(chunk)
                bar.update(len(chunk))
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    shutil.copymode(source, target)
