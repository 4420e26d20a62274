"""`lerobot-pi0-ttnn serve --protocol openpi`, asked by a client that speaks as openpi's `WebsocketClientPolicy` does.

With that client itself it was tried by hand: see `docs/openpi.md`.
"""

import http.client
import signal
import socket
import threading
import time
from contextlib import contextmanager
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lerobot.policies import make_pre_post_processors
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from lerobot_pi0_ttnn.cli import main
from lerobot_pi0_ttnn.cli.serve.address import bind
from lerobot_pi0_ttnn.cli.serve.openpi import server as server_module
from lerobot_pi0_ttnn.cli.serve.openpi.command import parse_flags, split_overrides
from lerobot_pi0_ttnn.cli.serve.openpi.embodiments import NAMED, ROBOARENA, own_keys
from lerobot_pi0_ttnn.cli.serve.openpi.layout import match_layout
from lerobot_pi0_ttnn.cli.serve.openpi.served import ServedPolicy, read_checkpoint
from lerobot_pi0_ttnn.cli.serve.openpi.server import OpenPIServer
from lerobot_pi0_ttnn.cli.serve.openpi.wire import pack, unpack
from tests.checkpoints import save_lerobot_checkpoint
from tests.oracle import make_lerobot_policy
from tests.processes import Program, until

ON_THE_CPU = ("--architecture=tiny", "--backend=torch", "--warm_up=false")
TASK = "do something"
STATE = "observation.state"


class Client:
    """openpi's `WebsocketClientPolicy` (`openpi-client` 0.1.2), in ours; replies that are text are returned."""

    def __init__(self, port: int, api_key: str | None = None) -> None:
        headers = {"Authorization": f"Api-Key {api_key}"} if api_key else None
        self.connection = connect(f"ws://localhost:{port}", compression=None, max_size=None, additional_headers=headers)
        self.metadata = unpack(self.connection.recv())

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def send(self, data: bytes | str) -> dict | str:
        self.connection.send(data)
        reply = self.connection.recv()
        return reply if isinstance(reply, str) else unpack(reply)

    def infer(self, observation: object) -> dict | str:
        return self.send(pack(observation))


@contextmanager
def serving(served, layout, metadata=None, **options):
    """The port of a server in this process."""
    server = OpenPIServer(served, layout, metadata or {}, **options)
    with bind("localhost", 0) as listening:
        listening.listen()
        server.start(listening)
        try:
            yield listening.getsockname()[1]
        finally:
            server.stop()


def picture(seed: int, *, channels_first: bool = False) -> np.ndarray:
    drawn = np.random.default_rng(seed).integers(256, size=(48, 64, 3), dtype=np.uint8)
    return drawn.transpose(2, 0, 1) if channels_first else drawn


# name: (cameras and widths of the checkpoint, what the client sends, which of that is which of the checkpoint's).
ROBOTS = {
    "droid": (
        (("exterior_1_left", "wrist_left"), 8, 8),
        {
            "observation/exterior_image_1_left": picture(0),
            "observation/wrist_image_left": picture(1),
            "observation/joint_position": np.linspace(-1, 1, 8)[:7],
            "observation/gripper_position": np.ones(1),
            "prompt": TASK,
        },
        {"exterior_1_left": 0, "wrist_left": 1},
    ),
    "aloha": (
        (("cam_high", "cam_left_wrist", "cam_right_wrist"), 14, 14),
        {
            "state": np.linspace(-1, 1, 14),
            "images": {
                "cam_high": picture(0, channels_first=True),
                "cam_low": picture(9, channels_first=True),
                "cam_right_wrist": picture(2, channels_first=True),
            },
            "prompt": TASK,
        },
        {"cam_high": 0, "cam_right_wrist": 2},
    ),
    "libero": (
        (("image", "image2"), 8, 7),
        {
            "observation/image": picture(0),
            "observation/wrist_image": picture(1),
            "observation/state": np.linspace(-1, 1, 8),
            "prompt": TASK,
        },
        {"image": 0, "image2": 1},
    ),
    "lerobot": (
        (("image", "image2"), 8, 7),
        {
            "observation.images.image": picture(0),
            "observation.images.image2": picture(1, channels_first=True),
            STATE: np.linspace(-1, 1, 8),
            "task": TASK,
        },
        {"image": 0, "image2": 1},
    ),
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """By cameras and widths: the folder and LeRobot's policy."""
    made = {}

    def checkpoint(cameras, state_dim, action_dim):
        key = (cameras, state_dim, action_dim)
        if key not in made:
            policy = make_lerobot_policy(cameras, state_dim, action_dim, tokenizer_max_length=48)
            stats = {
                STATE: {"mean": torch.linspace(-1, 1, state_dim), "std": torch.linspace(0.5, 2, state_dim)},
                "action": {"mean": torch.linspace(-2, 2, action_dim), "std": torch.linspace(1, 3, action_dim)},
            }
            made[key] = save_lerobot_checkpoint(policy, tmp_path_factory.mktemp("openpi"), stats), policy
        return made[key]

    return checkpoint


def layout_of(checkpoint, robot: str, **options):
    named = NAMED | {"lerobot": own_keys(checkpoint.config, []), "roboarena": ROBOARENA}
    return match_layout(named[robot], checkpoint.config, checkpoint.processors, "CKPT", **options)


@pytest.mark.parametrize("robot", ROBOTS)
def test_actions_are_lerobots(robot, checkpoints):
    """Those that LeRobot's policy makes of the same observation, in the robot's units; a horizon cuts them off."""
    sizes, observation, pictures = ROBOTS[robot]
    folder, lerobot_policy = checkpoints(*sizes)
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
    sizes, observation, _ = ROBOTS["libero"]
    checkpoint = read_checkpoint(str(checkpoints(*sizes)[0]), ON_THE_CPU)
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


class Echo:
    """A policy whose actions are the state, and that notes how many threads are in it."""

    def __init__(self) -> None:
        self.config = SimpleNamespace(chunk_size=3)
        self.inside = self.most = self.resets = 0

    def predict_action_chunk(self, batch):
        self.inside += 1
        self.most = max(self.most, self.inside)
        time.sleep(0.02)
        self.inside -= 1
        return batch[STATE][:, None].expand(-1, 3, -1)

    def take_warnings(self):
        return ["said once"] if self.most == 0 else []

    def reset(self):
        self.resets += 1

    def close(self):
        pass


@pytest.fixture
def echo(libero):
    policy = Echo()
    return policy, ServedPolicy(policy, lambda batch: batch, lambda chunk: chunk)


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
    sizes, droid, _ = ROBOTS["droid"]
    layout = layout_of(read_checkpoint(str(checkpoints(*sizes)[0]), ON_THE_CPU), "roboarena")
    observation = droid | {"observation/exterior_image_0_left": picture(0), "endpoint": "infer"}
    with serving(served, layout, takes_resets=True) as port, Client(port) as client:
        assert client.infer(observation)["actions"].shape == (3, 8)
        assert client.infer({"endpoint": "reset"}) == "reset successful"
        assert policy.resets == 1


def test_as_a_program(checkpoints, tmp_path):
    """It says where it serves, and gives the board back when it is stopped; who is connected is told."""
    sizes, observation, _ = ROBOTS["droid"]
    board = ["--policy.board", "emulated:n150", "--policy.num_inference_steps=1", "--policy.cache_weights=false"]
    flags = ["--policy.architecture=tiny", *(board if find_spec("ttnn") else ["--policy.backend=torch"])]
    served = ["--roboarena=joint_velocity", "--port=0", "--horizon=8", "--api-key=sesame", checkpoints(*sizes)[0]]
    process = Program("lerobot_pi0_ttnn", ["serve", "--protocol=openpi", *flags, *served], tmp_path)
    try:
        until(lambda: "stop it with Ctrl-C" in process.output or process.status is not None, 120)
        assert process.status is None, process.output
        port = int(process.output.partition("on localhost:")[2].partition(";")[0])
        with Client(port, "sesame") as client:
            assert client.metadata == {
                "image_resolution": [224, 224],
                "needs_wrist_camera": True,
                "n_external_cameras": 1,
                "needs_stereo_camera": False,
                "needs_session_id": False,
                "action_space": "joint_velocity",
            }
            asked = observation | {"observation/exterior_image_0_left": picture(0)}
            assert client.infer(asked)["actions"].shape == (8, 8)
            process.send(signal.SIGINT)
            with pytest.raises(ConnectionClosed, match=r"1001 \(going away\) the server ends"):
                client.connection.recv(60)
        assert process.wait(60) == 0
    finally:
        process.kill()
    assert "Traceback" not in process.output
    assert "leak" not in process.output


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--embodiment=libero", "--horizon=51"], "--horizon: expected 1 to 50, the checkpoint's chunk_size, got 51"),
        (["--horizon=0"], "--horizon: expected 1 to 50"),
        (["--embodiment=aloha"], "trained with states of 8 values, aloha has 14"),
        (["--policy.backend=cuda"], "backend: expected one of ttnn, torch, got 'cuda'"),
        (["--host=203.0.113.1"], "203.0.113.1:8000: cannot listen there"),
    ],
)
def test_what_cannot_be_is_told_before_the_weights_are_read(flags, message, checkpoints, capsys, monkeypatch):
    monkeypatch.setattr(ServedPolicy, "load", lambda *_: pytest.fail("read the weights"))
    folder, _ = checkpoints(*ROBOTS["libero"][0])
    port = [] if "host" in flags[0] else ["--port=0"]
    arguments = ["--policy.architecture=tiny", str(folder), *port, *flags]
    assert main(["serve", "--protocol", "openpi", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_a_port_in_use(libero, capsys):
    assert main(["serve", "--protocol=openpi", "CKPT", f"--port={libero.port}"]) == 1
    assert f"localhost:{libero.port}: cannot listen there" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["CKPT", "--protocol=grpc"],
        ["CKPT", "--embodiment=ur5"],
        ["CKPT", "--port=65536"],
        ["CKPT", "--api-key="],
        ["CKPT", "--hots=localhost"],
        ["CKPT", "--embodiment=libero", "--roboarena=joint_position"],
    ],
)
def test_a_wrong_command_line(flags):
    with pytest.raises(SystemExit) as stop:
        main(["serve", "--protocol=openpi", *flags])
    assert stop.value.code == 2


def test_flags():
    flags = ["--policy.board", "emulated:n150", "CKPT", "--horizon", "10", "--policy.precision=fast"]
    options = parse_flags(flags)
    assert (options.checkpoint, options.host, options.port, options.horizon) == ("CKPT", "localhost", 8000, 10)
    assert options.overrides == ["--board", "emulated:n150", "--precision=fast"]
    assert split_overrides(["--policy.board"]) == ([], ["--board"])
