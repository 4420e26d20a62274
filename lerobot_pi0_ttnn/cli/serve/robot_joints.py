"""Which of a client's joints each entry of the checkpoint's states and actions belongs to.

LeRobot's client says what its states are called and in which order they come, and nothing of its actions: they are taken to
come in the order of the states, as those of LeRobot's own robots do.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lerobot.utils.constants import OBS_STATE

from ...configuration_pi0_ttnn import PI0TTNNConfig
from ...joints import match_joints, names_of_actions, stems


@dataclass(frozen=True)
class ClientJoints:
    """What goes where.

    Attributes:
        states: the robot's names in the order in which the checkpoint takes its states.
        actions: for each of the robot's actions the number of the checkpoint's; None where they are as they come.
        note: what a user should know before the robot moves.
        is_certain: whether there is nothing in it that needs a look.
    """

    states: list[str]
    actions: list[int] | None
    note: str
    is_certain: bool

    def among(self, features: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the client's features with its states in the checkpoint's order."""
        if OBS_STATE not in features:
            return dict(features)
        return {**features, OBS_STATE: {**features[OBS_STATE], "names": self.states}}


def match_client(config: PI0TTNNConfig, features: Mapping[str, Any], where: str) -> ClientJoints:
    """Returns what goes where.

    Args:
        config: the checkpoint's.
        features: what the client sends, as LeRobot names it.
        where: the checkpoint, for messages.

    Raises:
        ValueError: the robot has not the joints that the checkpoint moves, or it cannot be said in which order its states go.
    """
    states = list(features[OBS_STATE]["names"]) if OBS_STATE in features else []
    width = config.action_feature.shape[0]
    trained = names_of_actions(config.action_feature_names, width)
    if trained is None and width not in (len(states), config.max_action_dim):
        return ClientJoints(states, None, _unknown([f"{width} joints that it does not name"], states), is_certain=False)
    # Where a robot says more of its joints than where they are (velocities, torques), actions are of some of its states.
    moved = states
    if trained and len(trained) != len(states):
        wanted = set(stems(trained))
        moved = [name for name, stem in zip(states, stems(states), strict=True) if stem in wanted]
        if len(moved) != len(trained):
            return ClientJoints(states, None, _unknown(trained, states), is_certain=False)
    try:
        joints = match_joints(trained, moved)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if joints.is_the_robots:
        return ClientJoints(states, None, str(joints), joints.is_certain)
    if len(moved) != len(states):
        raise ValueError(
            f"{where}: {joints} The robot has {len(states)} states ({', '.join(states)}), whose order in training the "
            "checkpoint does not say: have the robot's driver name its joints in the checkpoint's order."
        )
    return ClientJoints(joints.in_checkpoints_order, joints.in_robots_order, str(joints), is_certain=False)


def _unknown(trained: list[str], states: list[str]) -> str:
    return (
        f"the checkpoint moves {', '.join(trained)}; the robot's states are {', '.join(states)}, and its client does not say "
        "what its actions are called: they go by position. See that this is the order of training before the robot moves."
    )
