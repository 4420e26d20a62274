"""One picture makes one model input, whichever of LeRobot's programs carries it: a disc, measured in pixels."""

import time
from typing import ClassVar

import numpy as np
import pytest
import torch
from lerobot.envs.utils import preprocess_observation
from lerobot.policies import make_pre_post_processors
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.rollout.inference.rtc import RTCInferenceEngine
from lerobot.rollout.inference.sync import SyncInferenceEngine
from lerobot.utils.constants import ACTION, OBS_STR
from lerobot.utils.feature_utils import build_dataset_frame

from lerobot_pi0_ttnn import PI0TTNNPolicy
from tests.robots import CAMERAS, save_robot_checkpoint
from tests.servers import Client, ToldError

RED = (255, 128, 0)
"""Another value in each channel, to see their order."""


def disc(height: int, width: int) -> np.ndarray:
    """A red disc on black, a quarter of the shorter side in radius, left of the middle and above it."""
    rows, columns = np.ogrid[:height, :width]
    radius = min(height, width) / 4
    inside = (rows + 0.5 - height * 0.4) ** 2 + (columns + 0.5 - width * 0.4) ** 2 < radius**2
    return np.where(inside[..., None], np.array(RED), 0).astype(np.uint8)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tmp_path_factory.mktemp("pi0")


@pytest.fixture(scope="module")
def lerobot_policy(checkpoint):
    return save_robot_checkpoint(checkpoint)


@pytest.fixture(scope="module")
def policy(checkpoint, lerobot_policy):
    return PI0TTNNPolicy.from_pretrained(checkpoint, architecture="tiny", backend="torch", warm_up=False)


@pytest.fixture(scope="module")
def processors(policy, checkpoint):
    return make_pre_post_processors(policy.config, str(checkpoint))


def images_of(policy, call) -> list[torch.Tensor]:
    """What the model of the policy is given in a call."""
    seen = []

    def sample_actions(observation, **_):
        seen.extend(image.clone() for image in observation.images)
        return torch.zeros(1, 50, 32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy.model, "sample_actions", sample_actions)
        call()
    return seen[: len(CAMERAS)]


class Robot:
    """What LeRobot's engines ask of one."""

    robot_type = "fake"
    action_features: ClassVar = {}


def sync(policy, processors, frames, client):
    features = {ACTION: {"names": list(client.names)}}
    engine = SyncInferenceEngine(policy, *processors, features, list(client.names), "push", "cpu", "fake")
    policy.reset()
    raw = client.observation(**frames).get_observation()
    return images_of(policy, lambda: engine.get_action(build_dataset_frame(client.features, raw, OBS_STR)))


def rtc(policy, processors, frames, client):
    engine = RTCInferenceEngine(policy, *processors, Robot(), RTCConfig(), client.features, "push", 30.0, "cpu")

    def run():
        engine.start()
        engine.notify_observation(client.observation(**frames).get_observation())
        engine.resume()
        deadline = time.monotonic() + 20
        while engine.action_queue.empty() and time.monotonic() < deadline:
            time.sleep(0.005)
        engine.stop()

    return images_of(policy, run)


def evaluation(policy, processors, frames, client):
    state = np.zeros((1, len(client.names)), np.float32)
    observed = {"pixels": {name: frame[None] for name, frame in frames.items()}, "agent_pos": state}
    batch = processors[0](preprocess_observation(observed) | {"task": ["push"]})
    return images_of(policy, lambda: policy.predict_action_chunk(batch))


def batch_of(change):
    def predict(policy, processors, frames, client):
        pixels = {f"observation.images.{name}": change(torch.from_numpy(frame)[None]) for name, frame in frames.items()}
        batch = {**pixels, "observation.state": torch.zeros(1, len(client.names)), "task": ["push"]}
        return images_of(policy, lambda: policy.predict_action_chunk(processors[0](batch)))

    return predict


def served(policy, processors, frames, client):
    return images_of(client.server.policy, lambda: client.actions(**frames))


PATHS = {
    "serve": served,
    "serve-channels-first": lambda policy, processors, frames, client: served(
        policy, processors, {name: frame.transpose(2, 0, 1) for name, frame in frames.items()}, client
    ),
    "serve-float": lambda policy, processors, frames, client: served(
        policy, processors, {name: frame.astype(np.float32) / 255 for name, frame in frames.items()}, client
    ),
    "serve-tensor": lambda policy, processors, frames, client: served(
        policy, processors, {name: torch.from_numpy(frame) for name, frame in frames.items()}, client
    ),
    "serve-mirrored-twice": lambda policy, processors, frames, client: served(
        policy, processors, {name: frame[:, ::-1].copy()[:, ::-1] for name, frame in frames.items()}, client
    ),
    "rollout-sync": sync,
    "rollout-rtc": rtc,
    "eval": evaluation,
    "batch-uint8": batch_of(lambda frame: frame),
    "batch-uint8-channels-first": batch_of(lambda frame: frame.permute(0, 3, 1, 2)),
    "batch-float": batch_of(lambda frame: frame / 255),
    "batch-float-channels-first": batch_of(lambda frame: (frame / 255).permute(0, 3, 1, 2)),
}


def judge(lerobot_policy, frames) -> list[torch.Tensor]:
    """What LeRobot's policy makes of the frames that the cameras took."""
    batch = {
        f"observation.images.{name}": torch.from_numpy(frame)[None].permute(0, 3, 1, 2) / 255
        for name, frame in frames.items()
    }
    return lerobot_policy._preprocess_images(batch)[0]


@pytest.fixture(scope="module")
def client(servicer, checkpoint, lerobot_policy):
    return Client(servicer, checkpoint)


@pytest.mark.parametrize("path", PATHS)
def test_the_disc_is_round(policy, processors, client, lerobot_policy, path):
    """By hand: 640x480 shrinks by 224/640 = 0.35, and the disc of 240 pixels to one of 84, under 28 rows of black."""
    frames = {"front": disc(480, 640), "wrist": disc(640, 480)}
    front, wrist = PATHS[path](policy, processors, frames, client)
    want = {"front": (28 + 0.4 * 168, 0.4 * 224), "wrist": (0.4 * 224, 28 + 0.4 * 168)}
    for image, centre in ((front, want["front"]), (wrist, want["wrist"])):
        lit = (image[0, 0] > 0).nonzero().float() + 0.5
        assert (lit.amax(0) - lit.amin(0) + 1 - 84).abs().max() <= 1, "a disc"
        assert ((lit.amax(0) + lit.amin(0)) / 2 - torch.tensor(centre)).abs().max() <= 1, "where it was drawn"
        middle = image[0, :, int(centre[0]), int(centre[1])]
        torch.testing.assert_close(middle, torch.tensor(RED) / 255 * 2 - 1, rtol=0, atol=1e-6)
    assert (front[:, :, :28] == -1).all()
    assert (wrist[:, :, :, -28:] == -1).all()
    judged = judge(lerobot_policy, frames)
    assert all(torch.equal(got, want) for got, want in zip((front, wrist), judged, strict=True))


@pytest.mark.parametrize("path", ["serve", "rollout-sync", "eval", "batch-uint8"])
@pytest.mark.parametrize(
    "sizes", [((224, 224), (225, 225)), ((48, 64), (1080, 1920)), ((6, 5), (4, 7))], ids=["square", "unlike", "tiny"]
)
def test_frames_of_every_size(policy, processors, client, lerobot_policy, path, sizes):
    frames = {name: disc(*size) for name, size in zip(CAMERAS, sizes, strict=True)}
    judged = judge(lerobot_policy, frames)
    got = PATHS[path](policy, processors, frames, client)
    assert all(torch.equal(image, want) for image, want in zip(got, judged, strict=True))


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((480, 640), np.uint8), r"images.front: expected a frame of \(height, width, 3\), got \(480, 640\)"),
        (np.zeros((480, 640, 1), np.uint8), r"got \(480, 640, 1\)"),
        (np.zeros((480, 640, 4), np.uint8), "without an alpha channel"),
        (np.zeros((0, 640, 3), np.uint8), r"got \(0, 640, 3\)"),
        (np.zeros((480, 640, 3), np.int32), "expected uint8, or floating point"),
        (np.full((480, 640, 3), 128.0, np.float32), r"front: expected values in \[0, 1\], got 128 to 128"),
        (None, "got NoneType"),
        (b"\xff\xd8jpeg", "got bytes"),
    ],
    ids=["flat", "gray", "alpha", "empty", "int32", "0-to-255", "none", "bytes"],
)
def test_what_is_no_picture_is_told(client, frame, message):
    with pytest.raises(ValueError, match=message):
        client.actions(front=frame)


def test_a_camera_that_falls_silent_is_told(client):
    observation = client.observation()
    del observation.observation["wrist"]
    with pytest.raises(ValueError, match="the robot's observation lacks wrist, which its client announced"):
        client.server._predict_action_chunk(observation)


def test_a_camera_that_the_robot_lacks_is_absent(servicer, checkpoint):
    client = Client(servicer, checkpoint, cameras={"wrist": (48, 64, 3)})
    images = images_of(servicer.policy, lambda: client.actions(wrist=disc(48, 64)))
    assert (images[0] > -1).any()
    assert (images[1] == -1).all()


def test_a_depth_camera_is_told_before_loading(servicer, checkpoint):
    with pytest.raises(
        ToldError, match=r"wrist: expected frames of \(height, width, 3\), the robot's camera has \(48, 64, 1\)"
    ):
        Client(servicer, checkpoint, cameras={"front": (48, 64, 3), "wrist": (48, 64, 1)})
