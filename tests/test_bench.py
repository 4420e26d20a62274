"""`lerobot-pi0-ttnn bench`: what it prints, and what it keeps to itself without a card."""

import json
import time
from dataclasses import replace

import pytest
import torch
from lerobot.configs import FeatureType, PolicyFeature

from lerobot_pi0_ttnn import PI0TTNNConfig, PI05TTNNConfig
from lerobot_pi0_ttnn.checkpoint.files import CheckpointSource
from lerobot_pi0_ttnn.cli import main
from lerobot_pi0_ttnn.cli.bench.command import make_batch
from lerobot_pi0_ttnn.cli.bench.predict import usual_tokens
from lerobot_pi0_ttnn.cli.bench.report import as_text, draw
from lerobot_pi0_ttnn.cli.doctor.card import Card
from lerobot_pi0_ttnn.config_loading import load_config
from lerobot_pi0_ttnn.latency_report import HOST, TOTAL
from tests.checkpoints import edit_json, save_lerobot_checkpoint
from tests.models import MODELS, of_each
from tests.oracle import make_lerobot_policy

STEPS = ["step 1", "step 2"]


@pytest.mark.parametrize(
    ("model", "arguments", "tokens"),
    [("pi0", [], 12), ("pi05", [], 12 + 10 + 4 * 14), ("pi05", ["--tokens", "150"], 150)],
)
def test_either_model(model, arguments, tokens, tmp_path, capsys):
    """pi0.5's prompt is longer, with the state in it."""
    folder = save_lerobot_checkpoint(make_lerobot_policy(model=MODELS[model]), tmp_path / model)
    edit_json(folder / "config.json", architecture="tiny")
    timed = ["--backends", "torch", "--chunks", "1", "--steps", "1", *arguments]
    assert main(["bench", str(folder), *timed]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["tokens"] == tokens
    assert list(result["backends"]) == ["torch"]


def test_the_usual_prompt_of_pi05():
    """What its tokenizer makes of a state: PaliGemma's has a token for each digit, and one for the space before a number."""
    assert usual_tokens(PI05TTNNConfig()) == 78
    joints = PolicyFeature(FeatureType.STATE, (6,))
    assert usual_tokens(PI05TTNNConfig(input_features={"observation.state": joints})) == 46
    assert usual_tokens(PI05TTNNConfig(tokenizer_max_length=64)) == 64
    assert usual_tokens(PI0TTNNConfig()) == 12


@pytest.mark.parametrize("model", of_each("ttnn"))
def test_predicted_from_its_sizes_alone(model, board, capsys):
    name = board.name.removeprefix("emulated:")
    assert main(["bench", "--predict", "--model", model, "--board", name, "--steps", "2"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"{model}_base, from its sizes alone on ")
    assert json.loads(text.splitlines()[-1])["tokens"] == {"pi0": 12, "pi05": 78}[model]


def test_a_checkpoint_says_itself_what_it_is_of(checkpoint, capsys):
    assert main(["bench", str(checkpoint), "--model", "pi05"]) == 1
    assert "--model: for --predict and --graph; a checkpoint says itself" in capsys.readouterr().err


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = save_lerobot_checkpoint(make_lerobot_policy(n_action_steps=20), tmp_path_factory.mktemp("pi0"))
    edit_json(folder / "config.json", architecture="tiny")
    return folder


@pytest.fixture
def run(checkpoint, board, capsys):
    def run(*arguments):
        status = main(["bench", str(checkpoint), "--board", board.name, "--chunks", "3", "--steps", "2", *arguments])
        printed = capsys.readouterr()
        assert status == 0, printed.err
        return printed.out, json.loads(printed.out.splitlines()[-1])

    return run


def test_an_emulated_board_is_compared_but_not_timed(run, board):
    text, result = run("--cameras", "2", "--fps", "50")
    ours, theirs = result["backends"]["ttnn"], result["backends"]["torch"]
    assert ours["milliseconds"] == {}
    assert ours["ready_s"] is None
    assert result["speedup"] is None
    assert f"not timed: {board.name}" in text
    assert "ttnn p50" not in text
    assert 0.999 < result["pcc"] < 1.0
    assert list(theirs["milliseconds"]) == [TOTAL, HOST, "vision", "prefill", *STEPS]
    assert theirs["chunks"] == 3
    for said in ("PI0ModelTTNN on", "PI0ModelTorch on CPU", "balanced", "2 steps", "2 of 3 cameras", "tokens"):
        assert said in text
    assert result["control_period_ms"] == 20.0
    assert "ticks of 20.0 ms at 50 fps" in text


def test_a_card_is_timed_with_and_without_waiting(run, board, monkeypatch):
    """No card here: the emulated board says that it is one."""
    waited = []
    monkeypatch.setattr(board, "kind", "card")
    monkeypatch.setattr(type(board), "why_no_trace", "a test")
    monkeypatch.setattr(type(board), "wait", lambda board: waited.append(board) or time.sleep(0.15))
    read = iter(("1000", "880"))
    card = Card("0000:01:00.0", "wormhole_b0", "n150", "", "")
    monkeypatch.setattr("lerobot_pi0_ttnn.cli.bench.command.read_cards", lambda sys: [replace(card, clock=next(read))])
    text, result = run("--cameras", "1")
    assert result["backends"]["ttnn"]["clock_mhz"] == {
        "n150 at 0000:01:00.0": {"before": "1000", "after": "880", "full": 1000}
    }
    assert result["backends"]["torch"]["clock_mhz"] == {}
    assert "1000 MHz before, 880 MHz after, of 1000 MHz: what was timed at a low clock" in text
    milliseconds = result["backends"]["ttnn"]["milliseconds"]
    assert set(milliseconds) == {TOTAL, HOST, "upload", "vision", "prefill", *STEPS, "readback"}
    assert {stage["count"] for stage in milliseconds.values()} == {3}
    assert len(waited) == 3 * (len(milliseconds) - 2)
    parts = sum(stage["p50"] for name, stage in milliseconds.items() if name != TOTAL)
    assert milliseconds[TOTAL]["p50"] < parts - 150 * 7 / 2, "the total is without waiting"
    both = [result["backends"][backend]["milliseconds"][TOTAL]["p50"] for backend in ("torch", "ttnn")]
    assert result["speedup"] == pytest.approx(both[0] / both[1])
    assert f"{result['speedup']:.1f}x |" in text


def test_a_batch_on_both_backends(run):
    text, result = run("--batch", "2", "--steps", "1", "--cameras", "1", "--chunks", "1")
    assert "batch 2" in text
    assert 0.999 < result["pcc"] < 1.0


def test_one_backend(run):
    text, result = run("--backends", "torch", "--dtype", "bfloat16")
    assert list(result["backends"]) == ["torch"]
    assert result["backends"]["torch"]["precision"] == "bfloat16"
    assert "speedup" not in text.rpartition("{")[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cameras", "4"], "--cameras: expected at most 3"),
        (["--tokens", "49"], "--tokens: expected at most 48"),
    ],
)
def test_more_than_the_checkpoint_takes(checkpoint, capsys, arguments, message):
    assert main(["bench", str(checkpoint), *arguments]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--fps", "0"], ["--fps", "inf"], ["--chunks", "0"], ["--steps", "-1"]])
def test_bad_numbers(checkpoint, capsys, arguments):
    with pytest.raises(SystemExit):
        main(["bench", str(checkpoint), *arguments])
    assert "expected" in capsys.readouterr().err


def test_the_batch_is_what_was_asked_for(checkpoint):
    batch = make_batch(load_config(CheckpointSource(checkpoint)), cameras=2, tokens=5)
    assert sorted(name for name in batch if "image" in name) == ["observation.images.front", "observation.images.wrist"]
    assert batch["observation.images.front"].shape == (1, 3, 480, 640)
    assert batch["observation.language.attention_mask"].sum() == 5
    assert batch["observation.state"].shape == (1, 14)
    rows = make_batch(load_config(CheckpointSource(checkpoint)), rows=2, cameras=2, tokens=5)
    assert {value.shape[0] for value in rows.values()} == {2}
    assert rows["observation.language.attention_mask"].sum() == 10
    assert not torch.equal(*rows["observation.images.front"])
    assert not torch.equal(*rows["observation.language.tokens"])


def stages(**medians):
    return {
        name: {"count": 9, "p50": value, "p95": value * 2, "p99": value * 3, "max": value * 4, "jitter": 0.5}
        for name, value in medians.items()
    }


@pytest.fixture
def result():
    """Two backends, by hand: 400 ms and 50 ms."""
    board = {"name": "0", "kind": "card", "arch": "blackhole", "grid": [13, 10], "chips": 1}
    common = {"steps": 10, "chunks": 9, "note": None, "clock_mhz": {}}
    on_card = stages(**{TOTAL: 50.0, HOST: 2.0, "upload": 1.0, "step 10": 2.0, "step 2": 3.0, "readback": 1.0})
    return {
        "checkpoint": "somewhere",
        "cameras": 2,
        "camera_slots": 3,
        "tokens": 12,
        "batch": 1,
        "n_action_steps": 10,
        "fps": 20.0,
        "control_period_ms": 50.0,
        "speedup": 8.0,
        "pcc": 0.99987654,
        "backends": {
            "torch": common
            | {
                "model": "PI0ModelTorch",
                "board": None,
                "precision": "bfloat16",
                "milliseconds": stages(**{TOTAL: 400.0}),
            },
            "ttnn": common | {"model": "PI0ModelTTNN", "board": board, "precision": "fast", "milliseconds": on_card},
        },
    }


def test_it_says_what_the_chips_were_given(result):
    assert "batch 1" in as_text(result)
    assert "on 0 (card, blackhole, 13 x 10)" in as_text(result)
    result["batch"] = result["backends"]["ttnn"]["board"]["chips"] = 2
    assert "batch 2" in as_text(result)
    assert "on 0 (card, blackhole, 2 chips of 13 x 10)" in as_text(result)


def test_a_full_clock_is_said_and_no_more(result):
    result["backends"]["ttnn"]["clock_mhz"] = {"p150a": {"before": "1350", "after": "1350", "full": 1350}}
    assert "p150a: 1350 MHz before, 1350 MHz after\n" in as_text(result) + "\n"


def test_the_table(result):
    text = as_text(result)
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    columns = ("p50", "p95", "p99", "max", "jitter")
    assert table[0] == ["ms", *(f"torch {c}" for c in columns), *(f"ttnn {c}" for c in columns), "speedup"]
    assert [row[0] for row in table[2:]] == [TOTAL, HOST, "upload", "step 2", "step 10", "readback"]
    cells = "400.00 800.00 1200.00 1600.00 0.50 50.00 100.00 150.00 200.00 0.50 8.0x"
    assert table[2][1:] == cells.split()
    assert table[3][1:6] == [""] * 5
    assert "PCC 0.999877" in text
    assert (
        "torch: a chunk takes 1200.0 ms (p99), 24 ticks of 50.0 ms at 20 fps, and lasts 10 ticks: it does not keep up"
        in text
    )
    assert "ttnn: a chunk takes 150.0 ms (p99), 3 ticks of 50.0 ms at 20 fps, and lasts 10 ticks: it keeps up" in text
    assert "0 (card, blackhole, 13 x 10), fast, 10 steps, 9 chunks" in text


def test_the_picture(result, tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    bars, lines = [], []
    barh, axvline = Axes.barh, Axes.axvline
    monkeypatch.setattr(Axes, "barh", lambda axes, *a, **k: bars.append((a, k)) or barh(axes, *a, **k))
    monkeypatch.setattr(Axes, "axvline", lambda axes, x, **k: lines.append(x) or axvline(axes, x, **k))
    draw(result, tmp_path / "pictures" / "bench.png")
    assert (tmp_path / "pictures" / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert [(k["label"], k["left"], a[1]) for a, k in bars] == [
        (HOST, 0.0, 2.0),
        ("upload", 2.0, 1.0),
        ("Euler steps", 3.0, 3.0),
        ("Euler steps", 6.0, 2.0),
        ("readback", 8.0, 1.0),
    ]
    assert lines == [50.0, 500.0]


def test_no_picture_of_nothing(result, tmp_path):
    for report in result["backends"].values():
        report["milliseconds"] = {}
    with pytest.raises(ValueError, match="nothing was timed"):
        draw(result, tmp_path / "bench.png")
