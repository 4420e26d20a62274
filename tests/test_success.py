"""The tables of docs/success.md, from outcomes made up here."""

import json
from dataclasses import asdict

import pytest

pytest.importorskip("metaworld", reason="LeRobot's environment is not installed")

from benchmarks import success
from training.closed_loop import Outcomes, Series

TASKS = ["faucet-open-v3", "faucet-close-v3"]


@pytest.mark.parametrize(
    "name", ["lerobot", "torch/without-image", "balanced/delay-4", "torch/delay-8/rtc", "torch/without-prompt/rtc"]
)
def test_a_series_has_a_name(name):
    assert Series.parse(name).name == name


@pytest.mark.parametrize("name", ["nobody", "torch/without-legs", "torch/rtc/delay-2", "torch/delay-x"])
def test_a_wrong_name(name):
    with pytest.raises(ValueError, match=r"expected WHO|invalid literal"):
        Series.parse(name)


@pytest.mark.parametrize(
    ("solved", "episodes", "want"), [(8, 10, (49.0, 94.3)), (0, 10, (0.0, 27.8)), (10, 10, (72.2, 100.0))]
)
def test_wilsons_interval(solved, episodes, want):
    """Literals of statsmodels' `proportion_confint(method="wilson")`."""
    assert success.interval(solved, episodes) == pytest.approx(want, abs=0.05)


def write(folder, series, *outcomes):
    for task, outcome in zip(TASKS, outcomes, strict=True):
        Series.parse(series).path(folder, task).write_text(json.dumps(asdict(outcome)))


def test_table(tmp_path):
    write(tmp_path, "torch", Outcomes([True, False], [40, 160], 25), Outcomes([True, True], [60, 80], 18))
    row = success.table([Series("torch")], TASKS, tmp_path).splitlines()[-1]
    assert row == "| torch | 1/2 | 2/2 | 75.0 (30.1 to 95.4) | 60.0 | 43 |"


def test_delays(tmp_path, monkeypatch, capsys):
    for series, jump in (
        ("torch", 0.1),
        ("torch/rtc", 0.2),
        ("torch/delay-8", 0.3),
        ("torch/delay-8/rtc", float("nan")),
    ):
        write(tmp_path, series, *[Outcomes([True], [9], 2, [jump]), Outcomes([False], [160], 20, [0.1])])
    flags = ["--who", "torch", "--delays", "0", "8", "--episodes", "1", "--tasks", *TASKS, "--output", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["success", *flags, "--plot", str(tmp_path / "delays.png")])
    success.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == [
        "| 0 | 50.0 (9.5 to 90.5) | 0.100 | 50.0 (9.5 to 90.5) | 0.150 |",
        "| 8 | 50.0 (9.5 to 90.5) | 0.200 | 50.0 (9.5 to 90.5) | 0.100 |",
    ]
    assert (tmp_path / "delays.png").read_bytes().startswith(b"\x89PNG")
