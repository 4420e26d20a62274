"""The commands of `examples/` and of the pages in `docs/`: bash runs them, and those who would read each command do.

Nothing here moves an arm: the programs are stand-ins that write down the command line they were given, which is then parsed
by the real program's own parser.
"""

import json
import os
import re
import runpy
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import draccus
import pytest
import torch
from lerobot.async_inference.configs import RobotClientConfig
from lerobot.configs import PreTrainedConfig, parser
from lerobot.configs.eval import EvalPipelineConfig
from lerobot.rollout import RolloutConfig
from lerobot.scripts import lerobot_rollout  # noqa: F401 - registers the robots and cameras
from lerobot.scripts.lerobot_calibrate import CalibrateConfig

from lerobot_pi0_ttnn import PI0TTNNPolicy, cli
from lerobot_pi0_ttnn.recording import read_recording
from tests.models import MODELS
from tests.processes import FAKE_ROBOT
from tests.robots import NAMES, events, in_degrees, moves, save_robot_checkpoint

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.sh"))
PAGES = [ROOT / "docs" / name for name in ("simulation.md", "robot.md", "remote.md")]
CLIENT = "lerobot.async_inference.robot_client"
STAND_IN = f"""#!{sys.executable}
import json, os, sys
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
"""


@pytest.fixture(autouse=True)
def the_types_stay_lerobots(monkeypatch):
    """`--discover_packages_path` has the plug-ins take the types over, here in the tests' own process."""
    for name in MODELS:
        monkeypatch.setitem(PreTrainedConfig._choice_registry, name, PreTrainedConfig.get_choice_class(name))
    yield
    for name in [name for name in sys.modules if name.startswith("lerobot_pi0_ttnn.plugins.")]:
        sys.modules.pop(name)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pi0")
    save_robot_checkpoint(folder)
    return folder


def calls(script: str, folder: Path, *arguments: str) -> list[list[str]]:
    """The command lines that bash makes of a script, each with the program's name first."""
    programs = folder / "bin"
    programs.mkdir()
    for name in (*PARSERS, *OTHERS):
        (programs / name).write_text(STAND_IN)
        (programs / name).chmod(0o755)
    (folder / "calls").touch()
    environment = os.environ | {
        "PATH": f"{programs}{os.pathsep}/usr/bin{os.pathsep}/bin",
        "CALLS": str(folder / "calls"),
    }
    command = ["bash", "-euo", "pipefail", "-c", script, *arguments]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in (folder / "calls").read_text().splitlines()]


def parse_lerobots(config_class, argv, monkeypatch):
    """As LeRobot's scripts do, whose configs look at `sys.argv` as well."""
    monkeypatch.setattr(sys, "argv", argv)

    @parser.wrap()
    def parse(config: config_class):
        return config

    return parse()


def parse_python(argv, monkeypatch):
    assert argv[1:3] == ["-m", CLIENT]
    return draccus.parse(RobotClientConfig, args=argv[3:])


def parse_ours(argv, monkeypatch):
    subcommand = cli.SUBCOMMANDS[argv[1]]
    if argv[1] == "serve":
        return subcommand.parse_flags(argv[2:])
    parsed = []
    monkeypatch.setattr(subcommand, "run", lambda options: parsed.append(options) or 0)
    assert cli.main(argv[1:]) == 0
    return parsed[0]


def parse_nothing(argv, monkeypatch):
    assert argv[1:] in ([], ["opencv"])


PARSERS = {
    "lerobot-rollout": lambda argv, monkeypatch: parse_lerobots(RolloutConfig, argv, monkeypatch),
    "lerobot-eval": lambda argv, monkeypatch: parse_lerobots(EvalPipelineConfig, argv, monkeypatch),
    "lerobot-calibrate": lambda argv, monkeypatch: draccus.parse(CalibrateConfig, args=argv[1:]),
    "lerobot-pi0-ttnn": parse_ours,
    "python": parse_python,
    "lerobot-find-port": parse_nothing,
    "lerobot-find-cameras": parse_nothing,
}
OTHERS = ("ssh", "uv", "pip", "make")
"""Run, and trusted."""


def parse_all(commands, monkeypatch):
    return {argv[0]: PARSERS[argv[0]](argv, monkeypatch) for argv in commands if argv[0] not in OTHERS}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example(example, checkpoint, tmp_path, monkeypatch):
    here = [] if example.stem != "so101_remote" else ["me@there"]
    commands = calls('"$@"', tmp_path, "bash", str(example), *here, str(checkpoint), "put the cube into the bowl")
    parsed = parse_all(commands, monkeypatch)
    config = parsed.get("lerobot-rollout") or parsed["python"]
    assert type(config.robot).__name__ == "SOFollowerRobotConfig"
    assert config.robot.max_relative_target == 10
    assert {name: (camera.width, camera.height) for name, camera in config.robot.cameras.items()} == {
        "front": (640, 480),
        "wrist": (640, 480),
    }
    assert config.task == "put the cube into the bowl"
    if example.stem == "so101_remote":
        assert config.policy_type == "pi0_ttnn"
        assert config.pretrained_name_or_path == str(checkpoint)
        opens, closes = [argv for argv in commands if argv[0] == "ssh"]
        assert opens[-3:] == ["-L", "8080:localhost:8080", "me@there"]
        assert closes[-3:] == ["-O", "exit", "me@there"]
    else:
        assert config.inference.type == ("rtc" if example.stem == "so101_rtc" else "sync")
        assert config.policy.pretrained_path == str(checkpoint)
        assert type(config.policy).__name__ == "PI0TTNNConfig"
        assert config.policy.backend == "ttnn"


def test_the_examples_are_there():
    assert [path.stem for path in EXAMPLES] == ["so101_remote", "so101_rollout", "so101_rtc"]


def test_the_loop(checkpoint, tmp_path, monkeypatch):
    """With a robot that is made of nothing, on the torch backend, until somebody presses Ctrl-C."""
    monkeypatch.syspath_prepend(str(FAKE_ROBOT))
    from lerobot_robot_fake import FakeRobot, FakeRobotConfig

    configs = []

    def robot(config):
        configs.append(config)
        joints = len(NAMES)
        return FakeRobot(
            FakeRobotConfig(diary=tmp_path / "diary", joints=joints, cameras=config.cameras, stop_after=60)
        )

    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a terminal's process has
    recording = tmp_path / "recording.jsonl"
    options = {"architecture": "tiny", "backend": "torch", "recording_path": recording}
    monkeypatch.setattr("lerobot.robots.so_follower.SO101Follower", robot)
    monkeypatch.setattr("lerobot.utils.robot_utils.precise_sleep", lambda seconds: None)
    monkeypatch.setattr(PI0TTNNPolicy, "from_pretrained", partial(PI0TTNNPolicy.from_pretrained, **options))
    monkeypatch.setattr(sys, "argv", ["so101_loop.py", str(checkpoint), "put the cube into the bowl"])
    runpy.run_path(str(ROOT / "examples" / "so101_loop.py"))
    assert (configs[0].max_relative_target, list(configs[0].cameras)) == (10, ["front", "wrist"])
    assert events(tmp_path / "diary") == ["connected", "disconnected"]
    want = torch.cat([in_degrees(chunk) for _, _, chunk in read_recording(recording).chunks])
    torch.testing.assert_close(moves(tmp_path / "diary"), want[:60], rtol=0, atol=1e-3)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_a_page(page, checkpoint, tmp_path, monkeypatch):
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL)
    assert blocks
    script = "\n".join(blocks).replace("CHECKPOINT", str(checkpoint))
    commands = calls(script, tmp_path)
    assert {argv[0] for argv in commands} & PARSERS.keys()
    parse_all(commands, monkeypatch)
