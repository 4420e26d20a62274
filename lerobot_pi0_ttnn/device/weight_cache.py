"""Converted weights on disk: what took minutes to fold, fuse and round takes seconds to read again.

One folder for each (checkpoint, precision, architecture, ttnn): its name is a digest of the key, which its manifest spells
out. A file counts only if the manifest has its size and checksum; all else is made again.
"""

import hashlib
import json
import logging
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import ttnn

from .failure import error_summary

logger = logging.getLogger(__name__)

FORMAT = 2
"""Raised whenever the graph folds, fuses or pads its weights in another way."""

MANIFEST = "manifest.json"
CHUNK_BYTES = 16 << 20


class WeightCache:
    """The converted weights of one checkpoint for one kind of board.

    Args:
        folder: where all caches are.
        key: what the weights depend on.
        check: called before what was stored counts; raises if it may be of something else than the key says.
    """

    def __init__(self, folder: Path, key: Mapping[str, str], check: Callable[[], None] = lambda: None) -> None:
        self._check = check
        self._key = {"format": str(FORMAT), "ttnn": version("ttnn"), **key}
        self.folder = folder / hashlib.sha256(json.dumps(self._key, sort_keys=True).encode()).hexdigest()[:20]
        self._files: dict[str, list[int]] = self._read_manifest()
        self._is_writable = True
        self._has_news = False

    def _read_manifest(self) -> dict[str, list[int]]:
        path = self.folder / MANIFEST
        if not path.is_file():
            return {}
        try:
            manifest = json.loads(path.read_text())
            if manifest["key"] == self._key:
                files: dict[str, list[int]] = manifest["files"]
                return files
        except (ValueError, KeyError, TypeError):
            pass
        logger.warning("%s: not the manifest of this cache; the weights are converted anew.", path)
        return {}

    def load(self, name: str, device: ttnn.Device) -> ttnn.Tensor | None:
        """Returns a cached tensor, in the device's DRAM; None where there is none, or none that can be trusted."""
        if name not in self._files:
            return None
        path = self._path(name)
        if not path.is_file() or _size_and_checksum(path) != self._files[name]:
            logger.warning("%s: damaged since it was written; %s is converted anew.", path, name)
            del self._files[name]
            return None
        return ttnn.load_tensor(path, device=device)

    def store(self, name: str, tensor: ttnn.Tensor) -> None:
        """Keeps a tensor, which is on the host. A full disk ends the caching, with a warning, not the loading."""
        if not self._is_writable:
            return
        path = self._path(name)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            ttnn.dump_tensor(path, tensor)
            self._files[name] = _size_and_checksum(path)
            self._has_news = True
        except (OSError, RuntimeError) as error:
            logger.warning(
                "%s: cannot be written (%s); this start goes on without the cache.", path, error_summary(error)
            )
            with suppress(OSError):  # a folder that may not be written to at all
                path.unlink(missing_ok=True)
            self._is_writable = False

    def commit(self) -> None:
        """Writes the manifest: only now does what was stored count."""
        if not self._has_news:
            return
        self._check()
        partial = self.folder / f".{MANIFEST}.partial"
        try:
            partial.write_text(json.dumps({"key": self._key, "files": self._files}))
            partial.replace(self.folder / MANIFEST)
        except OSError as error:
            logger.warning("%s: cannot be written (%s); the next start converts the weights again.", partial, error)
            with suppress(OSError):
                partial.unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.tensorbin"


def _size_and_checksum(path: Path) -> list[int]:
    size = checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            size += len(chunk)
            checksum = zlib.crc32(chunk, checksum)
    return [size, checksum]
