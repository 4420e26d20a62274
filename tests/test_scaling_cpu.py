"""What benchmarks/scaling_cpu.py asks of the model, and what it makes of the times."""

import itertools

import pytest

from benchmarks.growth import BASE, draw, growth_table
from benchmarks.scaling_cpu import measure, random_model, time_chunk
from lerobot_pi0_ttnn.model.config import TINY

POINTS = [("cameras", 1), ("cameras", 2), ("cameras", 3), ("tokens", 12), ("tokens", 48), ("steps", 5), ("steps", 10)]
POINTS += [("steps", 20), ("batch", 1), ("batch", 2), ("batch", 4)]


def test_a_machine_that_slows_down_changes_no_ratio():
    speed = itertools.count(5)  # the first chunk is not timed

    def chunk(point):
        slower = next(speed) // 2  # the same for a base chunk and the one after it
        return {"vision": slower * point["cameras"] * point["batch"], "denoising": slower * 3 * point["steps"]}

    costs = measure(chunk, rounds=3)
    assert list(costs) == POINTS
    base = costs["cameras", 2]
    assert costs["tokens", 12] == costs["steps", 10] == costs["batch", 1] == base
    relative = {key: [cost[stage] / base[stage] for stage in ("vision", "denoising")] for key, cost in costs.items()}
    assert relative["cameras", 1] == pytest.approx([0.5, 1])
    assert relative["cameras", 3] == pytest.approx([1.5, 1])
    assert relative["tokens", 48] == pytest.approx([1, 1])
    assert relative["steps", 5] == pytest.approx([1, 0.5])
    assert relative["batch", 4] == pytest.approx([4, 1])


def test_the_model_is_asked_for_what_the_point_says(monkeypatch):
    model = random_model(TINY)
    shapes = {}
    prefill, forward = model.backbone.prefill, model.backbone.forward_suffix

    def watch_prefill(embeddings, context):
        shapes["prefix"] = tuple(embeddings.shape)
        assert context.is_real.all()
        return prefill(embeddings, context)

    def watch_forward(x, prefix, modulations):
        shapes["steps"] = shapes.get("steps", 0) + 1
        return forward(x, prefix, modulations)

    monkeypatch.setattr(model.backbone, "prefill", watch_prefill)
    monkeypatch.setattr(model.backbone, "forward_suffix", watch_forward)
    seconds = time_chunk(model, BASE | {"cameras": 3, "tokens": 48, "steps": 5, "batch": 2})
    assert shapes == {"prefix": (2, 3 * 256 + 48, 128), "steps": 5}
    assert list(seconds) == ["vision", "prefill", "denoising"]
    assert min(seconds.values()) > 0


def test_table_and_plot(tmp_path):
    costs = {point: {"vision": 1.234, "denoising": 2.0} for point in POINTS}
    lines = growth_table(costs, "measured, s", 2).splitlines()
    assert lines[0] == "| measured, s | vision | denoising | all |"
    assert lines[2] == "| cameras 1 | 1.23 | 2.00 | 3.23 |"
    assert len(lines) == 2 + len(POINTS)
    draw(costs, "seconds", "measured", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
