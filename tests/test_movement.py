"""Which observations the server computes a chunk for: those of a robot that has moved, whatever its units are."""

import logging
import math

import pytest
import torch
from lerobot.async_inference.helpers import observations_similar
from lerobot.configs import NormalizationMode

from lerobot_pi0_ttnn.cli.serve.movement import Movement, scale_of
from tests.checkpoints import save_lerobot_checkpoint
from tests.robots import JOINTS, NAMES, STATS, save_robot_checkpoint
from tests.servers import Client

RADIANS = {"mean": torch.zeros(JOINTS), "std": torch.full((JOINTS,), 0.45)}
DEGREES = {name: value * 180 / math.pi for name, value in RADIANS.items()}


@pytest.fixture(scope="module")
def lerobot_policy(tmp_path_factory):
    return save_robot_checkpoint(tmp_path_factory.mktemp("pi0"))


@pytest.fixture
def client(request, servicer, lerobot_policy, tmp_path, monkeypatch):
    """Of a robot whose checkpoint has these statistics of its states; without any, states are not normalised."""
    if request.param is None:
        monkeypatch.setitem(lerobot_policy.config.normalization_mapping, "STATE", NormalizationMode.IDENTITY)
    stats = {"action": STATS["action"]} | ({"observation.state": request.param} if request.param else {})
    return Client(servicer, save_lerobot_checkpoint(lerobot_policy, tmp_path, stats))


def at(*positions: float, **others: float) -> dict[str, float]:
    """Joints from the first on; the same for all if there is one only."""
    positions = positions if len(positions) > 1 else positions * JOINTS
    return dict(zip(NAMES, positions, strict=True)) | others


@pytest.mark.parametrize("client", [RADIANS], indirect=True)
def test_a_robot_in_radians(client):
    """Six joints, 23 degrees each: for LeRobot they have not moved."""
    assert client.is_sent_a_chunk(0, must_go=True, **at(0.0))
    moved, rests = client.observation(1, **at(0.4)), client.observation(0, **at(0.0))
    assert observations_similar(moved, rests, client.features)
    assert client.is_sent_a_chunk(1, **at(0.4))
    assert not client.is_sent_a_chunk(2, **at(0.401)), "a tenth of a degree is noise"
    assert not client.is_sent_a_chunk(1, **at(0.8)), "a step that has its chunk"
    assert client.is_sent_a_chunk(2, must_go=True, **at(0.401)), "the robot has nothing left to do"


@pytest.mark.parametrize("client", [DEGREES], indirect=True)
@pytest.mark.parametrize("degrees", [0.2, 0.5, 2.0, 30.0])
def test_a_robot_in_degrees_is_told_what_lerobot_tells_it(client, degrees):
    assert client.is_sent_a_chunk(0, must_go=True, **at(0.0))
    moved, rests = client.observation(1, **at(degrees, 0, 0, 0, 0, 0)), client.observation(0)
    similar = observations_similar(moved, rests, client.features)
    assert client.is_sent_a_chunk(1, **at(degrees, 0, 0, 0, 0, 0)) is not similar


@pytest.mark.parametrize("client", [None], indirect=True)
def test_without_statistics_every_observation_counts(client, caplog):
    assert client.is_sent_a_chunk(0, must_go=True, **at(0.0))
    assert client.is_sent_a_chunk(1, **at(1e-6))
    with caplog.at_level(logging.WARNING):
        Client(client.server, client.checkpoint)
    assert "no statistics of observation.state" in caplog.text


@pytest.mark.parametrize("client", [RADIANS], indirect=True)
def test_a_broken_encoder_reaches_the_policy(client):
    """Which refuses it; were it similar, nobody would be told."""
    assert client.is_sent_a_chunk(0, must_go=True, **at(0.0))
    assert client.server._enqueue_observation(client.observation(1, **at(math.nan)))
    silent = client.observation(2)
    del silent.observation[NAMES[0]]
    assert client.server._enqueue_observation(silent)


def test_units_may_differ_from_joint_to_joint():
    """Five joints in radians, a gripper from 0 to 100."""
    moved = Movement(list(NAMES), scale_of({"std": [0.4] * 5 + [30.0]}, JOINTS))
    assert not moved(at(0.0), at(0, 0, 0, 0, 0, 1.0))
    assert moved(at(0.0), at(0, 0, 0, 0, 0, 2.0))
    assert moved(at(0.0), at(0.1, 0, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("stats", "want"),
    [
        ({"std": [2.0, 0.5], "min": [0.0, 0.0], "max": [9.0, 9.0]}, [2.0, 0.5]),
        ({"q01": [-4.65, 0.0], "q99": [4.65, 4.65], "min": [-90, -90], "max": [90, 90]}, [2.0, 1.0]),
        ({"q10": [0.0, 0.0], "q90": [2.56, 5.12]}, [1.0, 2.0]),
        ({"min": [-4.0, 0.0], "max": [4.0, 2.0]}, [2.0, 0.5]),
        ({"std": [[2.0, 0.0]]}, [2.0, 1e-8]),
        ({"std": [1.0, 1.0, 1.0], "q01": [0.0, 0.0], "q99": [4.65, 4.65]}, [1.0, 1.0]),
        ({"std": [1.0, math.nan]}, None),
        ({"std": [1.0, -1.0]}, None),
        ({"std": [1.0]}, None),
        ({"mean": [1.0, 2.0], "q01": [0.0, 0.0]}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_scales_by_hand(stats, want):
    got = scale_of(stats, 2)
    assert got is None if want is None else got.tolist() == pytest.approx(want)
