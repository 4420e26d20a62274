"""Measured against predicted, as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SLOW = 2.0
"""Times its prediction: from there on an operation is named."""


def draw(rows: Sequence[Mapping[str, Any]], output: Path) -> None:
    """Writes the picture: each operation's measured time over its predicted one, the area by what a chunk spends on it.

    Args:
        rows: as `TimedOperation.as_json` has them, one at least.
        output: the picture's file; its suffix is its format.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 8), layout="constrained")
    axes = figure.subplots()
    total = sum(row["count"] * row["us"] for row in rows)
    names = [row["operation"].split()[0] for row in rows]
    for name in dict.fromkeys(names):
        of_name = [row for row, of in zip(rows, names, strict=True) if of == name]
        areas = [10 + 1000 * row["count"] * row["us"] / total for row in of_name]
        predicted, measured = [row["predicted_us"] for row in of_name], [row["us"] for row in of_name]
        axes.scatter(predicted, measured, s=areas, alpha=0.6, label=name)
    ends = [min(row["predicted_us"] for row in rows) / 2, max(row["predicted_us"] for row in rows) * 2]
    axes.plot(ends, ends, color="black", lw=1, label="as predicted")
    axes.plot(ends, [SLOW * end for end in ends], color="tab:red", lw=1, ls=":", label=f"{SLOW:g} times that")
    axes.set(xscale="log", yscale="log", xlabel="predicted, us", ylabel="measured, us")
    axes.set_title("each distinct operation of a chunk; the area is its share of the chunk")
    axes.legend(fontsize="small")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=100)
