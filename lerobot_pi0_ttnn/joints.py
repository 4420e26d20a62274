"""Which joint of a robot each entry of a checkpoint's actions and states belongs to: by name, never by count alone.

LeRobot 0.6.1 saves the names of the actions in training as `action_feature_names`, and nothing of the states'; a robot that
gives its joints in another order is moved wrongly without a word. What a checkpoint calls `main_gripper` (LeRobot's data sets
of version 2) or `gripper` is a robot's `gripper.pos`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

MEANINGLESS = {"main", "pos", "position"}
"""Words in a joint's name that tell no joints apart. A velocity (`vel`) is not a position."""


@dataclass(frozen=True)
class JointOrder:
    """What goes where.

    Attributes:
        trained: names in the checkpoint's order; empty where it does not say.
        robot: the robot's joints in its own order.
        order: for each entry of the checkpoint the number of its joint in `robot`.
        by_name: whether names say so; otherwise entry i is joint i.
    """

    trained: tuple[str, ...]
    robot: tuple[str, ...]
    order: tuple[int, ...]
    by_name: bool

    @property
    def is_the_robots(self) -> bool:
        """Whether the robot has its joints in the checkpoint's order."""
        return self.order == tuple(range(len(self.robot)))

    @property
    def in_checkpoints_order(self) -> list[str]:
        """The robot's joints in the checkpoint's order."""
        return [self.robot[number] for number in self.order]

    @property
    def in_robots_order(self) -> list[int]:
        """For each of the robot's joints the number of its entry in the checkpoint."""
        return [self.order.index(number) for number in range(len(self.robot))]

    @property
    def is_certain(self) -> bool:
        """Whether there is nothing that a user should look at."""
        return self.by_name and self.is_the_robots

    def __str__(self) -> str:
        pairs = zip(self.trained or range(1, len(self.robot) + 1), self.in_checkpoints_order, strict=True)
        table = ", ".join(f"{entry} -> {joint}" for entry, joint in pairs)
        if not self.trained:
            return (
                f"the checkpoint does not name its joints (action_feature_names), so they go by position: {table}. See that "
                "this is the order of the training's data before the robot moves."
            )
        if not self.by_name:
            return (
                f"the checkpoint's joints have other names than the robot's, so they go by position: {table}. See that these "
                f"are the same joints before the robot moves, or say what they are called here: "
                "--policy.action_feature_names='[\"...\", ...]'."
            )
        return f"joints by name{'' if self.is_the_robots else ', in another order than the robot has them'}: {table}."


def names_of_actions(names: Sequence[str] | None, width: int) -> list[str] | None:
    """Returns the names of the actions, in order; None where it does not say.

    Args:
        names: its `action_feature_names`. LeRobot's older data sets name groups of actions: `motors` for all of them.
        width: number of its actions.
    """
    return [str(name) for name in names] if names and len(names) == width else None


def match_joints(trained: Sequence[str] | None, robot: Sequence[str]) -> JointOrder:
    """Returns what goes where.

    Args:
        trained: the checkpoint's names, in its order, see `names_of_actions`; None where it has none.
        robot: the robot's joints, in its order.

    Raises:
        ValueError: there are more or fewer of them, or some names are the robot's and others are not.
    """
    robot = tuple(robot)
    positions = tuple(range(len(robot)))
    if trained is None:
        return JointOrder((), robot, positions, by_name=False)
    trained = tuple(trained)
    if len(trained) != len(robot):
        raise ValueError(
            f"the checkpoint moves {len(trained)} joints ({', '.join(trained)}), the robot has {len(robot)} "
            f"({', '.join(robot)}); use the kind of robot that the checkpoint was trained on."
        )
    for spelled in (tuple, stems):
        ours, theirs = spelled(trained), spelled(robot)
        if len(set(theirs)) == len(theirs) and set(ours) == set(theirs):
            return JointOrder(trained, robot, tuple(theirs.index(name) for name in ours), by_name=True)
    known = set(stems(robot))
    unknown = [name for name, stem in zip(trained, stems(trained), strict=True) if stem not in known]
    if len(unknown) < len(trained):
        raise ValueError(
            f"the checkpoint moves {', '.join(trained)}; of these the robot has no {', '.join(unknown) or 'two alike'}, its "
            f"joints are {', '.join(robot)}. Use the robot that the checkpoint was trained on; if these are the same joints "
            "under other names, say the checkpoint's as the robot's, in the checkpoint's order: "
            "--policy.action_feature_names='[\"...\", ...]'."
        )
    return JointOrder(trained, robot, positions, by_name=False)


def stems(names: Sequence[str]) -> tuple[str, ...]:
    """Returns what each name says of its joint: `main_shoulder_pan` and `shoulder_pan.pos` say the same."""
    words = [re.findall(r"[a-z0-9]+", name.lower()) for name in names]
    return tuple("".join(word for word in spelled if word not in MEANINGLESS) for spelled in words)
