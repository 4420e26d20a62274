"""Every benchmark, run at tiny sizes: what it prints is README's and docs' business, that it runs is this file's."""

import multiprocessing
import threading
from functools import partial

import pytest
import torch

from benchmarks import (
    fidelity,
    input_path,
    int8_cpu,
    lerobot_compiled,
    lerobot_cpu,
    prediction,
    published,
    scaling_cpu,
    warm_up,
)
from lerobot_pi0_ttnn import PI0TTNNPolicy
from lerobot_pi0_ttnn.checkpoint.files import CheckpointSource
from lerobot_pi0_ttnn.config_loading import load_config
from lerobot_pi0_ttnn.demo import LEARNED_CHECKPOINT
from lerobot_pi0_ttnn.model.config import TINY
from lerobot_pi0_ttnn.model.observation import blank_calls

from .oracle import sized


@pytest.fixture
def command_line(monkeypatch):
    def give(*arguments):
        monkeypatch.setattr("sys.argv", ["benchmark", *map(str, arguments)])

    return give


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    lerobot_cpu.make_checkpoint(folder, TINY)
    return folder


@pytest.fixture
def tiny_policy(monkeypatch):
    monkeypatch.setattr(PI0TTNNPolicy, "from_pretrained", partial(PI0TTNNPolicy.from_pretrained, architecture="tiny"))


def rows(printed):
    """The first cell of each line of a table, its header's first."""
    first = (line.split("|")[1].strip() for line in printed.splitlines() if line.startswith("| "))
    return [cell for cell in first if cell != "---"]


def test_against_lerobot(checkpoint, tiny_policy, monkeypatch):
    monkeypatch.setattr(lerobot_cpu, "CASES", ((2, 3), (1, 1)))
    with sized(TINY):
        table = lerobot_cpu.measure(lerobot_cpu.Arguments(checkpoint, rounds=1), TINY, lerobot_cpu.Served)
        starts = lerobot_cpu.measure_starts(checkpoint, lerobot_cpu.Served)
    assert starts.keys() == table["candidates"].keys()
    theirs, ours = table["candidates"].values()
    assert theirs["loaded_s"] == theirs["ready_s"]
    assert ours["loaded_s"] <= ours["ready_s"]
    assert list(ours["chunk_s"]) == ["2 of 3", "1 of 1"]
    for candidate in (theirs, ours):
        assert candidate["pcc_vs_float32"]["1 of 1"] > 0.999
    assert rows(lerobot_cpu.as_markdown(table))[1:] == [
        "checkpoint to ready, s",
        "checkpoint to ready without warming up, s",
        "peak memory, GiB",
        "one chunk, 1 of 1 cameras present, s",
        "one chunk, 2 of 3 cameras present, s",
        "PCC against float32, worst",
    ]


def test_a_policy_at_the_other_end_of_a_pipe(checkpoint, tiny_policy):
    """As `Remote` has it, whose process would take seconds to start."""
    noise = torch.randn(1, TINY.horizon, TINY.action_dim)
    request = lerobot_cpu.make_batch(1, TINY.vocab_size), 3, noise
    here, there = multiprocessing.Pipe()
    thread = threading.Thread(target=lerobot_cpu.serve, args=(lerobot_cpu.CANDIDATES[1], checkpoint, there))
    thread.start()
    assert here.recv().ready > 0
    here.send(request)
    _, actions = here.recv()
    here.send(None)
    assert here.recv() > 0
    thread.join()
    assert torch.equal(actions, lerobot_cpu.Served(lerobot_cpu.CANDIDATES[1], checkpoint).chunk(request)[1])


def test_warm_up(checkpoint, tiny_policy, monkeypatch, command_line, capsys):
    monkeypatch.setattr(warm_up, "make_batch", partial(lerobot_cpu.make_batch, vocab_size=TINY.vocab_size))
    command_line("--folder", checkpoint)
    warm_up.main()
    assert rows(capsys.readouterr().out) == ["warm_up", "false", "true"]


def test_weight_conversion(checkpoint, run_python, tmp_path):
    """A first start, which converts, and a second, each in a process of its own."""
    pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")
    program = """
import json, sys
from pathlib import Path
from benchmarks.weight_conversion import start
from lerobot_pi0_ttnn.model.config import TINY

found = start(Path(sys.argv[1]), Path(sys.argv[2]), TINY)
assert 0 < found["anonymous_peak_mib"] <= found["resident_peak_mib"], found
print(len(list(Path(sys.argv[2]).rglob("*.tensorbin"))))
"""
    first, second = (run_python(program, [checkpoint, tmp_path / "cache"]).splitlines()[-1] for _ in range(2))
    assert int(first) == int(second) > 50


def test_scaling(command_line, monkeypatch, capsys):
    monkeypatch.setattr(scaling_cpu, "PI0_BASE", TINY)
    points = {key: point for key, point in scaling_cpu.POINTS.items() if key in (("cameras", 2), ("tokens", 48))}
    monkeypatch.setattr(scaling_cpu, "POINTS", points)
    command_line("--rounds", 1)
    scaling_cpu.main()
    assert rows(capsys.readouterr().out)[1:] == ["cameras 2", "tokens 48"]


def test_int8(command_line, monkeypatch, capsys):
    monkeypatch.setattr(torch.backends.quantized, "engine", torch.backends.quantized.engine)
    monkeypatch.setattr(int8_cpu, "MATMULS", [(4, 64, 64)])
    monkeypatch.setattr(int8_cpu, "shallow", lambda _: TINY)
    learned = load_config(CheckpointSource(LEARNED_CHECKPOINT)).model_config()
    monkeypatch.setattr(int8_cpu, "observations", lambda _: [blank_calls(learned, [(1, 8)])[0][0]])
    command_line("--rounds", 1)
    int8_cpu.main()
    printed = capsys.readouterr().out
    assert len(rows(printed)) == 2 + 3 + 6
    (exact, *_), *_ = (
        [float(cell) for cell in line.split("|")[2:5]] for line in printed.splitlines() if "each token" in line
    )
    assert 0.9 < exact < 0.999999  # int8 was used, and is not far off


def test_lerobot_compiled(command_line, monkeypatch, capsys):
    """LeRobot's compiling is left out: it needs a C++ compiler, and minutes."""
    monkeypatch.setattr(torch, "compile", lambda function=None, **_: function or (lambda compiled: compiled))
    monkeypatch.setattr(lerobot_compiled, "shallow", lambda _: TINY)
    command_line("--cameras", 1, "--rounds", 1)
    lerobot_compiled.main()
    assert rows(capsys.readouterr().out)[1:] == ["LeRobot, eager", "LeRobot, compiled (max-autotune)", "ours"]


class TestOnABoard:
    @pytest.fixture(autouse=True)
    def _emulated(self, board, monkeypatch):
        if board.kind != "emulated":
            pytest.skip(f"only an emulated board follows shapes without values, this is a {board.kind}")
        monkeypatch.setattr(prediction, "PI0_BASE", TINY)

    def test_input_path(self, board, command_line, capsys):
        command_line("--rounds", 1, "--board", board.name)
        input_path.main()
        assert input_path.OURS in rows(capsys.readouterr().out)

    def test_fidelity(self, board, command_line, capsys):
        command_line("--board", board.name, "--rows", 32)
        fidelity.main()
        assert "split_heads, our own program" in rows(capsys.readouterr().out)

    def test_prediction(self, board, command_line, capsys, tmp_path):
        command_line(board.name, "--plot", tmp_path / "plot.png")
        prediction.main()
        assert "**all, predicted**" in rows(capsys.readouterr().out)
        assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_published(command_line, capsys):
    command_line()
    published.main()
    assert len(rows(capsys.readouterr().out)) == 1 + len(published.CASES)
