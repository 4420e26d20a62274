"""The model cut in two, on paper: what is interpolated, what is halved, and what the table sums up."""

import pytest

from benchmarks.tensor_parallel import ALL_GATHER, ALL_REDUCE, as_table, halved, measured
from lerobot_pi0_ttnn.model.config import PI0_BASE


@pytest.mark.parametrize(
    ("table", "size", "microseconds"),
    [
        pytest.param(ALL_REDUCE, 4096, 12.82, id="smallest"),
        pytest.param(ALL_REDUCE, 131072, 34.04, id="as-measured"),
        pytest.param(ALL_REDUCE, 98304, (24.44 + 34.04) / 2, id="half-way"),
        pytest.param(ALL_GATHER, 2097152, 171.42, id="gather"),
        pytest.param(ALL_REDUCE, 4194304, 603.63, id="largest"),
    ],
)
def test_between_what_was_measured(table, size, microseconds):
    assert measured(table, size) == pytest.approx(microseconds)


@pytest.mark.parametrize("size", [4095, 4194305])
def test_nothing_is_said_of_other_sizes(size):
    with pytest.raises(ValueError, match="expected 4096 to 4194304"):
        measured(ALL_REDUCE, size)


def test_half_of_the_heads_and_of_the_mlp():
    half = halved(PI0_BASE)
    assert [
        (g.width, g.num_heads, g.num_kv_heads, g.head_dim, g.mlp_dim, g.depth) for g in (half.vlm, half.expert)
    ] == [
        (2048, 4, 1, 256, 8192, 18),
        (1024, 4, 1, 256, 2048, 18),
    ]
    assert half.vision == PI0_BASE.vision


def test_the_sums():
    def row(stage, one, cut, exchanging, best):
        sizes = {"exchanges": 2, "bytes each": 1000, "us each": 3.0}
        times = {"cut: computing": cut, "exchanging": exchanging, "cut: all": cut + exchanging, "best": best}
        return {"stage": stage, "one chip": one, **times, **sizes}

    lines = as_table([row("gains", 10.0, 5.0, 1.0, 5.5), row("loses", 4.0, 3.0, 3.0, 3.5)]).splitlines()
    assert lines[2].split(" | ")[1:] == ["10.0", "5.0", "2", "1", "3", "1.0", "6.0", "1.67x |"]
    assert lines[4].split(" | ")[1:] == ["14.0", "8.0", "", "", "", "4.0", "12.0", "1.17x |"]
    assert lines[-2].endswith("the rest on one chip: 10.0 ms, 1.40x.")
    assert "9.0 ms, 1.56x." in lines[-1]
