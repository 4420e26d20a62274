"""`lerobot-pi0-ttnn serve` and LeRobot's own, unmodified `robot_client`, each a process, on a fake robot."""

import pickle
import re
import shutil
import signal
import socket
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import grpc
import pytest
import torch
from lerobot.async_inference.helpers import TimedObservation
from lerobot.policies import make_pre_post_processors
from lerobot.transport import services_pb2, services_pb2_grpc
from lerobot.transport.utils import send_bytes_in_chunks

from lerobot_pi0_ttnn.cli import main
from lerobot_pi0_ttnn.cli.serve.command import is_loopback, parse_flags
from lerobot_pi0_ttnn.recording import read_recording
from tests.broken_checkpoints import copy_of, set_widths
from tests.models import MODELS
from tests.processes import FAKE_ROBOT, SEED, Program, until
from tests.robots import (
    CAMERAS,
    JOINTS,
    damage,
    events,
    in_degrees,
    is_part_of,
    moves,
    robot_flags,
    save_robot_checkpoint,
)

TASK = "push"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="module")
def policies(folder):
    return {model: save_robot_checkpoint(folder / model, model) for model in MODELS}


@pytest.fixture(scope="module")
def lerobot_policy(policies):
    return policies["pi0"]


class Server:
    """A running `lerobot-pi0-ttnn serve` on a free port."""

    def __init__(self, folder: Path, start, *flags: str) -> None:
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            self.port = probe.getsockname()[1]
        self.recording = folder / "recording.jsonl"
        flags = (
            f"--port={self.port}",
            "--policy.architecture=tiny",
            f"--policy.recording_path={self.recording}",
            *flags,
        )
        self.process = start(["serve", *flags], folder)

    def ready(self) -> "Server":
        process = self.process
        until(lambda: "Serving pi0_ttnn on localhost" in process.output or process.status is not None, 120)
        assert process.status is None, process.output
        return self


@pytest.fixture(scope="module")
def servers(folder, lerobot_policy):
    """By backend, all started before the first is waited for: it takes long."""
    servers = {}
    if find_spec("ttnn"):
        servers["ttnn"] = Server(
            folder / "ttnn",
            partial(Program, "lerobot_pi0_ttnn"),
            "--policy.board=emulated:n150",
            "--policy.num_inference_steps=1",
            "--policy.cache_weights=false",
        )
    servers["torch"] = Server(folder / "torch", partial(Program, "lerobot_pi0_ttnn"), "--policy.backend=torch")
    yield servers
    for server in servers.values():
        server.process.kill()


@pytest.fixture
def server(servers):
    """The one on the torch backend."""
    return servers["torch"].ready()


def client_flags(server, checkpoint, diary, *, policy_type="pi0_ttnn", cameras=CAMERAS, **robot):
    return [
        f"--server_address=localhost:{server.port}",
        f"--policy_type={policy_type}",
        f"--pretrained_name_or_path={checkpoint}",
        f"--task={TASK}",
        "--actions_per_chunk=50",
        "--chunk_size_threshold=0",
        "--aggregate_fn_name=latest_only",
        *robot_flags(diary, cameras, **robot),
    ]


def client(folder, *arguments, **options) -> Program:
    flags = client_flags(*arguments, folder / "diary.jsonl", **options)
    return Program("lerobot.async_inference.robot_client", flags, folder)


def lerobots_chunk(policy, checkpoint):
    """What LeRobot's processors and policy make of the robot's first observation, in degrees, its frames as they are taken."""
    sys.path.insert(0, str(FAKE_ROBOT))
    from lerobot.cameras.opencv import OpenCVCameraConfig
    from lerobot_robot_fake import FakeRobot, FakeRobotConfig

    cameras = {name: OpenCVCameraConfig(index_or_path=0, width=64, height=48, fps=30) for name in CAMERAS}
    robot = FakeRobot(FakeRobotConfig(diary=checkpoint / "unused", calibration_dir=checkpoint, cameras=cameras))
    preprocess, postprocess = make_pre_post_processors(policy.config, str(checkpoint))
    seen = robot.get_observation()
    frames = {name: torch.from_numpy(seen[name]).permute(2, 0, 1)[None] / 255 for name in CAMERAS}
    observation = {
        **{f"observation.images.{name}": frame for name, frame in frames.items()},
        "observation.state": torch.tensor([[seen[f"joint{number}.pos"] for number in range(JOINTS)]]),
        "task": [TASK],
    }
    torch.manual_seed(SEED)
    with torch.no_grad():
        return postprocess(policy.predict_action_chunk(preprocess(observation)))[0]


@pytest.mark.parametrize("model", MODELS)
def test_actions_arrive_and_are_lerobots(server, folder, policies, model, tmp_path):
    """An unmodified checkpoint, named as LeRobot names it; the first chunk is the one that LeRobot's own policy makes.

    The server, which is seeded but once, is the same: of pi0.5 the noise is not that of LeRobot's first chunk any more.
    """
    diary = tmp_path / "diary.jsonl"
    flags = client_flags(server, folder / model, diary, policy_type=model, stop_after=120)
    program = Program("lerobot.async_inference.robot_client", flags, tmp_path)
    program.wait(120)
    assert "KeyboardInterrupt" in program.output
    assert events(diary) == ["connected", "disconnected"]
    got = moves(diary)
    assert len(got) == 120
    chunks = [in_degrees(chunk) for _, _, chunk in read_recording(server.recording).chunks]
    assert is_part_of(got, chunks)
    if model != next(iter(MODELS)):
        return
    want = lerobots_chunk(policies[model], folder / model)
    assert (chunks[0] - want).abs().max() < 1e-3
    if len(chunks) == 3:  # LeRobot's server may infer twice from observations that come while the first is in work
        assert (got[:50] - want).abs().max() < 1e-3


def truncated(folder, tmp_path):
    broken = shutil.copytree(folder / "pi0", tmp_path / "truncated")
    with (broken / "model.safetensors").open("r+b") as file:
        file.truncate(100_000)
    return broken


def all_nan(folder, tmp_path):
    """Found by the warm-up: token 0 fills its prompts."""
    return damage(folder / "pi0", tmp_path / "nan", "<pad>")


@pytest.mark.parametrize(
    ("options", "checkpoint", "reason"),
    [
        pytest.param(
            {"cameras": ("top", "wrist")},
            None,
            "trained with the cameras observation.images.front, observation.images.wrist; the robot has "
            "observation.images.top, observation.images.wrist. Name the robot's alike",
            id="cameras",
        ),
        pytest.param({"cameras": ()}, None, "the robot has none.", id="no-cameras"),
        pytest.param({"joints": 7}, None, "trained with a state of 6 values, the robot has 7", id="joints"),
        pytest.param({}, lambda folder, tmp_path: tmp_path / "absent", "there is no such folder", id="absent"),
        pytest.param({}, truncated, "model.safetensors", id="truncated"),
        pytest.param({}, all_nan, "the model computed NaN or infinity", id="nan"),
        pytest.param(
            {"policy_type": "act"},
            None,
            "runs policies of type pi0, pi0_ttnn, pi05, pi05_ttnn, got 'act'",
            id="policy-type",
        ),
    ],
)
def test_the_client_is_told(server, folder, tmp_path, options, checkpoint, reason):
    path = checkpoint(folder, tmp_path) if checkpoint else folder / "pi0"
    program = client(tmp_path, server, path, **options)
    program.wait(60)
    assert "status = StatusCode.INVALID_ARGUMENT" in program.output
    assert reason in program.output
    assert events(tmp_path / "diary.jsonl") == ["connected", "disconnected"]
    assert len(moves(tmp_path / "diary.jsonl")) == 0


@pytest.mark.parametrize(
    ("fault", "reason", "moved"),
    [
        ("encoder", "observation.state: holds NaN or infinity", range(1, 51)),
        ("weights", "FloatingPointError: the model computed NaN or infinity", range(1)),
    ],
)
def test_an_inference_that_fails_is_told(server, folder, tmp_path, fault, reason, moved):
    """The robot does what it had got, and stands; the client says why, at a pace that can be read."""
    robot = {"encoder_breaks_after": 1} if fault == "encoder" else {}
    path = damage(folder / "pi0", tmp_path / "damaged", TASK) if fault == "weights" else folder / "pi0"
    program = client(tmp_path, server, path, **robot)
    told = "inference failed, the robot gets no more actions: " + reason
    try:
        until(lambda: program.output.count("Error receiving actions") >= 2, 60)
    finally:
        program.kill()
    assert told in program.output
    assert program.output.count("Error receiving actions") < 5
    got = moves(tmp_path / "diary.jsonl")
    assert len(got) in moved
    assert got.isfinite().all()


def test_a_client_may_come_again(server, folder, tmp_path):
    """After all that, the same server serves; a fine-tune of pi0_base here, of which the client is warned once."""
    fine_tune = copy_of(folder / "pi0", tmp_path / "fine-tune")
    set_widths(fine_tune, state=32)
    program = client(tmp_path, server, fine_tune, stop_after=5)
    program.wait(60)
    assert len(moves(tmp_path / "diary.jsonl")) == 5
    assert program.output.count('details = "warning, the robot moves all the same') == 1
    assert "the config says 32 values, the statistics are of 6, which is what counts" in program.output


def test_a_server_that_has_forgotten_its_client(servers, folder, tmp_path):
    """It was restarted; the client goes on where it was."""
    server = next(iter(servers.values())).ready()
    channel = grpc.insecure_channel(f"localhost:{server.port}")
    stub = services_pb2_grpc.AsyncInferenceStub(channel)
    observation = pickle.dumps(TimedObservation(timestamp=0.0, timestep=7, observation={}, must_go=True))
    stub.Ready(services_pb2.Empty())
    stub.SendObservations(send_bytes_in_chunks(observation, services_pb2.Observation))
    with pytest.raises(grpc.RpcError, match="this server has no checkpoint loaded"):
        stub.GetActions(services_pb2.Empty())
    channel.close()


def test_on_an_emulated_board(servers, folder, tmp_path):
    """Loaded and run in gRPC's threads."""
    if "ttnn" not in servers:
        pytest.skip("the TTNN backend's package is not installed")
    server = servers["ttnn"].ready()
    program = client(tmp_path, server, folder / "pi0", stop_after=5)
    program.wait(60)
    got = moves(tmp_path / "diary.jsonl")
    assert len(got) == 5
    assert is_part_of(got, [in_degrees(chunk) for _, _, chunk in read_recording(server.recording).chunks])


def test_a_port_in_use(server, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # LeRobot's server keeps a log there
    assert main(["serve", f"--port={server.port}"]) == 1
    assert f"localhost:{server.port}: cannot listen there" in capsys.readouterr().err


@pytest.mark.parametrize(("backend", "number"), [("torch", signal.SIGINT), ("ttnn", signal.SIGTERM)])
def test_it_stops_and_lets_go(servers, backend, number):
    """The last test that needs the servers. A board that was not closed would leave ttnn's complaint in the log."""
    if backend not in servers:
        pytest.skip("the TTNN backend's package is not installed")
    server = servers[backend].ready()
    server.process.send(number)
    assert server.process.wait(60) == 0
    _, stopping, rest = server.process.output.partition("Server stopping")
    assert stopping
    assert not re.search("Traceback|terminate|leak", rest)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--policy.backend=cuda", "backend: expected one of ttnn, torch, got 'cuda'"),
        ("--port=0", "Port must be between 1 and 65535"),
        ("--fps=many", "Couldn't parse 'many' into an int"),
    ],
)
def test_a_wrong_value(flag, message, capsys):
    assert main(["serve", flag]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--policy.bakend=torch", "--hots=localhost", "checkpoint"])
def test_an_unknown_flag(flag, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["serve", flag])
    assert stop.value.code == 2
    assert f"unrecognized arguments: {flag}" in capsys.readouterr().err


def test_the_policys_fields_come_from_no_file(tmp_path):
    file = tmp_path / "serve.json"
    file.write_text('{"port": 9000, "policy": {"backend": "torch"}}')
    with pytest.raises(ValueError, match=r"--policy\.FIELD=VALUE only"):
        parse_flags([f"--config_path={file}"])


def test_flags_are_lerobots_and_the_policys():
    config, overrides = parse_flags(["--fps=60", "--policy.board", "emulated:n150", "--policy.precision=fast"])
    assert (config.host, config.port, config.fps) == ("localhost", 8080, 60)
    assert overrides == ["--board", "emulated:n150", "--precision=fast"]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "::1", "[::1]"])
def test_loopback(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "[::]", "192.168.1.4", "robot.local", ""])
def test_not_loopback(host):
    assert not is_loopback(host)
