"""Prints what all of pi0_base dispatches to an emulated board, stage by stage: the tables of docs/graph.md.

    uv run python -m benchmarks.graph emulated:p150

Two cameras and a full prompt of 48 tokens, precision `balanced`. ttnn checks, allocates and compiles; nobody computes.
"""

import argparse

from lerobot_pi0_ttnn.device.board import Board, open_board
from lerobot_pi0_ttnn.model.config import PI0_BASE
from lerobot_pi0_ttnn.tt.report import graph_table, made_up_weights, walk


def pi0_base_graph(board: Board) -> str:
    """Returns the table for that board."""
    report = walk(PI0_BASE, made_up_weights(PI0_BASE), board, precision="balanced", cameras=2, tokens=48)
    return graph_table(report["stages"])


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("board", help="emulated:n150, emulated:p150, ...")
    with open_board(parser.parse_args().board) as board:
        print(pi0_base_graph(board))


if __name__ == "__main__":
    main()
