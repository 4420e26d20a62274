"""ttnn's kernel compiler, sfpi: ttnn compiles its kernels on first use, and its wheel does not carry the compiler."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from ...ttnn_api.installed import SFPI_TABLE, wanted_sfpi
from .finding import Finding, Status

SYSTEM_FOLDER = Path("/opt/tenstorrent/sfpi")
COMPILER = Path("compiler/bin/riscv-tt-elf-g++")


def compiler_banner(compiler: Path) -> str:
    """Returns the first line of the compiler's `--version`, or why it does not run."""
    try:
        result = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return (result.stdout or result.stderr).strip().partition("\n")[0]


def check_compiler(
    root: Path, system: Path, *, banner: Callable[[Path], str], real_kernels: bool, machine: str
) -> Finding:
    """Whether ttnn will find its compiler, of the release it wants.

    Args:
        root: ttnn's runtime root: its package, or where TT_METAL_RUNTIME_ROOT points.
        system: where else ttnn looks, `SYSTEM_FOLDER`.
        banner: see `compiler_banner`.
        real_kernels: there is a card or a simulator; emulated boards bring a stand-in of their own.
        machine: the processor, as `x86_64`.
    """
    status: Status = "fail" if real_kernels else "warn"
    wanted = wanted_sfpi(root).get("version")
    release = f"release {wanted}" if wanted else f"the release that {root / SFPI_TABLE} should name"
    page = "https://github.com/tenstorrent/sfpi/releases" + (f"/tag/{wanted}" if wanted else "")
    fix = f"install {release} for {machine} (.deb, .rpm, or the .txz unpacked to {system}) from {page}"
    for folder in (root / "runtime" / "sfpi", system):
        if not (folder / COMPILER).is_file():
            continue
        line = banner(folder / COMPILER)
        version = re.search(r"tenstorrent/sfpi:([\w.]+)", line)
        if version is None:
            return Finding("kernel compiler", status, f"{folder / COMPILER} does not say its version: {line!r}", fix)
        if version.group(1) != wanted:
            found = f"{folder}: {version.group(1)}; this ttnn wants {wanted or 'a release that it does not name'}"
            return Finding("kernel compiler", "warn", found, fix)
        return Finding("kernel compiler", "ok", f"{folder}: {wanted}, as this ttnn wants")
    found = f"none in {root / 'runtime' / 'sfpi'} or {system}: ttnn's wheel does not carry sfpi"
    if not real_kernels:
        found += "; a card or the simulator needs it, an emulated board does not"
    return Finding("kernel compiler", status, found, fix)
