"""Who may import whom, and what an import may not do."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import lerobot_pi0_ttnn

ROOT = Path(lerobot_pi0_ttnn.__file__).parent

LAYERS = [
    {"ttnn_api", "latency", "deviation", "joints", "device.cards", "device.failure"},
    {"model"},
    {"frames", "observation", "recording", "checkpoint", "reference", "tt", "emulation"},
    {"device"},
    {
        "configuration_pi0_ttnn",
        "configuration_pi05_ttnn",
        "config_loading",
        "pipeline_artifacts",
        "review",
        "processor_pi0_ttnn",
        "processor_pi05_ttnn",
        "backend",
        "action_limits",
        "certificate",
        "latency_report",
        "rollout_robot",
        "modeling_pi0_ttnn",
        "modeling_pi05_ttnn",
        "policy_loading",
        "plugins",
    },
    {"demo", "analysis", "cli", "__main__"},
]
"""A module imports from its own layer or from those before it. What is named `room.module` is not in its room's layer."""

ONLY = {"ttnn_api": set(), "emulation": {"ttnn_api"}}
"""Rooms that import from no others than these."""

IMPORTED_BY = {"analysis": {"cli"}}
"""Rooms that only these import from: a run needs none of them."""

SEES_LEROBOT = LAYERS[4] | LAYERS[5]
SEES_TTNN = {"ttnn_api", "tt", "device", "emulation", "analysis"}


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0] not in ("__init__", "_lerobot_plugin"):
            yield pytest.param(path, parts, id="/".join(parts))


def imports(path: Path, parts: tuple[str, ...]) -> set[tuple[str, ...]]:
    """Absolute names of all that a file imports; ours as ("lerobot_pi0_ttnn", ...)."""
    package = ("lerobot_pi0_ttnn", *parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = (*base, *(node.module.split(".") if node.module else ()))
            found |= {(*module, alias.name) for alias in node.names}
    return found


def layer_of(parts: tuple[str, ...]) -> int:
    """Which layer a module, or something in it, is of."""
    return next(
        number for name in (".".join(parts[:2]), parts[0]) for number, names in enumerate(LAYERS) if name in names
    )


@pytest.mark.parametrize(("path", "parts"), modules())
def test_imports_go_down(path, parts):
    layer = layer_of(parts)
    for name in imports(path, parts):
        if name[0] == "lerobot_pi0_ttnn" and len(name) > 1:
            assert layer_of(name[1:]) <= layer, f"{'/'.join(parts)} imports {'.'.join(name)}"
            if parts[0] != name[1]:
                assert name[1] in ONLY.get(parts[0], {name[1]}), f"{'/'.join(parts)} imports {'.'.join(name)}"
                assert parts[0] in IMPORTED_BY.get(name[1], {parts[0]}), f"{'/'.join(parts)} imports {'.'.join(name)}"
            assert {parts[0], name[1]} != {"tt", "reference"}, "the twins do not know each other"
        if name[0] == "lerobot":
            assert parts[0] in SEES_LEROBOT, f"{'/'.join(parts)} imports {'.'.join(name)}"
        if name[0] == "ttnn":
            assert parts[0] in SEES_TTNN, f"{'/'.join(parts)} imports ttnn"


def test_importing_everything_opens_nothing():
    """LeRobot's plug-in loader imports every first-level module; ttnn is imported when a board is opened."""
    program = (
        "import importlib, pkgutil, sys, lerobot_pi0_ttnn as package\n"
        "assert 'lerobot_pi0_ttnn.modeling_pi0_ttnn' not in sys.modules, 'the package itself is light'\n"
        "for module in pkgutil.iter_modules(package.__path__): importlib.import_module('lerobot_pi0_ttnn.' + module.name)\n"
        "import lerobot_pi0_ttnn.device.board\n"
        "from lerobot.configs import PreTrainedConfig\n"
        "assert 'pi0_ttnn' in PreTrainedConfig.get_known_choices()\n"
        "assert PreTrainedConfig.get_choice_class('pi0').__module__.startswith('lerobot.'), 'pi0 was taken over unasked'\n"
        "assert 'ttnn' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_wheel_has_every_package():
    """The list is written by hand, for the shim beside the package that LeRobot's discovery needs."""
    listed = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    packages = {".".join((ROOT.name, *file.parent.relative_to(ROOT).parts)) for file in ROOT.rglob("__init__.py")}
    assert set(listed) == packages - {"lerobot_pi0_ttnn._lerobot_plugin"} | {"lerobot_policy_pi0_ttnn"}
