"""A robot's observation as it comes through LeRobot's async protocol, to the batch that LeRobot's rollout would make of it.

LeRobot's own server (`async_inference/helpers.py::resize_robot_observation_image`) stretches each frame to the height and
width that the checkpoint's config names, whatever its aspect, before the policy fits it into its square. Its rollout hands over
the frame as the camera took it, and so does this: one picture makes one model input.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lerobot.policies.utils import prepare_observation_for_inference
from lerobot.utils.constants import OBS_IMAGES, OBS_STR
from lerobot.utils.feature_utils import build_dataset_frame

CHANNELS = 3
Frame = np.ndarray[Any, Any]


def read_observation(raw: Mapping[str, Any], features: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the batch of one row that the preprocessor takes, as the function that LeRobot's rollout uses makes it.

    Images (1, 3, H, W) float32 in [0, 1], of the size that the camera took them; the state (1, n) float32; `task`.

    Args:
        raw: what the client sent: for each joint a number, for each camera a frame, see `frame_of`, and `task`.
        features: what the client said that it would send, as LeRobot names it.

    Raises:
        ValueError: a joint or a camera is missing, or a frame is not a picture in colours.
    """
    wanted = [name for key in features for name in _sources(key, features[key])]
    missing = [name for name in wanted if name not in raw]
    if missing:
        raise ValueError(
            f"the robot's observation lacks {', '.join(missing)}, which its client announced; look at the robot's end why."
        )
    frame = build_dataset_frame(dict(features), dict(raw), OBS_STR)
    pictures = {key: frame_of(value, key) for key, value in frame.items() if key.startswith(OBS_IMAGES)}
    return prepare({**frame, **pictures}, task=raw.get("task"))


def prepare(frame: Mapping[str, Frame], task: str | None) -> dict[str, Any]:
    """Returns the batch of one row that LeRobot's `prepare_observation_for_inference` makes, the same numbers.

    Only in memory the channels of a pixel stay side by side, as cameras give them and `observation.py` wants them: LeRobot
    copies each frame into planes.

    Args:
        frame: pictures (H, W, 3), uint8 or float32, and vectors, by the batch's keys.
        task: the prompt.
    """
    pictures = {key: torch.from_numpy(value) for key, value in frame.items() if "image" in key}
    rest = {key: value for key, value in frame.items() if key not in pictures}
    batch: dict[str, Any] = prepare_observation_for_inference(rest, torch.device("cpu"), task=task)
    for key, picture in pictures.items():
        scaled = picture.float().div_(255) if picture.dtype == torch.uint8 else picture
        batch[key] = scaled.movedim(-1, 0)[None]
    return batch


def frame_of(value: Any, key: str) -> Frame:
    """Returns a camera's frame as (H, W, 3), uint8 or float32, as it lies in memory.

    Args:
        value: (H, W, 3) or (3, H, W), an array or a tensor: uint8, or floating point in [0, 1].
        key: the camera, for messages.

    Raises:
        ValueError: it is anything else.
    """
    frame: Frame = np.asarray(value)
    if frame.ndim == 3 and frame.shape[-1] != CHANNELS and frame.shape[0] == CHANNELS:
        frame = frame.transpose(1, 2, 0)
    if frame.ndim != 3 or frame.shape[-1] != CHANNELS or not frame.size:
        raise ValueError(
            f"{key}: expected a frame of (height, width, 3), got {frame.shape or type(value).__name__}; the model takes "
            "pictures in colours: have the camera's driver give RGB, without depth and without an alpha channel."
        )
    if frame.dtype == np.uint8:
        return np.ascontiguousarray(frame)
    if not np.issubdtype(frame.dtype, np.floating):
        raise ValueError(f"{key}: expected uint8, or floating point in [0, 1], got {frame.dtype}.")
    return np.ascontiguousarray(frame, dtype=np.float32)


def check_pictures(features: Mapping[str, Any]) -> None:
    """Raises ValueError where a camera of the robot takes no pictures in colours.

    Args:
        features: what the client will send, as LeRobot names it.
    """
    for key, feature in features.items():
        if key.startswith(OBS_IMAGES) and tuple(feature["shape"])[-1] != CHANNELS:
            raise ValueError(
                f"{key}: expected frames of (height, width, 3), the robot's camera has {tuple(feature['shape'])}; the model "
                "takes pictures in colours: leave a depth or grayscale camera out of --robot.cameras."
            )


def _sources(key: str, feature: Mapping[str, Any]) -> list[str]:
    """The names in a raw observation that LeRobot's `build_dataset_frame` reads for a feature."""
    if key.startswith(OBS_IMAGES):
        return [key.removeprefix(f"{OBS_IMAGES}.")]
    return list(feature["names"])
