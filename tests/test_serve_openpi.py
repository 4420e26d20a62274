"""`lerobot-pi0-ttnn serve --protocol openpi`, asked by a client that speaks as openpi's `WebsocketClientPolicy` does.

With that client itself it was tried by hand: see `docs/openpi.md`.
"""

import http.client
import socket
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lerobot.policies import make_pre_post_processors
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from lerobot_pi0_ttnn.cli.serve.openpi import server as server_module
from lerobot_pi0_ttnn.cli.serve.openpi.served import ServedPolicy, read_checkpoint
from lerobot_pi0_ttnn.cli.serve.openpi.wire import pack, unpack
from tests.openpi_clients import ON_THE_CPU, ROBOTS, STATE, TASK, Client, Echo, layout_of, picture, saved, serving
from tests.processes import until


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return saved(tmp_path_factory.mktemp)


@pytest.mark.parametrize("robot", ROBOTS)
def test_actions_are_lerobots(robot, checkpoints):
    """Those that LeRobot's policy makes of the same observation, in the robot's units; a horizon cuts them off."""
    sizes, observation, pictures = ROBOTS[robot]
    folder, lerobot_policy = checkpoints(robot)
    preprocess, postprocess = make_pre_post_processors(lerobot_policy.config, str(folder))
    batch = {f"observation.images.{n}": torch.tensor(picture(seed)) / 255 for n, seed in pictures.items()}
    batch = {name: frame.permute(2, 0, 1)[None] for name, frame in batch.items()}
    batch[STATE] = torch.linspace(-1, 1, sizes[1], dtype=torch.float64).float()[None]
    torch.manual_seed(7)
    with torch.no_grad():
        want = postprocess(lerobot_policy.predict_action_chunk(preprocess(batch | {"task": [TASK]})))[0].numpy()
    checkpoint = read_checkpoint(str(folder), ON_THE_CPU)
    served = ServedPolicy.load(checkpoint, horizon=10)
    with serving(served, layout_of(checkpoint, robot)) as port, Client(port) as client:
        torch.manual_seed(7)
        reply = client.infer(observation)
    assert reply["actions"].dtype == np.float32
    assert reply["actions"].shape == (10, sizes[2])
    np.testing.assert_allclose(reply["actions"], want[:10], atol=1e-4)
    # `ActionChunkBroker` takes a row of every array.
    assert [name for name, value in reply.items() if isinstance(value, np.ndarray)] == ["actions"]


@pytest.fixture(scope="module")
def libero(checkpoints):
    """A policy that is served, and its observations."""
    _, observation, _ = ROBOTS["libero"]
    checkpoint = read_checkpoint(str(checkpoints("libero")[0]), ON_THE_CPU)
    served = ServedPolicy.load(checkpoint, horizon=10)
    layout = layout_of(checkpoint, "libero")
    with serving(served, layout, {"embodiment": "libero"}, max_message_bytes=100_000) as port:
        yield SimpleNamespace(port=port, observation=observation, served=served, layout=layout)


def test_a_connection(libero):
    """The server speaks first; times are of this request and of the whole of the former."""
    with Client(libero.port) as client:
        assert client.metadata == {"embodiment": "libero"}
        first, second = client.infer(libero.observation), client.infer(libero.observation)
    assert first.keys() == second.keys() == {"actions", "policy_timing", "server_timing"}
    assert first["server_timing"].keys() == {"infer_ms"}
    assert second["server_timing"].keys() == {"infer_ms", "prev_total_ms"}
    assert 0 < first["policy_timing"]["infer_ms"] < first["server_timing"]["infer_ms"]
    assert first["server_timing"]["infer_ms"] <= second["server_timing"]["prev_total_ms"]


def without(observation, key):
    return {name: value for name, value in observation.items() if name != key}


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        pytest.param(
            lambda good: pack(without(good, "observation/wrist_image")),
            "it lacks observation/wrist_image",
            id="missing",
        ),
        pytest.param(
            lambda good: pack(good | {"observation/state": np.zeros(7)}),
            "observation/state: expected 8 numbers, got float64 (7,)",
            id="shape",
        ),
        pytest.param(
            lambda good: pack(good | {"observation/state": np.full(8, np.nan)}),
            "observation/state: holds NaN or infinity",
            id="nan",
        ),
        pytest.param(
            lambda good: pack(good | {"observation/image": np.full((8, 8, 3), 200.0, np.float32)}),
            "expected values in [0, 1], got 200",
            id="range",
        ),
        pytest.param(
            lambda good: pack(good | {"observation/image": np.full((8, 8, 3), np.nan, np.float32)}),
            "holds NaN or infinity; check the camera",
            id="nan-picture",
        ),
        pytest.param(lambda good: b"\xc1garbage", "not a message of openpi's protocol", id="garbage"),
        pytest.param(lambda good: "an observation", "binary frame, got text", id="text"),
        pytest.param(lambda good: pack([1, 2]), "expected an observation, a dict, got list", id="list"),
    ],
)
def test_a_bad_observation_is_answered_and_survived(libero, spoil, told):
    """By the connection, too: openpi's client raises, and may go on."""
    with Client(libero.port) as client:
        reply = client.send(spoil(libero.observation))
        assert isinstance(reply, str)
        assert told in reply
        assert "Traceback" not in reply
        assert client.infer(libero.observation)["actions"].shape == (10, 7)


def test_a_message_that_is_too_large(libero):
    with Client(libero.port) as client, pytest.raises(ConnectionClosed, match=r"1009 \(message too big\)"):
        client.infer(libero.observation | {"observation/image": np.zeros((256, 256, 3), np.uint8)})
    with Client(libero.port) as client:
        assert client.infer(libero.observation)["actions"].shape == (10, 7)


def test_a_policy_that_fails_hangs_up(libero, monkeypatch):
    """As openpi's does. The server serves whoever comes next."""

    def fail(batch):
        raise RuntimeError("the board has fallen off the bus")

    with Client(libero.port) as client, monkeypatch.context() as patch:
        patch.setattr(libero.served.policy, "predict_action_chunk", fail)
        told = client.infer(libero.observation)
        assert told == "inference failed: RuntimeError: the board has fallen off the bus"
        with pytest.raises(ConnectionClosed, match=r"1011 \(internal error\)"):
            client.infer(libero.observation)
    with Client(libero.port) as client:
        assert client.infer(libero.observation)["actions"].shape == (10, 7)


def test_a_message_in_fragments(libero):
    with Client(libero.port) as client:
        packed = pack(libero.observation)
        client.connection.send([packed[start : start + 1000] for start in range(0, len(packed), 1000)])
        assert unpack(client.connection.recv())["actions"].shape == (10, 7)


def test_a_client_that_vanishes(libero):
    """In the middle of a message, without a word."""
    with Client(libero.port) as client:
        client.connection.socket.shutdown(socket.SHUT_RDWR)
    with Client(libero.port) as client:
        assert client.infer(libero.observation)["actions"].shape == (10, 7)


@pytest.fixture
def echo():
    policy = Echo()
    return policy, policy.served()


def test_clients_take_turns(libero, echo):
    """Each gets the actions of its own observations."""
    policy, served = echo
    wrong = []

    def drive(port: int, number: int) -> None:
        with Client(port) as client:
            for step in range(10):
                state = np.full(8, 100.0 * number + step)
                if not np.array_equal(
                    client.infer(libero.observation | {"observation/state": state})["actions"][0], state
                ):
                    wrong.append((number, step))

    with serving(served, libero.layout) as port:
        threads = [threading.Thread(target=drive, args=(port, number)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
    assert policy.most == 1


def test_what_a_client_is_told_besides(libero, echo):
    """Once for a connection; in its first reply, and in no array."""
    _, served = echo
    with serving(served, libero.layout) as port, Client(port) as client:
        first, second = (client.infer(libero.observation | {"session_id": "a"}) for _ in range(2))
    assert first["warnings"] == ["not used of the observations: session_id"]
    assert "warnings" not in second


def test_health_and_key(libero, echo):
    with serving(echo[1], libero.layout, api_key="sesame") as port:
        request = http.client.HTTPConnection("localhost", port)
        request.request("GET", "/healthz")
        answer = request.getresponse()
        assert (answer.status, answer.read()) == (200, b"OK\n")
        for key in (None, "open", "sesame2"):
            with pytest.raises(InvalidStatus, match="HTTP 401"):
                Client(port, key)
        with Client(port, "sesame") as client:
            assert client.infer(libero.observation)["actions"].shape == (3, 8)


def test_no_page_in_a_browser_reaches_it(libero):
    with pytest.raises(InvalidStatus, match="HTTP 403"):
        connect(f"ws://localhost:{libero.port}", origin="https://example.org")


def test_not_more_clients_than_it_has_memory_for(libero, echo, monkeypatch):
    monkeypatch.setattr(server_module, "MAX_CLIENTS", 2)
    with serving(echo[1], libero.layout) as port, Client(port):
        with Client(port), pytest.raises(InvalidStatus, match="HTTP 503"):
            Client(port)
        until(lambda: accepts(port), 10)


def accepts(port: int) -> bool:
    try:
        Client(port).connection.close()
    except InvalidStatus:
        return False
    return True


def test_roboarena(checkpoints, echo):
    """`roboarena.policy_client` (6fa329f) adds `endpoint` to what it sends, and wants the reply to a reset to be text."""
    policy, served = echo
    _, droid, _ = ROBOTS["droid"]
    layout = layout_of(read_checkpoint(str(checkpoints("droid")[0]), ON_THE_CPU), "roboarena")
    observation = droid | {"observation/exterior_image_0_left": picture(0), "endpoint": "infer"}
    with serving(served, layout, takes_resets=True) as port, Client(port) as client:
        assert client.infer(observation)["actions"].shape == (3, 8)
        assert client.infer({"endpoint": "reset"}) == "reset successful"
        assert policy.resets == 1
