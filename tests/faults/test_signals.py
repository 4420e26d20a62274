"""Interrupted or ended from outside, in the middle of a chunk and in the middle of loading."""

import fcntl
import signal

import pytest
import torch

pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

from lerobot_pi0_ttnn.recording import read_recording
from tests.oracle import make_batch, make_noise

PREDICTS = """
import atexit, sys, threading
from pathlib import Path
from lerobot_pi0_ttnn import PI0TTNNPolicy
from lerobot_pi0_ttnn.device import board as boards
from lerobot_pi0_ttnn.device.cards import CardLock
from tests.oracle import make_batch

backend, checkpoint, card, recording, thread = sys.argv[1:]

def at_exit():  # after the board's own
    CardLock([Path(card)]).release()
    print("open" if boards._open else "closed", "free", flush=True)

atexit.register(at_exit)
options = {"cache_weights": False, "num_inference_steps": 1, "warm_up": False, "recording_path": Path(recording)}
policy = PI0TTNNPolicy.from_pretrained(checkpoint, backend=backend, board="emulated:n150", **options)
if policy.board:
    policy.board._cards = CardLock([Path(card)])  # an emulated board locks no card
for _ in range(5):
    policy.select_action(make_batch(1))

def endless():
    sample_actions = policy.model.sample_actions

    def announce(stage):
        def announced(name):
            if name == "step 20":
                print("predicting", flush=True)
            return stage(name)

        return announced

    policy.model.sample_actions = lambda *args, stage, **kwargs: sample_actions(*args, **kwargs, stage=announce(stage))
    policy.predict_action_chunk(make_batch(1), num_steps=4_000)

if thread == "main":
    endless()
else:  # as LeRobot's engine for real-time chunking does
    threading.Thread(target=endless, daemon=True).start()
    threading.Event().wait()
"""


@pytest.fixture
def predicting(forker, checkpoint, tmp_path):
    """Starts a program that is in the middle of a chunk which would take minutes."""

    def start(backend, thread="main"):
        (tmp_path / "0").touch()
        child = forker.run(PREDICTS, backend, checkpoint, tmp_path / "0", tmp_path / "run.jsonl", thread)
        child.wait_for("predicting")
        return child

    return start


def check_nothing_is_left(folder):
    with (folder / "0").open() as card:
        fcntl.flock(card, fcntl.LOCK_EX | fcntl.LOCK_NB)
    run = read_recording(folder / "run.jsonl")
    assert (len(run.chunks), len(run.actions)) == (1, 5)


@pytest.mark.parametrize("backend", ["torch", "ttnn"])
def test_ctrl_c_during_a_chunk(predicting, tmp_path, backend):
    child = predicting(backend)
    child.interrupt()
    assert not child.is_running()
    assert child.end() == -signal.SIGINT  # what a shell calls 130
    assert child.output.read_text().split() == ["predicting", "closed", "free"]
    assert child.errors.read_text().rstrip().endswith("KeyboardInterrupt")
    check_nothing_is_left(tmp_path)


def test_ctrl_c_while_a_daemon_thread_predicts(predicting, tmp_path):
    """The thread goes no further than its next stage, and does not unwind, beside the board's closing."""
    child = predicting("ttnn", "daemon")
    child.interrupt()
    assert child.end() == -signal.SIGINT, child.errors.read_text()
    assert child.output.read_text().split() == ["predicting", "closed", "free"]
    assert "board 'emulated:n150': the process ends, and predicting a chunk with it" in child.errors.read_text()
    assert "Exception in thread" not in child.errors.read_text()
    check_nothing_is_left(tmp_path)


def test_sigterm_during_a_chunk(predicting, tmp_path):
    child = predicting("ttnn")
    child.send(signal.SIGTERM)
    assert child.end() == -signal.SIGTERM
    check_nothing_is_left(tmp_path)


LOADS = """
import sys, time
from pathlib import Path
from lerobot_pi0_ttnn import PI0TTNNPolicy
from lerobot_pi0_ttnn.device.weight_cache import WeightCache

store = WeightCache.store

def store_slowly(*arguments):
    store(*arguments)
    time.sleep(0.05)

WeightCache.store = store_slowly
PI0TTNNPolicy.from_pretrained(sys.argv[1], board="emulated:n150", weight_cache_dir=Path(sys.argv[2]))
print("loaded", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_while_weights_are_cached(forker, board, checkpoint, load, tmp_path, number):
    """What is there counts for nothing, and the next start is as the first."""
    child = forker.run(LOADS, checkpoint, tmp_path / "cache")
    child.wait_until(lambda: len(list(tmp_path.glob("cache/*/*.tensorbin"))) > 3)
    child.interrupt() if number == signal.SIGINT else child.send(number)
    assert child.end() == -number
    assert child.output.read_text() == ""
    (cache,) = (tmp_path / "cache").iterdir()
    assert not (cache / "manifest.json").exists()
    batch, noise = make_batch(1), make_noise(1)
    expected = load(board=board.name).predict_action_chunk(batch, noise=noise)
    for _ in range(2):
        policy = load(board=board.name, cache_weights=True, weight_cache_dir=tmp_path / "cache")
        assert torch.equal(policy.predict_action_chunk(batch, noise=noise), expected)
    assert (cache / "manifest.json").exists()
