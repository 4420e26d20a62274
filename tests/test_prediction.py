"""What `bench --predict` and `--graph` say of a board that is not there."""

import json
import re

import pytest

pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

from benchmarks.cases import BF16, BFP8, P150
from benchmarks.published import matmul, norm, pointwise
from lerobot_pi0_ttnn.analysis.cost import cost
from lerobot_pi0_ttnn.analysis.prediction import NOTE, floor, predict
from lerobot_pi0_ttnn.analysis.report import EXPERT_LAYER, STEP, Stage
from lerobot_pi0_ttnn.cli import main
from tests.checkpoints import edit_json, save_lerobot_checkpoint
from tests.oracle import make_lerobot_policy


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = save_lerobot_checkpoint(make_lerobot_policy(n_action_steps=20), tmp_path_factory.mktemp("pi0"))
    edit_json(folder / "config.json", architecture="tiny")
    return folder


@pytest.fixture
def run(checkpoint, board, capsys):
    if board.kind != "emulated":
        pytest.skip(f"only an emulated board follows shapes without values, this is a {board.kind}")

    def run(*arguments):
        status = main(["bench", str(checkpoint), "--board", board.name.removeprefix("emulated:"), *arguments])
        printed = capsys.readouterr()
        assert status == 0, printed.err
        return printed.out, json.loads(printed.out.splitlines()[-1])

    return run


STAGES = {
    "upload": Stage([], 3, 100, 0),
    "prefill": Stage([norm(64, 1024), matmul(64, 1024, 4096, BF16, BFP8, "HiFi2")], 0, 0, 0),
    STEP: Stage([pointwise(64, 1024), norm(64, 1024)], 0, 0, 0),
    EXPERT_LAYER: Stage([norm(64, 1024)], 0, 0, 0),
}


def test_the_sum_of_the_stages_is_the_total():
    prediction = predict(STAGES, P150, steps=7)
    assert list(prediction["stages"]) == ["prefill", STEP], "a layer is part of the step, and an upload no operation"
    expected = [1e3 * sum(cost(one, P150).seconds for one in STAGES[name].operations) for name in ("prefill", STEP)]
    assert [stage["ms"] for stage in prediction["stages"].values()] == pytest.approx([expected[0], 7 * expected[1]])
    for what in ("ms", "floor_ms", "untraced_ms", "operations"):
        assert prediction["total"][what] == pytest.approx(sum(s[what] for s in prediction["stages"].values()))
    assert prediction["total"]["operations"] == 2 + 7 * 2
    assert prediction["stages"][STEP]["untraced_ms"] == pytest.approx(7 * 2 * 25e-3), "the host is slower than each"
    assert sum(prediction["stages"]["prefill"]["waits"].values()) == pytest.approx(1)
    assert sum(row["share"] for row in prediction["most_expensive"]) == pytest.approx(1)
    assert sum(prediction["classes"].values()) == pytest.approx(prediction["total"]["ms"])
    least, most = prediction["between_ms"]
    assert least < prediction["total"]["ms"] < most
    assert sum(row["count"] for row in prediction["most_expensive"]) == 16


def test_the_floor():
    """Weights once; what the stage made itself, not; at the peak and at the DRAM's own rate."""
    weights = 1024 * 4096 * 1088 / 1024
    one = matmul(64, 1024, 4096, BF16, BFP8, "HiFi4")
    assert floor([one], P150) == pytest.approx((weights + 64 * 1024 * 2) / 512e9)
    made = {("DRAM", 0): 64 * 1024 * 2}
    before = norm(64, 1024)
    feeding = type(before)(before.name, {("DRAM", 9): 64 * 1024 * 2}, made, {("DRAM", 9): before.operands["DRAM", 0]})
    assert floor([feeding, one], P150) == pytest.approx((weights + 64 * 1024 * 2) / 512e9)
    large = matmul(32 * 110, 4096, 4096, BF16, BFP8, "HiFi4")
    assert floor([large], P150) == pytest.approx(2 * 32 * 110 * 4096 * 4096 / P150.peak("HiFi4"))


def test_the_floor_is_never_above_the_prediction():
    for stage in predict(STAGES, P150, steps=1)["stages"].values():
        assert 0 < stage["floor_ms"] < stage["ms"]


def test_everything_printed_is_marked(run):
    text, result = run("--predict", "--graph", "--cameras", "2", "--steps", "4")
    assert NOTE.capitalize() in text
    assert "nothing here was timed" in text
    assert "| predicted, ms | traced | floor |" in text
    assert "**all, predicted**" in text
    assert "most expensive operations, predicted" in text
    for name in result["prediction"]["classes"]:
        assert re.search(rf"\| {re.escape(name)} \|.*\| ([-+]\d+% to [-+]\d+%|not measured) \|", text), (
            "no error is said"
        )
    assert f"4 x {STEP}" in text
    assert "| device operations | new prompt | vision and language | prefill |" in text
    assert result["prediction"]["note"] == NOTE
    assert result["graph"][STEP]["operations"]["attend"]["count"] == 3
    assert result["cameras"] == 2
    assert result["prediction"]["stages"][STEP]["operations"] == 4 * (8 * 3 + 6)


def test_graph_alone_predicts_nothing(run):
    text, result = run("--graph")
    assert "redict" not in text
    assert "prediction" not in result


def test_more_is_never_cheaper(run):
    def milliseconds(*arguments):
        return run("--predict", *arguments)[1]["prediction"]["total"]["ms"]

    def step(*arguments):
        return run("--predict", *arguments)[1]["prediction"]["stages"][STEP]["ms"]

    cameras = [milliseconds("--cameras", str(cameras)) for cameras in (1, 2, 3)]
    assert cameras == sorted(set(cameras))
    # Not the prefix: of 576 tokens attention takes whole chunks of 64 queries, of 544 chunks of 32, which cost more. Not up to
    # 48 tokens: its keys and the suffix's are the same chunks.
    assert step("--tokens", "12") == step("--tokens", "48") < step("--tokens", "100")
    assert milliseconds("--steps", "2") < milliseconds("--steps", "3")
    assert milliseconds("--precision", "fast") <= milliseconds("--precision", "accurate")


@pytest.mark.parametrize("board_name", ["auto", "emulated:p999"])
def test_a_board_that_cannot_be_emulated(checkpoint, capsys, board_name):
    assert main(["bench", str(checkpoint), "--predict", "--board", board_name]) == 1
    assert "expected one of emulated:n150" in capsys.readouterr().err


def test_without_a_checkpoint_nothing_is_timed(capsys):
    assert main(["bench"]) == 1
    assert "only --predict and --graph do without one" in capsys.readouterr().err
