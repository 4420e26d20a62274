"""Prints what all of pi0_base dispatches to an emulated board, stage by stage: the tables of docs/graph.md.

    uv run python benchmarks/graph.py emulated:p150

Two cameras and a full prompt of 48 tokens, precision `balanced`. ttnn checks, allocates and compiles; nobody computes.
"""

import sys

from lerobot_pi0_ttnn.model_config import PI0_BASE
from lerobot_pi0_ttnn.tt.board import Board, open_board
from lerobot_pi0_ttnn.tt.report import graph_table, made_up_weights, walk


def pi0_base_graph(board: Board) -> str:
    """Returns the table for that board."""
    report = walk(PI0_BASE, made_up_weights(PI0_BASE), board, precision="balanced", cameras=2, tokens=48)
    return graph_table(report["stages"])


if __name__ == "__main__":
    with open_board(sys.argv[1]) as opened:
        print(pi0_base_graph(opened))
