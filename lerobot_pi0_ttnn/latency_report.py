"""What a policy says of its latency: what was timed on what, in milliseconds, and nothing where they would mislead."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from .configuration_pi0_ttnn import PI0TTNNConfig
from .latency import Stage, Stopwatch, Summary, untimed

if TYPE_CHECKING:
    from .backend import Model
    from .device.board import Board

TOTAL = "observation to actions"
HOST = "host preparation"


def device_stage(config: PI0TTNNConfig, board: "Board | None", stopwatch: Stopwatch) -> Stage:
    """Returns the `Stage` for the model: on a card it waits for the card, and only where `config.time_stages` asks for it.

    The board, which is in use, is told each stage: an error says in which one it failed.
    """
    if board is None:
        return stopwatch.stage
    is_timed = board.kind == "card" and config.time_stages
    return board.followed(partial(stopwatch.stage, wait=board.wait) if is_timed else untimed)


def latency_report(
    config: PI0TTNNConfig, model: "Model", board: "Board | None", stopwatch: Stopwatch
) -> dict[str, Any]:
    """Returns what was timed, as JSON values; see `PI0TTNNPolicy.latency`.

    Args:
        config: the policy's.
        model: what computes.
        board: what it computes on; None for the torch backend.
        stopwatch: that timed it.
    """
    summaries = stopwatch.summaries()
    report: dict[str, Any] = {
        "model": type(model).__name__,
        "backend": config.backend,
        "board": board.describe() if board else None,
        "precision": config.precision if board else config.dtype,
        "cameras": list(config.image_features),
        "steps": config.num_inference_steps,
        "chunks": summaries[TOTAL].count if TOTAL in summaries else 0,
        "milliseconds": {},
        "note": None,
    }
    if board and board.kind != "card":
        report["note"] = f"{board.name} ({board.kind}) is no card: how long it takes says nothing of one."
        return report
    report["milliseconds"] = as_milliseconds(
        {name: summaries[name] for name in sorted(summaries, key=lambda name: name != TOTAL)}
    )
    return report


def as_milliseconds(summaries: Mapping[str, Summary]) -> dict[str, dict[str, float]]:
    """Returns for each stage `count`, and its distribution in milliseconds."""
    return {
        name: {field: value if field == "count" else round(value * 1e3, 4) for field, value in asdict(summary).items()}
        for name, summary in summaries.items()
    }
