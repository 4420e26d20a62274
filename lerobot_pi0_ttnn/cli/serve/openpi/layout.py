"""Which of the checkpoint's features each key of a client's observation is, and the batch that is made of one."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from lerobot.utils.constants import OBS_IMAGES, OBS_STATE

from ....checkpoint.processors import SavedProcessors
from ....configuration_pi0_ttnn import PI0TTNNConfig
from ..observation import Frame, frame_of, prepare
from .embodiments import BASE, Camera, Embodiment

EMPTY = f"{OBS_IMAGES}.empty_camera_"
"""How LeRobot names the cameras that a checkpoint was trained without (`PI0Config.empty_cameras`)."""

MAX_DEPTH = 8


@dataclass(frozen=True)
class Layout:
    """Of a client's observations, for one checkpoint.

    Attributes:
        embodiment: what the client sends.
        names: the client's key of a camera -> what the preprocessor takes it by.
        features: the same key -> the checkpoint's feature.
        notes: what should be known before the robot moves.
        default_prompt: the task, where an observation does not say.
    """

    embodiment: Embodiment
    names: dict[str, str]
    features: dict[str, str]
    notes: tuple[str, ...]
    default_prompt: str | None

    def __str__(self) -> str:
        pictures = ", ".join(f"{key} -> {feature}" for key, feature in self.features.items())
        state = ", ".join(f"{key} [{width}]" for key, width in self.embodiment.state)
        return f"{pictures}; {state} -> {OBS_STATE}"

    def read(self, observation: Any) -> dict[str, Any]:
        """Returns the batch of one row that the preprocessor takes, as the function that LeRobot's rollout uses makes it.

        Images (1, 3, H, W) float32 in [0, 1], of the size that the client sent them; the state (1, n) float32; `task`.

        Args:
            observation: as the client sent it. Pictures (H, W, 3) or (3, H, W), uint8 or floating point in [0, 1].

        Raises:
            ValueError: something is missing, or not what it should be; all of the keys that are missing are named.
        """
        sent = flat(observation)
        self._check_keys(sent)
        frame: dict[str, Frame] = {}
        for key, name in self.names.items():
            if key in sent:
                picture = frame_of(_array(sent[key], key), key)
                frame[name] = (
                    picture if picture.flags.writeable else picture.copy()
                )  # torch warns of what it may not write
        frame[OBS_STATE] = np.concatenate([_numbers(sent[key], key, width) for key, width in self.embodiment.state])
        return prepare(frame, task=self._prompt(sent))

    def differences(self, observation: Any) -> list[str]:
        """Returns what an observation that `read` has found good lacks or has besides, for its client's user."""
        sent = flat(observation)
        absent = [key for key in self.names if key not in sent and self.features[key] not in self._pictured(sent)]
        cameras = [camera.key for camera in self.embodiment.cameras]
        known = {*cameras, *(key for key, _ in self.embodiment.state), *self.embodiment.prompts}
        besides = sorted(sent.keys() - known)
        said = [f"no {', '.join(absent)} in the observations: the model sees nothing there"] if absent else []
        return said + ([f"not used of the observations: {', '.join(besides)}"] if besides else [])

    def _pictured(self, sent: Mapping[str, Any]) -> list[str]:
        return [self.features[key] for key in self.names if key in sent]

    def _check_keys(self, sent: Mapping[str, Any]) -> None:
        cameras = self.embodiment.cameras
        wanted = [camera.key for camera in cameras if camera.is_required and camera.key in self.names]
        wanted += [key for key, _ in self.embodiment.state]
        got = f"{self.embodiment.name}: the observation has {', '.join(sorted(sent)) or 'nothing'}"
        if missing := [key for key in wanted if key not in sent]:
            raise ValueError(f"{got}; it lacks {', '.join(missing)}.")
        pictures = self.embodiment.pictures
        known = {camera.key for camera in cameras}
        if astray := [key for key in sent if pictures and key.startswith(pictures) and key not in known]:
            raise ValueError(f"{got}; of the cameras {', '.join(sorted(known))} none is {', '.join(astray)}.")
        pictured = self._pictured(sent)
        if not pictured:
            raise ValueError(f"{got}; it needs at least one picture: {', '.join(self.names)}.")
        if twice := sorted({feature for feature in pictured if pictured.count(feature) > 1}):
            raise ValueError(f"{got}; more than one of its pictures is {', '.join(twice)} to the checkpoint.")

    def _prompt(self, sent: Mapping[str, Any]) -> str:
        """Returns the task: openpi's clients send it as text, bytes, or either in an array of one."""
        keys = [key for key in self.embodiment.prompts if sent.get(key) is not None]
        if not keys:
            if self.default_prompt is None:
                raise ValueError(
                    f"{self.embodiment.name}: the observation has no {self.embodiment.prompts[0]}, the text of the task; "
                    "send one, or start the server with --default-prompt."
                )
            return self.default_prompt
        prompt = sent[keys[0]]
        if isinstance(prompt, np.ndarray) and prompt.size == 1:
            prompt = prompt.item()
        if isinstance(prompt, bytes):
            try:
                prompt = prompt.decode()
            except UnicodeDecodeError as error:
                raise ValueError(f"{keys[0]}: expected text, got bytes that are not UTF-8.") from error
        if not isinstance(prompt, str):
            raise ValueError(f"{keys[0]}: expected text, got {type(prompt).__name__}.")
        return str(prompt)


def flat(observation: Any) -> dict[str, Any]:
    """Returns an observation with the keys of nested dicts joined by `/`; one that has it so already is as it was.

    Raises:
        ValueError: it is not a dict, or a key is not text, or dicts are nested deeper than any client does.
    """
    if not isinstance(observation, dict):
        raise ValueError(f"expected an observation, a dict, got {type(observation).__name__}.")
    return dict(_leaves(observation, ""))


def _leaves(tree: Mapping[Any, Any], prefix: str, depth: int = 1) -> Iterator[tuple[str, Any]]:
    if depth > MAX_DEPTH:
        raise ValueError(f"expected an observation of at most {MAX_DEPTH} dicts in one another, got more.")
    for key, value in tree.items():
        if not isinstance(key, str):
            raise ValueError(f"expected an observation's keys to be text, got {key!r}.")
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}/", depth + 1)
        else:
            yield f"{prefix}{key}", value


def _array(value: Any, key: str) -> Frame:
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{key}: expected an array, got a list whose parts differ in length.") from error


def _numbers(value: Any, key: str, width: int) -> Frame:
    """Returns (width,) float32.

    Args:
        value: as many numbers, an array or a list; or one number where it is one.
        key: for messages.
        width: how many.
    """
    array = _array(value, key)
    if array.ndim == 0 and width == 1:
        array = array[np.newaxis]
    if array.shape != (width,) or array.dtype.kind not in "iuf":
        raise ValueError(f"{key}: expected {width} numbers, got {array.dtype} {array.shape}.")
    if not np.isfinite(array).all():
        where = ", ".join(map(str, np.flatnonzero(~np.isfinite(array))))
        raise ValueError(f"{key}: holds NaN or infinity at {where}; check the robot's sensors.")
    return array.astype(np.float32)


def match_layout(
    embodiment: Embodiment,
    config: PI0TTNNConfig,
    processors: SavedProcessors,
    where: str,
    default_prompt: str | None = None,
) -> Layout:
    """Returns the layout of an embodiment's observations for a checkpoint.

    Args:
        embodiment: what clients send.
        config: the checkpoint's, its features settled.
        processors: the checkpoint's.
        where: the checkpoint, for messages.
        default_prompt: the task, where an observation does not say.

    Raises:
        ValueError: the checkpoint is of another kind of robot, or it cannot be said which camera is which.
    """
    for kind, feature, width, stats in (
        ("states", config.robot_state_feature, embodiment.state_dim, processors.state_stats),
        ("actions", config.action_feature, embodiment.action_dim, processors.action_stats),
    ):
        if stats and feature.shape[0] != width:
            raise ValueError(
                f"{where}: trained with {kind} of {feature.shape[0]} values, {embodiment.name} has {width}; use a checkpoint "
                "of that robot, or another --embodiment (`lerobot`: clients that send the checkpoint's own keys)."
            )
    cameras = list(config.image_features)
    renamed = config.camera_aliases | processors.rename_map
    names = {camera.key: name for camera in embodiment.cameras if (name := _name_in(camera, cameras, renamed))}
    features = {key: renamed.get(name, name) for key, name in names.items()}
    unused = [camera.key for camera in embodiment.cameras if camera.key not in names]
    unseen = [key for key in cameras if key not in features.values() and not key.startswith(EMPTY)]
    needed = [camera for camera in embodiment.cameras if camera.is_required]
    taken = [features[camera.key] for camera in needed if camera.key in features]
    if not names or len(set(taken)) < len(taken) or (unseen and len(taken) < len(needed)):
        raise ValueError(_unclear(embodiment, cameras, features, where))
    notes = (
        [f"{', '.join(unused)} of {embodiment.name} is not used: the checkpoint has no such camera"] if unused else []
    )
    if unseen:
        notes.append(
            f"{', '.join(unseen)} of the checkpoint is in no observation of {embodiment.name}: the model sees nothing there"
        )
    if embodiment.advice and f"{OBS_IMAGES}.{BASE}" in cameras:
        notes.append(f"the checkpoint's cameras have openpi's names, so it may be a converted one; {embodiment.advice}")
    return Layout(embodiment, names, features, tuple(notes), default_prompt)


def _name_in(camera: Camera, cameras: list[str], renamed: Mapping[str, str]) -> str | None:
    return next((name for name in camera.features if renamed.get(name, name) in cameras), None)


def _unclear(embodiment: Embodiment, cameras: list[str], features: Mapping[str, str], where: str) -> str:
    looked_for = "; ".join(
        f"{camera.key}: {features.get(camera.key) or 'none of ' + ', '.join(camera.features)}"
        for camera in embodiment.cameras
    )
    example = f'{{"{embodiment.cameras[0].features[0]}": "{cameras[0] if cameras else "observation.images.x"}"}}'
    return (
        f"{where}: trained with the cameras {', '.join(cameras) or 'none'}, of which the pictures of {embodiment.name} are: "
        f"{looked_for}. Say which is which, e.g. --policy.camera_aliases='{example}'."
    )
