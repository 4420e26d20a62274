"""A robot under LeRobot's `lerobot-rollout`, for a hundred ticks, and what it does when something breaks."""

import json

import pytest
import torch

from lerobot_pi0_ttnn.recording import read_recording
from tests.broken_checkpoints import copy_of, rename_map
from tests.models import MODELS, of_each
from tests.processes import Program
from tests.robots import NAMES, damage, events, in_degrees, is_part_of, moves, robot_flags, save_robot_checkpoint

TICKS = 100
ENGINES = ("sync", "rtc")
BACKENDS = {
    "torch": ["--policy.backend=torch"],
    "ttnn": ["--policy.board=emulated:n150", "--policy.num_inference_steps=1", "--policy.cache_weights=false"],
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folders = {model: tmp_path_factory.mktemp(model) for model in MODELS}
    for model, folder in folders.items():
        save_robot_checkpoint(folder, model)
    return folders


@pytest.fixture
def checkpoint(checkpoints):
    return checkpoints["pi0"]


def start(checkpoint, folder, engine, *flags, **robot):
    flags = [
        "--discover_packages_path=lerobot_pi0_ttnn.plugins",
        f"--policy.path={checkpoint}",
        "--policy.architecture=tiny",
        f"--policy.recording_path={folder / 'recording.jsonl'}",
        f"--inference.type={engine}",
        "--return_to_initial_position=false",
        "--task=push",
        *flags,
    ]
    return Program("lerobot.scripts.lerobot_rollout", flags + robot_flags(folder / "diary.jsonl", **robot), folder)


@pytest.mark.parametrize(
    ("model", "backend"),
    [
        pytest.param(*each.values, backend, marks=each.marks, id=each.id)
        for backend in BACKENDS
        for each in of_each(backend)
    ],
)
def test_a_hundred_ticks(checkpoints, tmp_path, model, backend):
    if backend == "ttnn":
        pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")
    programs = {
        engine: start(checkpoints[model], tmp_path / engine, engine, *BACKENDS[backend], stop_after=TICKS)
        for engine in ENGINES
    }
    for engine, program in programs.items():
        folder = tmp_path / engine
        assert program.wait(120) == 0, program.output
        assert events(folder / "diary.jsonl") == ["connected", "disconnected"]
        assert "joints by name: joint0.pos -> joint0.pos" in program.output
        got, recording = moves(folder / "diary.jsonl"), read_recording(folder / "recording.jsonl")
        assert got.shape == (TICKS, 6)
        assert got.isfinite().all()
        assert is_part_of(got, [in_degrees(chunk) for _, _, chunk in recording.chunks])
        if engine == "sync":
            want = torch.cat([in_degrees(chunk) for _, _, chunk in recording.chunks])
            assert (got - want[:TICKS]).abs().max() < 1e-3
        else:
            assert len(recording.chunks) > 2


@pytest.mark.parametrize("engine", ENGINES)
def test_joints_in_another_order(checkpoint, tmp_path, engine):
    """LeRobot's sync engine would move the wrong ones; its other sorts actions and hands over states unsorted."""
    names = f"--policy.action_feature_names={json.dumps(NAMES[::-1])}"
    program = start(checkpoint, tmp_path, engine, "--policy.backend=torch", names, stop_after=1)
    assert program.wait(60) == 1
    assert "in another order than the robot has them: joint5.pos -> joint5.pos, joint4.pos ->" in program.output
    assert not (tmp_path / "diary.jsonl").exists(), "the robot was connected"


@pytest.mark.parametrize(
    ("fault", "reason", "moved"),
    [
        ("encoder", "observation.state: holds NaN or infinity", range(20, 101)),
        ("weights", "the model computed NaN or infinity", range(1)),
    ],
)
def test_when_the_policy_raises(checkpoint, tmp_path, fault, reason, moved):
    """Sync: it ends at once, with an error. Real-time chunking: after ten attempts, with status 0, LeRobot's own.

    In both the robot gets no action of a chunk that could not be had, and is let go.
    """
    robot = {"encoder_breaks_after": 20} if fault == "encoder" else {}
    path = damage(checkpoint, tmp_path / "damaged", "push") if fault == "weights" else checkpoint
    programs = {engine: start(path, tmp_path / engine, engine, "--policy.backend=torch", **robot) for engine in ENGINES}
    for engine, status, message in [
        ("sync", 1, f"Error: {reason}"),
        ("rtc", 0, f"RTC inference error (10/10): {reason}"),
    ]:
        folder = tmp_path / engine
        assert programs[engine].wait(120) == status
        assert message in programs[engine].output
        assert events(folder / "diary.jsonl") == ["connected", "disconnected"]
        got = moves(folder / "diary.jsonl")
        chunks = [in_degrees(chunk) for _, _, chunk in read_recording(folder / "recording.jsonl").chunks]
        assert len(got) in moved
        assert is_part_of(got, chunks)


def test_a_camera_that_the_checkpoint_renames(checkpoint, tmp_path):
    """Without --rename_map LeRobot leaves the saved renaming out, and compares the cameras before it."""
    renaming = copy_of(checkpoint, tmp_path / "renaming")
    rename_map(renaming, top="front")
    chunks = []
    for path, cameras in ((checkpoint, ("front", "wrist")), (renaming, ("top", "wrist"))):
        folder = tmp_path / cameras[0]
        program = start(path, folder, "sync", "--policy.backend=torch", cameras=cameras, stop_after=5)
        assert program.wait(120) == 0, program.output
        chunks.append(read_recording(folder / "recording.jsonl").chunks[0][2])
    assert torch.equal(*chunks)
