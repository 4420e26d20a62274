"""A checkpoint cut short or replaced while it is loaded, and disks that are full while something is written."""

import os
import signal

import pytest
import torch

from lerobot_pi0_ttnn import PI0WeightLoader
from lerobot_pi0_ttnn.recording import read_recording
from tests.checkpoints import write


@pytest.fixture
def file(tmp_path):
    """A checkpoint of three tensors, 4 MB in all."""
    tensors = {f"model.paligemma_with_expert.{name}": torch.full((256, 1024), 1.0) for name in ("a", "b", "c")}
    return write(tmp_path / "pi0", tensors) / "model.safetensors"


@pytest.mark.parametrize("size", [100, 2_000_000])
def test_cut_short_before_it_is_opened(file, size):
    """The remains of the header, or of the data, say how long the file should be."""
    content = file.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    os.truncate(file, size)
    expected = header if size < header else len(content)
    with pytest.raises(ValueError, match=rf"{file}: cut short at {size} bytes, expected {expected} .* fetch it again"):
        PI0WeightLoader(file)


def cut(file):
    os.truncate(file, 1_500_000)


def overwrite(file):
    content = file.read_bytes()
    with file.open("r+b") as handle:
        handle.write(content)


def replace(file):
    file.with_suffix(".new").write_bytes(file.read_bytes())
    file.with_suffix(".new").replace(file)


@pytest.mark.parametrize("how", [cut, overwrite, replace, os.unlink])
def test_changed_while_it_is_loaded(file, how):
    loader = PI0WeightLoader(file)
    assert loader["paligemma_with_expert.a"].sum() == 256 * 1024
    how(file)
    with pytest.raises(
        ValueError, match=rf"{file}: changed while it was being loaded: \d+ bytes .* load it again when"
    ):
        loader["paligemma_with_expert.b"]


CUTS = """
import os, sys
from lerobot_pi0_ttnn import PI0WeightLoader

taken = PI0WeightLoader(sys.argv[1])["paligemma_with_expert.c"]
os.truncate(sys.argv[1], 4096)
print("cut", flush=True)
taken.sum()
"""


def test_cut_short_while_a_tensor_of_it_is_read(forker, file):
    """What no code can prevent: the kernel ends who reads a mapped page that is no more. It is said in `MappedTensors`."""
    child = forker.run(CUTS, file)
    assert child.end() == -signal.SIGBUS
    assert child.output.read_text() == "cut\n"


def test_half_a_checkpoint_is_not_cached(board, load, checkpoint, tmp_path, monkeypatch):
    """It is cut as the last tensor is taken, after which nobody takes one: the cache asks once more."""
    folder = tmp_path / "pi0"
    load().save_pretrained(folder)
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()  # save_pretrained links
    weights.write_bytes(content)
    take = PI0WeightLoader.__getitem__

    def take_and_touch(loader, name):
        tensor = take(loader, name)
        if name == "action_out_proj.bias":
            os.utime(weights)
        return tensor

    monkeypatch.setattr(PI0WeightLoader, "__getitem__", take_and_touch)
    users = board._users
    with pytest.raises(ValueError, match=r"model\.safetensors: changed while it was being loaded"):
        load(folder, board=board.name, cache_weights=True, weight_cache_dir=tmp_path / "cache")
    assert board._users == users
    assert not list(tmp_path.rglob("manifest.json"))


FULL = """
import logging, resource, sys
from pathlib import Path
import torch
from lerobot_pi0_ttnn import PI0TTNNPolicy
from tests.oracle import make_batch, make_noise

def room(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

warnings = []  # standard error is a file, too
handler = logging.Handler()
handler.emit = lambda record: warnings.append(record.getMessage())
logger = logging.getLogger("lerobot_pi0_ttnn.device.weight_cache")
logger.addHandler(handler)
logger.propagate = False

checkpoint, cache = sys.argv[1], Path(sys.argv[2])
first = PI0TTNNPolicy.from_pretrained(checkpoint, cache_weights=False, board="emulated:n150")
expected = first.predict_action_chunk(make_batch(1), noise=make_noise(1))
for size in (8_000, 100_000, resource.RLIM_INFINITY):  # the config, which LeRobot parses from a file, has 3 kB
    room(size)
    try:
        policy = PI0TTNNPolicy.from_pretrained(checkpoint, board="emulated:n150", weight_cache_dir=cache)
    finally:
        room(resource.RLIM_INFINITY)
    assert torch.equal(policy.predict_action_chunk(make_batch(1), noise=make_noise(1)), expected)
    print("files", len(list(cache.rglob("*.tensorbin"))), len(list(cache.rglob("manifest.json"))), flush=True)
print(*warnings, sep="\\n", file=sys.stderr)
"""


def test_no_room_for_converted_weights(forker, checkpoint, tmp_path):
    """A limit on the size of files stands for the full disk: ttnn's and Python's own writes fail.

    The policy runs, and a later start with more room takes from the cache what is whole and nothing else.
    """
    child = forker.run(FULL, checkpoint, tmp_path / "cache")
    said = child.errors
    assert child.end() == 0, said.read_text()
    lines = child.output.read_text().splitlines()  # ttnn's own log among them
    counts = [tuple(map(int, line.split()[1:])) for line in lines if line.startswith("files")]
    assert counts[0][0] <= counts[1][0] < counts[2][0]
    assert counts[2][1] == 1
    assert "damaged" not in said.read_text()
    assert "(Failed to write" in said.read_text()
    assert said.read_text().count("this start goes on without the cache") == 2


RECORDS = """
import resource, sys
from pathlib import Path
from lerobot_pi0_ttnn import PI0TTNNPolicy
from tests.oracle import make_batch

policy = PI0TTNNPolicy.from_pretrained(sys.argv[1], backend="torch", recording_path=Path(sys.argv[2]))
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
for _ in range(15):
    policy.select_action(make_batch(1))
print("done")
"""


def test_no_room_for_the_recording(forker, checkpoint, tmp_path):
    """The episode goes on; what was recorded before is whole."""
    child = forker.run(RECORDS, checkpoint, tmp_path / "run.jsonl")
    assert child.end() == 0, child.errors.read_text()
    assert child.output.read_text() == "done\n"
    assert child.errors.read_text().count("the recording ends here, the policy goes on") == 1
    run = read_recording(tmp_path / "run.jsonl")
    assert 0 < len(run.actions) < 15
    assert all(chunk.shape == (1, 50, 7) for _, _, chunk in run.chunks)
