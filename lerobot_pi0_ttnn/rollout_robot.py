"""The robot that this process's `lerobot-rollout` will connect, to compare its joints with the checkpoint's before it moves.

LeRobot hands a policy no names: a state is a row of numbers in the robot's order, and so is an action under its sync engine,
whatever `action_feature_names` says (its engine for real-time chunking sorts actions by name, and states not).
"""

import json
import logging
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import draccus
from draccus.cfgparsing import load_config
from lerobot.configs import parser
from lerobot.utils.constants import ACTION

from .configuration_pi0_ttnn import PI0TTNNConfig
from .joints import match_joints, names_of_actions

logger = logging.getLogger(__name__)

ROLLOUT = "lerobot.rollout"
"""What `lerobot-rollout` imports, and nobody else: another program may have flags of the same names."""

SCALARS = (".pos", ".vel")
"""Of what a robot gives and takes, what LeRobot's rollout routes to a policy."""


def check_rollout(config: PI0TTNNConfig, where: str) -> None:
    """Says which joint goes where, for the robot of `lerobot-rollout`'s command line; does nothing in any other program.

    It is called where LeRobot builds the policy, which is before it connects the robot, and hands over neither the robot nor
    its config.

    Args:
        config: the policy's.
        where: the checkpoint, for messages.

    Raises:
        ValueError: the robot's joints are not the checkpoint's, or in another order, which LeRobot's rollout would not heed.
    """
    robot = robot_of_command_line() if ROLLOUT in sys.modules else None
    if robot is None:
        return
    names, width = scalars(robot.action_features), config.action_feature.shape[0]
    if width not in (len(names), config.max_action_dim):
        raise ValueError(
            f"{where}: trained with {width} actions, the robot has {len(names)} ({', '.join(names)}); use the kind of robot "
            "that the checkpoint was trained on."
        )
    try:
        joints = match_joints(names_of_actions(config.action_feature_names, width), names)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if not joints.is_the_robots:
        raise ValueError(
            f"{where}: {joints} lerobot-rollout hands a policy the joints in the robot's order, and would move the wrong ones. "
            "Run it through `lerobot-pi0-ttnn serve` and LeRobot's robot_client, which sorts them by name, or have the robot's "
            "driver name its joints in the checkpoint's order."
        )
    logger.log(logging.INFO if joints.is_certain else logging.WARNING, "%s: %s", where, joints)


def check_data_set(meta: Any, saved: PI0TTNNConfig, where: str) -> None:
    """Raises ValueError where a data set has other joints than the checkpoint, or in another order.

    LeRobot's factory, asked for a policy for a data set, writes the data set's names over the checkpoint's.

    Args:
        meta: the data set's, LeRobot's `LeRobotDatasetMetadata`.
        saved: the checkpoint's own config.
        where: the checkpoint, for messages.
    """
    actions = meta.features.get(ACTION, {})
    names, width = actions.get("names"), saved.action_feature.shape[0]
    trained, given = names_of_actions(saved.action_feature_names, width), names_of_actions(names and list(names), width)
    if trained is None or given is None:
        return
    try:
        joints = match_joints(trained, given)
    except ValueError as error:
        raise ValueError(f"{where}: of the data set's actions as a robot's: {error}") from None
    if not joints.is_the_robots:
        raise ValueError(
            f"{where}: {joints} Here the data set is the robot; give its joints in the checkpoint's order."
        )


def scalars(features: Mapping[str, Any]) -> list[str]:
    """Returns the joints among a robot's features, in its order."""
    return [name for name, kind in features.items() if kind is float and name.endswith(SCALARS)]


def robot_of_command_line() -> Any:
    """Returns the robot that `--robot.*` or `--config_path` describes, not connected; None where they describe none.

    LeRobot demands of a robot that it can say its features without being connected.
    """
    from lerobot.robots import RobotConfig, make_robot_from_config

    @dataclass
    class Described:
        robot: RobotConfig | None = None

    described = _robot_section(parser.parse_arg("config_path"))
    kind = parser.get_type_arg("robot")
    if kind is None and described is None:
        return None
    flags = [f"--type={kind}"] if kind else []
    plug_ins = f"robot.{parser.PLUGIN_DISCOVERY_SUFFIX}"
    flags += parser.get_cli_overrides("robot", parser.filter_arg(plug_ins, sys.argv[1:])) or []
    arguments = [f"--robot.{flag.removeprefix('--')}" if flag.startswith("--") else flag for flag in flags]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "robot.json"
        file.write_text(json.dumps({} if described is None else {"robot": described}))
        config = draccus.parse(Described, file, args=arguments).robot
    return make_robot_from_config(config)


def _robot_section(path: str | None) -> dict[str, Any] | None:
    if path is None or not Path(path).is_file():
        return None
    with Path(path).open() as file:
        section: dict[str, Any] | None = load_config(file, file=path).get("robot")
    return section
