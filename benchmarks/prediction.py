"""Prints what all of pi0_base should take on a board, and how that grows: the tables and the plot of docs/prediction.md.

    uv run python -m benchmarks.prediction emulated:p150 --plot docs/prediction_p150.png
    uv run python -m benchmarks.prediction emulated:p150 --left-to-ttnn

ttnn plans every operation of an emulated board and nobody computes: a prediction, which nobody has measured.
"""

import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import ttnn

from lerobot_pi0_ttnn.analysis.cost import machine
from lerobot_pi0_ttnn.analysis.prediction import NOTE, classes_table, most_expensive_table, predict, prediction_table
from lerobot_pi0_ttnn.analysis.report import ShapesOnly, Stage, made_up_weights, operations_by_stage
from lerobot_pi0_ttnn.device.board import Board, open_board
from lerobot_pi0_ttnn.device.executor import PI0ModelTTNN
from lerobot_pi0_ttnn.model.config import PI0_BASE
from lerobot_pi0_ttnn.tt.program import Programs

from .growth import BASE, POINTS, Costs, draw, growth_table

PRECISION = "balanced"
Point = tuple[str, int]


@contextmanager
def left_to_ttnn() -> Iterator[None]:
    """Leaves to ttnn, in the context, the program of each matmul and where the expert's stream lies: interleaved in DRAM."""
    with (
        patch.object(Programs, "matmul", lambda *_: None),
        patch.object(Programs, "group_matmul", lambda *_, **__: None),
        patch.object(Programs, "in_shards", lambda *_: ttnn.DRAM_MEMORY_CONFIG),
    ):
        yield


def predictions(board: Board, points: Mapping[Point, Mapping[str, int]] = POINTS) -> dict[Point, dict[str, Any]]:
    """Returns the prediction for each of the points.

    Args:
        board: an emulated one.
        points: calls, such as those of `POINTS`.
    """
    with board.lock, board.shapes_only():
        model = PI0ModelTTNN(PI0_BASE, ShapesOnly(made_up_weights(PI0_BASE)), board.device, precision=PRECISION)
        walks: dict[tuple[int, ...], dict[str, Stage]] = {}
        for call in points.values():
            cameras, tokens, rows = shape = _shape(call)
            if shape not in walks:
                walks[shape] = operations_by_stage(model, board, cameras=cameras, tokens=tokens, rows=rows)
        on = machine(board.describe())
    return {key: predict(walks[_shape(call)], on, steps=call["steps"]) for key, call in points.items()}


def _shape(call: Mapping[str, int]) -> tuple[int, int, int]:
    return call["cameras"], call["tokens"], call["batch"]


def milliseconds(found: dict[tuple[str, int], dict[str, Any]]) -> Costs:
    """Returns what each stage of `predictions` takes."""
    return {
        point: {stage: predicted["ms"] for stage, predicted in prediction["stages"].items()}
        for point, prediction in found.items()
    }


def main() -> None:
    """Prints the tables of the board that is named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("board", help="emulated:n150, emulated:p150, ...")
    parser.add_argument("--plot", type=Path, help="the picture's file")
    parser.add_argument(
        "--left-to-ttnn", action="store_true", help="print what a call should take by ttnn's own programs"
    )
    options = parser.parse_args()
    if options.left_to_ttnn:
        point = "cameras", BASE["cameras"]
        with open_board(options.board) as board, left_to_ttnn():
            print(f"{predictions(board, {point: BASE})[point]['total']['ms']:.1f} ms, predicted")
        return
    with open_board(options.board) as board:
        found = predictions(board)
    prediction, costs = found["cameras", BASE["cameras"]], milliseconds(found)
    print(
        "\n\n".join(
            [
                prediction_table(prediction),
                classes_table(prediction),
                most_expensive_table(prediction),
                growth_table(costs, "predicted, ms", 1),
            ]
        )
    )
    if options.plot:
        draw(costs, "predicted ms", f"pi0_base on {options.board}: {NOTE}", options.plot)


if __name__ == "__main__":
    main()
