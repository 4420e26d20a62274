"""What a simulator needs to render, and what a checkpoint needs of this machine."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from .finding import Finding

PI0_BASE_PARAMETERS = 3_238_048_528
CACHE_BYTES = 3.7e9
"""Measured: the converted weights of pi0_base, balanced."""
RAM_BYTES = {"ttnn": 3.0e9, "torch": 6.3e9}
"""Measured: the peak while pi0_base loads and computes; on torch in bfloat16. Pages of the checkpoint's file can be dropped."""

GL_LIBRARIES = {"egl": ("EGL", "GL"), "osmesa": ("OSMesa",), "glfw": ("GL",)}
GL_FIX = {
    "egl": "`apt-get install libegl1 libgl1`",
    "osmesa": "`apt-get install libosmesa6`, or `export MUJOCO_GL=egl`",
    "glfw": "`export MUJOCO_GL=egl`",
}


def check_gl(environment: Mapping[str, str], find_library: Callable[[str], str | None]) -> Finding:
    """Whether MuJoCo's simulators (aloha) can render. PushT and a robot need none of it, so this never fails.

    Args:
        environment: MUJOCO_GL, and DISPLAY or WAYLAND_DISPLAY.
        find_library: `ctypes.util.find_library`.
    """
    chosen = environment.get("MUJOCO_GL", "").strip().lower()
    if chosen and chosen not in GL_LIBRARIES:
        found = f"MUJOCO_GL={chosen}: expected one of {', '.join(GL_LIBRARIES)}"
        return Finding("gl", "warn", found, "`export MUJOCO_GL=egl`")
    way = chosen or "egl"
    missing = [name for name in GL_LIBRARIES[way] if find_library(name) is None]
    if missing:
        found = (
            f"MUJOCO_GL={way} needs lib{' and lib'.join(missing)}, which the loader does not find; aloha cannot render"
        )
        return Finding("gl", "warn", found, GL_FIX[way])
    has_display = bool(environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"))
    if chosen == "glfw" and not has_display:
        return Finding("gl", "warn", "MUJOCO_GL=glfw, but there is no display", GL_FIX["glfw"])
    if not chosen and not has_display:
        found = "libEGL is there, but MUJOCO_GL is not set: without a display aloha under lerobot-eval cannot render"
        return Finding("gl", "warn", found, "`export MUJOCO_GL=egl` (`lerobot-pi0-ttnn demo` sets it itself)")
    return Finding("gl", "ok", f"MUJOCO_GL={chosen}" if chosen else "a display; MUJOCO_GL=egl would work, too")


@dataclass(frozen=True)
class Memory:
    """The host's memory, in bytes, within the limits of the container."""

    total: int
    available: int


def read_memory(meminfo: str, limits: Iterable[str]) -> Memory:
    """Returns what `/proc/meminfo` and control groups' limits (`max`, or bytes) leave to a process."""
    kib = {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+) kB", meminfo, re.MULTILINE)}
    bounds = [int(limit) for limit in limits if limit.strip().isdecimal()]
    total, available = (
        min(kib[name] * 1024, *bounds) if bounds else kib[name] * 1024 for name in ("MemTotal", "MemAvailable")
    )
    return Memory(total, available)


def check_memory(parameters: int, memory: Memory, *, backend: str) -> Finding:
    """Whether a checkpoint of so many parameters can be loaded."""
    need = RAM_BYTES[backend] * parameters / PI0_BASE_PARAMETERS
    found = (
        f"loading takes about {_gb(need)}{' in bfloat16, twice that in float32' if backend == 'torch' else ''}; "
        f"{_gb(memory.available)} of {_gb(memory.total)} available"
    )
    if memory.total < need:
        return Finding("memory", "fail", found, "use a machine (or a container's limit) with more memory")
    if memory.available < need:
        return Finding("memory", "warn", found, "end what else holds memory before the policy is loaded")
    return Finding("memory", "ok", found)


def check_disk(parameters: int, file_bytes: int, free_bytes: int, *, backend: str) -> Finding:
    """Whether the converted weights fit on the disk of their cache; without them each start converts anew."""
    found = f"the checkpoint's files take {_gb(file_bytes)}"
    if backend == "torch":
        return Finding("disk", "ok", found)
    need = CACHE_BYTES * parameters / PI0_BASE_PARAMETERS
    found += f", its converted weights about {_gb(need)} more (balanced); {_gb(free_bytes)} free"
    if free_bytes < need:
        fix = "make room, or name another disk: --policy.weight_cache_dir=FOLDER (or --policy.cache_weights=false)"
        return Finding("disk", "warn", found, fix)
    return Finding("disk", "ok", found)


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
