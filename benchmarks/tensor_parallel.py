"""Prints what one call should take if each layer of Gemma were cut in two for the chips of an n300: a table of docs/n300.md.

    uv run python -m benchmarks.tensor_parallel

Megatron's cut: each chip has half of the query heads and of the MLP's columns, the one key/value head is on both, and after
o_proj and after down_proj the halves are added up by an all-reduce. So a chip's graph is that of a model with half the
heads and half the MLP, which ttnn plans on an emulated n300 and `tt/cost.py` prices, and the all-reduces come on top, as
others measured them. SigLIP is not cut: each chip takes one of the two cameras, and they exchange what they made of it.
A prediction, which nobody has measured.
"""

import argparse
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lerobot_pi0_ttnn.device.board import Board, open_board
from lerobot_pi0_ttnn.model.config import PI0_BASE, PI0ModelConfig
from lerobot_pi0_ttnn.tt.cost import machine
from lerobot_pi0_ttnn.tt.prediction import NOTE, predict
from lerobot_pi0_ttnn.tt.report import Stage, dispatched, made_up_weights

from .growth import BASE
from .prediction import PRECISION

BOARD = "emulated:n300"
VISION = "vision and language"
BYTES = 2
"""Of a number that is exchanged: bfloat16, though the expert's stream is float32. The cut is given the better of the two."""

# tt-metal, tech_reports/CCLs/results/SUMMARY_wormhole_b0_bfloat16_6144.md: two chips of a T3000, one link, tensors in DRAM,
# traced; bytes of the whole tensor and microseconds of the kernel.
ALL_REDUCE = (
    (4096, 12.82),
    (8192, 13.97),
    (16384, 15.96),
    (32768, 19.01),
    (65536, 24.44),
    (131072, 34.04),
    (262144, 52.30),
    (524288, 90.43),
    (1048576, 162.98),
    (2097152, 309.52),
    (4194304, 603.63),
)
ALL_GATHER = ((524288, 48.31), (1048576, 89.16), (2097152, 171.42), (4194304, 336.09))


def measured(table: Sequence[tuple[int, float]], size: int) -> float:
    """Returns the microseconds for so many bytes, between the measurements along a straight line.

    Raises:
        ValueError: the size is outside of what was measured.
    """
    if not table[0][0] <= size <= table[-1][0]:
        raise ValueError(f"{size} bytes: expected {table[0][0]} to {table[-1][0]}, which is what was measured")
    after = max(bisect_left(table, (size,)), 1)
    (small, quick), (large, slow) = table[after - 1], table[after]
    return quick + (slow - quick) * (size - small) / (large - small)


def halved(config: PI0ModelConfig) -> PI0ModelConfig:
    """Returns the sizes of what one of two chips computes of Gemma's layers."""
    vlm, expert = (
        replace(gemma, num_heads=gemma.num_heads // 2, mlp_dim=gemma.mlp_dim // 2)
        for gemma in (config.vlm, config.expert)
    )
    return replace(config, vlm=vlm, expert=expert)


def compare(board: Board) -> list[dict[str, Any]]:
    """Returns for each stage of a call its milliseconds on one chip, and cut in two: computing, exchanging, and all."""
    on, cameras = machine(board.describe()), BASE["cameras"]

    def walked(config: PI0ModelConfig, cameras: int) -> tuple[dict[str, Stage], dict[str, Any]]:
        stages = dispatched(
            config, made_up_weights(config), board, precision=PRECISION, cameras=cameras, tokens=BASE["tokens"]
        )
        return stages, predict(stages, on, steps=BASE["steps"])["stages"]

    _, whole = walked(PI0_BASE, cameras)
    cut_stages, cut = walked(halved(PI0_BASE), cameras)
    _, one_camera = walked(PI0_BASE, 1)
    rows = []
    for name, stage in whole.items():
        alone, times = (one_camera if name == VISION else cut)[name]["ms"], stage["times"]
        if name == VISION:
            count, size = 1, cameras * PI0_BASE.vision.num_patches * PI0_BASE.vlm.width * BYTES
            each = measured(ALL_GATHER, size)
        else:
            attention = [operation for operation in cut_stages[name].operations if operation.name == "SDPA"]
            queries = next(iter(attention[0].operands.values())).shape[-2]
            width = PI0_BASE.vlm.width if name == "prefill" else PI0_BASE.expert.width
            count, size = 2 * times * len(attention), queries * width * BYTES
            each = measured(ALL_REDUCE, size)
        exchange = count * (each + on.chip.gap) / 1e3
        rows.append(
            {
                "stage": f"{times} x {name}" if times > 1 else name,
                "one chip": stage["ms"],
                "cut: computing": alone,
                "exchanges": count,
                "bytes each": size,
                "us each": each,
                "exchanging": exchange,
                "cut: all": alone + exchange,
                "best": count * (ALL_REDUCE[0][1] + on.chip.gap) / 1e3 + alone,
            }
        )
    return rows


def as_table(rows: list[dict[str, Any]]) -> str:
    """Returns `compare` as a Markdown table with a sum."""
    header = [
        "predicted, ms",
        "one chip",
        "cut: computing",
        "exchanges",
        "kB each",
        "us each",
        "exchanging",
        "cut: all",
        "gain",
    ]
    lines = [f"| {' | '.join(header)} |", f"| --- |{' ---: |' * (len(header) - 1)}"]
    keys = ("one chip", "cut: computing", "exchanging", "cut: all", "best")
    total = {key: sum(row[key] for row in rows) for key in keys}
    for row in rows:
        counted = [str(row["exchanges"]), f"{row['bytes each'] / 1e3:.0f}", f"{row['us each']:.0f}"]
        lines.append(_line(row["stage"], row, counted))
    lines.append(_line("**all, predicted**", total, ["", "", ""]))
    gaining = sum(min(row["one chip"], row["cut: all"]) for row in rows)
    one = total["one chip"]
    notes = [
        f"Cut where that gains, the rest on one chip: {gaining:.1f} ms, {one / gaining:.2f}x.",
        f"All cut, with exchanges of any size as quick as those of 4 kB ({ALL_REDUCE[0][1]} us): {total['best']:.1f} ms, "
        f"{one / total['best']:.2f}x.",
    ]
    return "\n".join([*lines, "", *notes])


def _line(name: str, row: dict[str, Any], counted: list[str]) -> str:
    cells = [f"{row['one chip']:.1f}", f"{row['cut: computing']:.1f}", *counted]
    cells += [f"{row['exchanging']:.1f}", f"{row['cut: all']:.1f}", f"{row['one chip'] / row['cut: all']:.2f}x"]
    return f"| {' | '.join([name, *cells])} |"


def main() -> None:
    """Prints the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with open_board(BOARD) as board:
        rows = compare(board)
    print(f"pi0_base cut in two for an n300: {NOTE}.\n\n{as_table(rows)}")


if __name__ == "__main__":
    main()
