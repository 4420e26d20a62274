"""Which cameras a checkpoint takes, and by which names of the robot's."""

import shlex
from collections.abc import Iterator

from ..checkpoint.processors import STATE
from .problem import Problem, Severity, Subject

SUBJECT = "cameras"


def camera_aliases(subject: Subject) -> dict[str, str]:
    """Returns the robot's name of a camera -> the checkpoint's, by the renaming that is saved in the preprocessor.

    Only names that the checkpoint does not give a camera of its own: of those nobody could tell whether they are renamed yet.
    """
    cameras = subject.config.image_features
    renamed = subject.processors.rename_map.items()
    return {theirs: ours for theirs, ours in renamed if ours in cameras and theirs not in cameras}


def adopt_camera_aliases(subject: Subject) -> None:
    """Writes them into the config, and as features of the policy: LeRobot compares those with the robot's before it renames."""
    config, aliases = subject.config, camera_aliases(subject)
    cameras = config.image_features
    config.camera_aliases = {**config.camera_aliases, **aliases}
    config.input_features = {**config.input_features, **{theirs: cameras[ours] for theirs, ours in aliases.items()}}


def check_cameras_and_names(subject: Subject) -> Iterator[Problem]:
    """Yields what the saved renaming does, and where LeRobot's programs would do without it."""
    renamed, cameras = subject.processors.rename_map, subject.config.image_features
    if not cameras:
        yield _problem(
            "warning",
            "the config names none, and the model cannot act without a picture",
            "write the names that it was trained with into config.json (input_features); lerobot-eval takes the environment's",
        )
    aliases = camera_aliases(subject)
    if aliases:
        yield _problem("note", f"{_list(aliases)}, by the rename_map saved in the preprocessor", "")
    unclear = {theirs: ours for theirs, ours in renamed.items() if theirs in cameras and theirs != ours}
    unclear |= {theirs: ours for theirs, ours in renamed.items() if ours == STATE and theirs != ours}
    if unclear:
        flag = "{" + ", ".join(f'"{theirs}": "{ours}"' for theirs, ours in renamed.items()) + "}"
        yield _problem(
            "warning",
            f"{_list(unclear)}, by the rename_map saved in the preprocessor, which lerobot-eval and lerobot-rollout leave out",
            f"give them --rename_map={shlex.quote(flag)}",
        )
    astray = {
        theirs: ours for theirs, ours in renamed.items() if ours.startswith("observation.image") and ours not in cameras
    }
    if astray:
        yield _problem(
            "warning",
            f"{_list(astray)}, by the rename_map saved in the preprocessor, and the config has only {', '.join(cameras)}",
            "see that rename_map in policy_preprocessor.json names the config's cameras",
        )
    twice = sorted({ours for ours in renamed.values() if list(renamed.values()).count(ours) > 1})
    if twice:
        yield _problem(
            "warning",
            f"{', '.join(twice)} is renamed from more than one name, of which a robot may have only one",
            "leave the other camera out of --robot.cameras",
        )


def _list(names: dict[str, str]) -> str:
    return ", ".join(f"{theirs} is taken for {ours}" for theirs, ours in names.items())


def _problem(severity: Severity, message: str, fix: str) -> Problem:
    return Problem(severity, SUBJECT, message, fix)
