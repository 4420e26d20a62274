"""What varies where a benchmark asks how pi0_base's cost grows, and how the answer is shown."""

from collections.abc import Mapping
from pathlib import Path

from lerobot_pi0_ttnn.analysis.markdown import markdown_table

BASE = {"cameras": 2, "tokens": 12, "steps": 10, "batch": 1}
"""One thing at a time is moved from here."""
GROWTH = {"cameras": (1, 2, 3), "tokens": (12, 48), "steps": (5, 10, 20), "batch": (1, 2, 4)}
POINTS = {(what, value): BASE | {what: value} for what, values in GROWTH.items() for value in values}
"""All that is varied, for each value of what `GROWTH` varies."""

Costs = Mapping[tuple[str, int], Mapping[str, float]]
"""The cost of each stage, for each value of what `GROWTH` varies."""


def growth_table(costs: Costs, heading: str, digits: int) -> str:
    """Returns a Markdown table, with the sum of the stages as its last column.

    Args:
        costs: in the unit that `heading` names.
        heading: of the first column.
        digits: after the decimal point.
    """
    stages = list(costs["cameras", BASE["cameras"]])
    rows = []
    for (what, value), by_stage in costs.items():
        cells = [by_stage[stage] for stage in stages]
        cells.append(sum(cells))
        rows.append([f"{what} {value}", *(f"{cell:.{digits}f}" for cell in cells)])
    return markdown_table([heading, *stages, "all"], rows)


def draw(costs: Costs, unit: str, title: str, output: Path) -> None:
    """Writes a picture: a panel for each thing that varies, the stages stacked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.5), layout="constrained")
    panels = figure.subplots(1, len(GROWTH), sharey=True)
    for panel, (what, values) in zip(panels, GROWTH.items(), strict=True):
        bottoms = [0.0] * len(values)
        for stage in costs["cameras", BASE["cameras"]]:
            heights = [costs[what, value][stage] for value in values]
            panel.bar([str(value) for value in values], heights, bottom=bottoms, label=stage)
            bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
        panel.set_xlabel(what)
    panels[0].set_ylabel(unit)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    figure.suptitle(title, fontsize="medium")
    figure.savefig(output, dpi=80)
