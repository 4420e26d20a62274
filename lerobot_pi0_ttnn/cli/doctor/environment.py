"""Environment variables that point ttnn elsewhere than at a card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .finding import Finding

MOCK = "TT_METAL_MOCK_CLUSTER_DESC_PATH"
SIMULATOR = "TT_METAL_SIMULATOR"
SLOW_DISPATCH = "TT_METAL_SLOW_DISPATCH_MODE"
ROOTS = ("TT_METAL_RUNTIME_ROOT", "TT_METAL_HOME")
PREFIXES = ("TT_METAL_", "TT_VISIBLE_DEVICES", "TT_MM_THROTTLE_PERF")
TIMEOUT = "TT_METAL_OPERATION_TIMEOUT_SECONDS"
THROTTLE = "TT_MM_THROTTLE_PERF"
LEAST_TIMEOUT = 10.0
"""Below it ttnn was seen to take a card with a long trace for a hung one (tt-metal #40370: at 5 s)."""


def check_environment(environment: Mapping[str, str]) -> Finding:
    """Whether ttnn, in this environment, would open what the user thinks it opens."""
    set_here = {name: value for name, value in environment.items() if name.startswith(PREFIXES) and value}
    if MOCK in set_here:
        found = f"{MOCK} is set: ttnn would open a mocked card, which computes nothing; this package refuses that"
        return Finding("environment", "fail", found, f"`unset {MOCK}`, or use --policy.board=emulated:n150")
    if SIMULATOR in set_here:
        return _check_simulator(Path(set_here[SIMULATOR]), set_here)
    if SLOW_DISPATCH in set_here:
        found = f"{SLOW_DISPATCH} is set, but {SIMULATOR} is not: a card would run without its command queues"
        return Finding("environment", "warn", found, f"`unset {SLOW_DISPATCH}`")
    if moved := [f"{name}={set_here[name]}" for name in ROOTS if name in set_here]:
        found = f"{', '.join(moved)}: ttnn takes its kernels and its compiler from there, not from its package"
        return Finding("environment", "warn", found, f"`unset {' '.join(ROOTS)}`, unless it is of the same ttnn")
    if "TT_METAL_CORE_GRID_OVERRIDE_TODEPRECATE" in set_here:
        found = "TT_METAL_CORE_GRID_OVERRIDE_TODEPRECATE is set: ttnn uses a part of the card only"
        return Finding("environment", "warn", found, "`unset TT_METAL_CORE_GRID_OVERRIDE_TODEPRECATE`")
    if set_here.get("TT_METAL_VISIBLE_DEVICES") and "TT_VISIBLE_DEVICES" not in set_here:
        found = "TT_METAL_VISIBLE_DEVICES is set, which ttnn 0.81 reads and does not follow: it sees every card"
        return Finding("environment", "warn", found, "`export TT_VISIBLE_DEVICES=...` instead")
    if TIMEOUT in set_here and not _is_number(set_here[TIMEOUT], least=LEAST_TIMEOUT):
        found = f"{TIMEOUT}={set_here[TIMEOUT]}: " + (
            "a card that hangs is waited for for ever"
            if _is_number(set_here[TIMEOUT]) and float(set_here[TIMEOUT]) == 0
            else f"expected at least {LEAST_TIMEOUT:g} s: below, cards that work were taken for hung ones"
        )
        return Finding("environment", "warn", found, f"`unset {TIMEOUT}`: this package then sets 30 s")
    if THROTTLE in set_here:
        level = set_here[THROTTLE]
        if level not in ("1", "2", "3", "4", "5"):
            found = f"{THROTTLE}={level}: ttnn ignores it, and matmuls run at full speed"
            return Finding("environment", "warn", found, f"`export {THROTTLE}=1` (to 5, the slowest), or unset it")
        found = f"{THROTTLE}={level}: every matmul is slowed down, to 73, 67, 50, 40 or 33 % of its rate from 1 to 5"
        return Finding("environment", "warn", found, f"`unset {THROTTLE}`, unless the card hangs without it")
    return Finding("environment", "ok", ", ".join(sorted(set_here)) or "no TT_METAL_* variable is set")


def _is_number(text: str, *, least: float = 0.0) -> bool:
    try:
        return float(text) >= least
    except ValueError:
        return False


def _check_simulator(library: Path, environment: Mapping[str, str]) -> Finding:
    missing = [path for path in (library, library.with_name("soc_descriptor.yaml")) if not path.is_file()]
    if missing:
        found = f"{SIMULATOR}={library}, but there is no {' and no '.join(map(str, missing))}"
        fix = f'see "On the simulator" in the README, or `unset {SIMULATOR}`'
        return Finding("environment", "fail", found, fix)
    if SLOW_DISPATCH not in environment:
        found = f"{SIMULATOR}={library}: ttnn opens the simulator, in fast dispatch, which takes far longer"
        return Finding("environment", "warn", found, f"`export {SLOW_DISPATCH}=1`")
    found = f"{SIMULATOR}={library}: ttnn opens the simulator (real kernels, no timing), not a card"
    return Finding("environment", "warn", found, f"`unset {SIMULATOR}` to use a card")
