"""Prints what all of pi0_base should take on a board, and how that grows: the tables and the plot of docs/prediction.md.

    uv run python -m benchmarks.prediction emulated:p150 --plot docs/prediction_p150.png

ttnn plans every operation of an emulated board and nobody computes: a prediction, which nobody has measured.
"""

import argparse
from pathlib import Path
from typing import Any

from lerobot_pi0_ttnn.model_config import PI0_BASE
from lerobot_pi0_ttnn.tt.board import Board, open_board
from lerobot_pi0_ttnn.tt.cost import machine
from lerobot_pi0_ttnn.tt.model import PI0ModelTTNN
from lerobot_pi0_ttnn.tt.prediction import NOTE, dearest_table, predict, prediction_table
from lerobot_pi0_ttnn.tt.report import ShapesOnly, Stage, made_up_weights, operations_by_stage

CAMERAS, TOKENS, STEPS, BATCH = 2, 12, 10, 1
GROWTH = {"cameras": (1, 2, 3), "tokens": (12, 48), "steps": (5, 10, 20), "batch": (1, 2, 4)}
PRECISION = "balanced"


def predictions(board: Board) -> dict[tuple[str, int], dict[str, Any]]:
    """Returns the prediction for each value of what `GROWTH` varies, all else as above."""
    with board.lock, board.shapes_only():
        model = PI0ModelTTNN(PI0_BASE, ShapesOnly(made_up_weights(PI0_BASE)), board.device, precision=PRECISION)
        walks: dict[tuple[int, int], dict[str, Stage]] = {}
        for cameras, tokens in [(cameras, TOKENS) for cameras in GROWTH["cameras"]] + [
            (CAMERAS, tokens) for tokens in GROWTH["tokens"]
        ]:
            if (cameras, tokens) not in walks:
                walks[cameras, tokens] = operations_by_stage(model, board, cameras=cameras, tokens=tokens)
        on = machine(board.describe())
    found = {}
    for what, values in GROWTH.items():
        for value in values:
            call = {"cameras": CAMERAS, "tokens": TOKENS, "steps": STEPS} | ({what: value} if what != "batch" else {})
            found[what, value] = predict(walks[call["cameras"], call["tokens"]], on, steps=call["steps"])
    return found


def growth_table(found: dict[tuple[str, int], dict[str, Any]]) -> str:
    """Returns a Markdown table of milliseconds by stage for each of `predictions`; the rows of a batch run one by one."""
    stages = list(found["cameras", CAMERAS]["stages"])
    lines = [f"| predicted, ms | {' | '.join(stages)} | all |", f"| --- |{' ---: |' * (len(stages) + 1)}"]
    for (what, value), prediction in found.items():
        rows = value if what == "batch" else 1
        cells = [rows * prediction["stages"][stage]["ms"] for stage in stages] + [rows * prediction["total"]["ms"]]
        lines.append(f"| {what} {value} | {' | '.join(f'{cell:.1f}' for cell in cells)} |")
    return "\n".join(lines)


def draw(found: dict[tuple[str, int], dict[str, Any]], board: str, output: Path) -> None:
    """Writes a picture: a panel for each thing that varies, the stages stacked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.5), layout="constrained")
    panels = figure.subplots(1, len(GROWTH), sharey=True)
    for panel, (what, values) in zip(panels, GROWTH.items(), strict=True):
        bottoms = [0.0] * len(values)
        for stage in found["cameras", CAMERAS]["stages"]:
            heights = [
                (value if what == "batch" else 1) * found[what, value]["stages"][stage]["ms"] for value in values
            ]
            panel.bar([str(value) for value in values], heights, bottom=bottoms, label=stage)
            bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
        panel.set_xlabel(what)
    panels[0].set_ylabel("predicted ms")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    figure.suptitle(f"pi0_base on {board}: {NOTE}", fontsize="medium")
    figure.savefig(output, dpi=80)


def main() -> None:
    """Prints the tables of the board that is named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("board", help="emulated:n150, emulated:p150, ...")
    parser.add_argument("--plot", type=Path, help="the picture's file")
    options = parser.parse_args()
    with open_board(options.board) as board:
        found = predictions(board)
    prediction = found["cameras", CAMERAS]
    print("\n\n".join([prediction_table(prediction), dearest_table(prediction), growth_table(found)]))
    if options.plot:
        draw(found, options.board, options.plot)


if __name__ == "__main__":
    main()
