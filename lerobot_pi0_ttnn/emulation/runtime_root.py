"""A private runtime root for ttnn: everything an emulated board reads or writes, in one temporary folder."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ..ttnn_api.installed import SFPI_TABLE, ttnn_folder, wanted_sfpi
from .boards import EmulatedBoard
from .compiler import install_compiler

LOGGED = (
    "Always",
    "BuildKernels",
    "Dispatch",
    "Inspector",
    "LLRuntime",
    "Loader",
    "Metal",
    "MetalTrace",
    "Op",
    "Test",
    "Timer",
    "TTNN",
    "Verif",
)
"""The parts of ttnn whose log is shown, as tt-logger names them: all but those below the mock, which warn of it at each start
(Device, Distributed, Fabric, UMD, EmulationDriver)."""


class RuntimeRoot:
    """A folder of links to the installed ttnn, with a mocked cluster, a stand-in compiler and a cache of its own.

    It is removed when the process ends: ttnn reads it for as long as it lives.
    """

    def __init__(self, board: EmulatedBoard) -> None:
        # The object is kept for its finalizer, which removes the folder at exit.
        self._folder = tempfile.TemporaryDirectory(prefix="lerobot-pi0-ttnn-emulated-", ignore_cleanup_errors=True)
        self.path = Path(self._folder.name)
        installed = _installed_ttnn()
        for entry in installed.iterdir():
            if entry.name != "runtime":
                (self.path / entry.name).symlink_to(entry)
        runtime = self.path / "runtime"
        runtime.mkdir()
        for entry in (installed / "runtime").iterdir():
            if entry.name != "sfpi":
                (runtime / entry.name).symlink_to(entry)
        install_compiler(runtime / "sfpi" / "compiler" / "bin", **_wanted_compiler(installed))
        (self.path / "cluster.yaml").write_text(board.cluster_descriptor)
        self._scratch = self.path / "scratch"
        for name in ("cache", "logs", "tmp"):
            (self._scratch / name).mkdir(parents=True)

    @property
    def was_used(self) -> bool:
        """Returns whether ttnn has taken this root: it then logs here when it opens the device."""
        return any((self._scratch / "logs").iterdir())

    @property
    def kernels(self) -> list[Path]:
        """Returns the folder of each kernel that ttnn has built, with the headers that it made for it.

        They are called `NAME/HASH`, where NAME is that of the kernel's source file.
        """
        return sorted((self._scratch / "cache").glob("*/kernels/*/*/"))

    @contextmanager
    def environment(self) -> Iterator[None]:
        """Points ttnn at this root while the context lasts. ttnn reads its environment once, at the first open."""
        wanted: dict[str, str | None] = {
            # It would choose among the mocked chips.
            "TT_VISIBLE_DEVICES": None,
            "TT_METAL_MOCK_CLUSTER_DESC_PATH": str(self.path / "cluster.yaml"),
            "TT_METAL_RUNTIME_ROOT": str(self.path),
            # ttnn appends file names to this one as they are.
            "TT_METAL_CACHE": f"{self._scratch / 'cache'}/",
            "TT_METAL_LOGS_PATH": str(self._scratch / "logs"),
            "TT_METAL_INSPECTOR_LOG_PATH": str(self._scratch / "logs" / "inspector"),
            # Its memory statistics in /dev/shm are shared by all processes that open a device with this serial number.
            "TT_METAL_SHM_TRACKING_DISABLED": "1",
            # ttnn starts MPI, which would leave a 16 MB segment in /dev/shm.
            "OMPI_MCA_btl": "self",
            # For the session folder of MPI.
            "TMPDIR": str(self._scratch / "tmp"),
            # Each warning of ttnn is a finding (docs/errata.md), but for those of what is mocked. "warning" is no level of it.
            "TT_METAL_LOGGER_LEVEL": os.environ.get("TT_METAL_LOGGER_LEVEL", "warn"),
            "TT_METAL_LOGGER_TYPES": os.environ.get("TT_METAL_LOGGER_TYPES", ",".join(LOGGED)),
        }
        before = {name: os.environ.get(name) for name in wanted}
        _set_environment(wanted)
        try:
            yield
        finally:
            _set_environment(before)


def _set_environment(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _installed_ttnn() -> Path:
    folder = ttnn_folder()
    if folder is None:
        raise ModuleNotFoundError("No module named 'ttnn'", name="ttnn")
    return folder


def _wanted_compiler(installed: Path) -> dict[str, str]:
    wanted = wanted_sfpi(installed)
    if missing := [f"sfpi_{name}" for name in ("version", "build") if name not in wanted]:
        raise RuntimeError(
            f"{installed / SFPI_TABLE}: expected entries sfpi_version and sfpi_build, got no {' nor '.join(missing)}"
        )
    return wanted
