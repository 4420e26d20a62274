"""Prints what all of pi0_base dispatches to an emulated board, stage by stage: the tables of docs/graph.md.

    uv run python benchmarks/graph.py emulated:p150

Two cameras and a full prompt of 48 tokens, precision `balanced`. ttnn checks, allocates and compiles; nobody computes.
"""

import sys

import torch

from lerobot_pi0_ttnn.model_config import PI0_BASE
from lerobot_pi0_ttnn.tt.board import Board, open_board
from lerobot_pi0_ttnn.tt.report import NEEDED_ON_THE_HOST, graph_table, walk
from lerobot_pi0_ttnn.weights import expected_shapes


def pi0_base_graph(board: Board) -> str:
    """Returns the table for that board."""
    weights = {
        name: torch.zeros(shape, device="cpu" if name.startswith(NEEDED_ON_THE_HOST) else "meta")
        for name, shape in expected_shapes(PI0_BASE).items()
    }
    return graph_table(walk(PI0_BASE, weights, board, precision="balanced", cameras=2, tokens=48)["stages"])


if __name__ == "__main__":
    with open_board(sys.argv[1]) as opened:
        print(pi0_base_graph(opened))
