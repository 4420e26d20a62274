"""`lerobot-pi0-ttnn serve --protocol openpi` as a command: its flags, what it rejects at once, and how it ends."""

import signal
import threading
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
from lerobot.utils import process
from websockets.exceptions import ConnectionClosed

from lerobot_pi0_ttnn.cli import main
from lerobot_pi0_ttnn.cli.serve.address import bind
from lerobot_pi0_ttnn.cli.serve.openpi.command import notes_of, parse_flags, split_overrides
from lerobot_pi0_ttnn.cli.serve.openpi.served import ServedPolicy, read_checkpoint
from lerobot_pi0_ttnn.cli.serve.openpi.server import OpenPIServer
from tests.openpi_clients import ON_THE_CPU, ROBOTS, Client, Echo, layout_of, picture, saved
from tests.processes import Program, until


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return saved(tmp_path_factory.mktemp)


def test_a_horizon_that_a_script_insists_on(checkpoints):
    layout = layout_of(read_checkpoint(str(checkpoints("droid")[0]), ON_THE_CPU), "droid")
    assert notes_of(layout, 10) == []
    assert notes_of(layout, 50) == ["openpi's droid script insists on chunks of 10 actions, these have 50: --horizon"]


def test_as_a_program(checkpoints, tmp_path):
    """It says where it serves, and tells whoever is connected that it was stopped."""
    _, observation, _ = ROBOTS["droid"]
    board = ["--policy.board", "emulated:n150", "--policy.num_inference_steps=1", "--policy.cache_weights=false"]
    flags = ["--policy.architecture=tiny", *(board if find_spec("ttnn") else ["--policy.backend=torch"])]
    served = ["--roboarena=joint_velocity", "--port=0", "--horizon=8", "--api-key=sesame", checkpoints("droid")[0]]
    program = Program("lerobot_pi0_ttnn", ["serve", "--protocol=openpi", *flags, *served], tmp_path)
    try:
        until(lambda: "stop it with Ctrl-C" in program.output or program.status is not None, 120)
        assert program.status is None, program.output
        port = int(program.output.partition("on localhost:")[2].partition(";")[0])
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
            program.send(signal.SIGINT)
            with pytest.raises(ConnectionClosed, match=r"1001 \(going away\) the server ends"):
                client.connection.recv(60)
        assert program.wait(60) == 0
    finally:
        program.kill()
    assert "Traceback" not in program.output
    assert "leak" not in program.output


@pytest.mark.parametrize("fails", [False, True], ids=["stopped", "failed"])
def test_the_board_is_given_back(fails, checkpoints, monkeypatch):
    """Whether it is stopped, or cannot start; and whoever is connected is told first (`test_as_a_program`)."""
    echo, stopped = Echo(), threading.Event()
    stopped.set()
    monkeypatch.setattr(ServedPolicy, "load", lambda *_: echo.served())
    monkeypatch.setattr(process, "ProcessSignalHandler", lambda **_: SimpleNamespace(shutdown_event=stopped))
    if fails:
        monkeypatch.setattr(OpenPIServer, "start", lambda *_: (_ for _ in ()).throw(OSError("no more threads")))
    arguments = ["--port=0", "--policy.architecture=tiny", str(checkpoints("libero")[0])]
    assert main(["serve", "--protocol=openpi", *arguments]) == fails
    assert echo.is_closed


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
    folder, _ = checkpoints("libero")
    port = [] if "host" in flags[0] else ["--port=0"]
    arguments = ["--policy.architecture=tiny", str(folder), *port, *flags]
    assert main(["serve", "--protocol", "openpi", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_a_port_in_use(capsys):
    with bind("localhost", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", "--protocol=openpi", "CKPT", f"--port={port}"]) == 1
    assert f"localhost:{port}: cannot listen there" in capsys.readouterr().err


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
