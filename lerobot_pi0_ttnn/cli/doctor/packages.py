"""Python and the installed packages, against the ranges that the packages themselves declare."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from collections.abc import Iterable

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from ...ttnn_api.installed import PIP_INSTALLS
from .finding import Finding

DISTRIBUTION = "lerobot_policy_pi0_ttnn"

NUMPY_TRIED = SpecifierSet(">=2,<2.3")
"""What ttnn works with in this package's tests, whatever it declares (tenstorrent/tt-metal#30193)."""

INSTALL_OURS = "install this package (`uv sync` or `pip install .` in its checkout): it brings the ranges it works with"
INSTALL_TTNN = (
    f"with uv `uv sync`; with pip {', then '.join(f'`{command}`' for command in PIP_INSTALLS)}. Without it: "
    "--policy.backend=torch (`doctor --backend torch`)"
)


def installed_version(name: str) -> str | None:
    """Returns the version of an installed distribution; None where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def requirements(name: str) -> list[str]:
    """Returns what an installed distribution declares to need; nothing where it is not installed."""
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []


def python_range(name: str) -> str:
    """Returns the Python versions that an installed distribution declares; an empty string where it is not installed."""
    try:
        return importlib.metadata.metadata(name)["Requires-Python"] or ""
    except importlib.metadata.PackageNotFoundError:
        return ""


def declared_range(lines: Iterable[str], name: str) -> SpecifierSet:
    """Returns the versions of `name` that requirements (`numpy<2,>=1.24.4`) allow, in any extra; all where none names it."""
    found = SpecifierSet()
    for line in lines:
        requirement = Requirement(line)
        if requirement.name.lower() == name:
            found &= requirement.specifier
    return found


def import_failure(module: str, *, timeout_s: float = 180) -> str | None:
    """Returns the last line of what importing a module says, in a process of its own; None where it can be imported.

    A library for another processor or C library ends the process that loads it.
    """
    command = [sys.executable, "-c", f"import {module}"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        return f"`import {module}` did not end within {timeout_s:g} s"
    if result.returncode == 0:
        return None
    lines = result.stderr.strip().splitlines()
    if result.returncode < 0 or not lines:
        return f"`import {module}` ended the process with status {result.returncode}"
    return lines[-1]


def check_python(version: str, supported: str) -> Finding:
    """Whether this Python is one of those that our package declares."""
    if SpecifierSet(supported).contains(version, prereleases=True):
        return Finding("python", "ok", version)
    fix = f"make an environment with Python {supported}: `uv venv --python 3.12` fetches one"
    return Finding("python", "fail", f"{version}; expected {supported}", fix)


def check_plugin(version: str | None) -> Finding:
    """Whether our distribution is installed: LeRobot finds plug-ins by the names of distributions."""
    if version is not None:
        return Finding("plug-in", "ok", f"{DISTRIBUTION} {version}")
    found = f"{DISTRIBUTION} is not installed: LeRobot's commands would not know the policy type pi0_ttnn"
    return Finding("plug-in", "fail", found, INSTALL_OURS)


def check_package(name: str, version: str | None, supported: SpecifierSet) -> Finding:
    """Whether a package is there, in the range that who needs it declares."""
    if version is None:
        return Finding(name, "fail", "not installed", INSTALL_OURS)
    if not supported.contains(version, prereleases=True):
        return Finding(name, "fail", f"{version}; expected {supported}", f'`pip install "{name}{supported}"`')
    return Finding(name, "ok", version)


def check_numpy(version: str | None, by_lerobot: SpecifierSet, by_ttnn: SpecifierSet) -> Finding:
    """LeRobot's range binds. That of ttnn contradicts it, but is known to be too strict."""
    finding = check_package("numpy", version, by_lerobot)
    if finding.status == "fail" or version is None or by_ttnn.contains(version, prereleases=True):
        return finding
    if version in NUMPY_TRIED:
        explanation = f"{version}; ttnn declares {by_ttnn}, LeRobot {by_lerobot}: ttnn is known to work with it"
        return Finding("numpy", "ok", f"{explanation} (`pip check` complains all the same)")
    found = f"{version}; ttnn declares {by_ttnn}, and is known to work with {NUMPY_TRIED} only"
    return Finding("numpy", "warn", found, f'`pip install "numpy{NUMPY_TRIED}"`')


def check_ttnn(version: str | None, supported: SpecifierSet, failure: str | None, *, platform: str) -> Finding:
    """A missing ttnn is a failure, since it is the default backend, and nothing falls back in silence.

    Args:
        version: that of the installed distribution.
        supported: the versions that ours declares.
        failure: what its import says, see `import_failure`.
        platform: as `linux x86_64`.
    """
    if version is None and platform != "linux x86_64":
        found = f"not installed, and its wheels are for linux x86_64 only; this is {platform}"
        return Finding("ttnn", "fail", found, "use --policy.backend=torch (`doctor --backend torch`)")
    if version is None:
        return Finding("ttnn", "fail", "not installed: the default backend cannot run", INSTALL_TTNN)
    if failure is not None:
        return Finding("ttnn", "fail", f"{version} cannot be imported: {failure}", INSTALL_TTNN)
    if not supported.contains(version, prereleases=True):
        return Finding("ttnn", "fail", f"{version}; expected {supported}", INSTALL_TTNN)
    return Finding("ttnn", "ok", version)
