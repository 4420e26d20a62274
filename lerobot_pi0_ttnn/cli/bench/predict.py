"""`lerobot-pi0-ttnn bench --predict` and `--graph`: what a board should take for a call, and what it is asked to do.

An emulated board stands in for the real one: ttnn plans every operation, nothing runs and nothing is timed.
"""

import argparse
import json
from typing import Any

from ...checkpoint import open_weights
from ...config_loading import load_config
from ...emulation.boards import PREFIX, emulated_board
from ...model.config import PI0_BASE
from ..hub import checkpoint_source

CAMERAS = 2
"""Where no checkpoint says how many there are."""


def run(options: argparse.Namespace) -> int:
    """Prints the tables and, as the last line, JSON."""
    result = planned(options)
    print(as_text(result))
    print(json.dumps(result))
    return 0


def planned(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the prediction and the graph, whichever was asked for, as JSON values.

    Raises:
        ValueError: the board is not one that can be emulated, or has too little memory.
        ImportError: ttnn is not installed.
    """
    from ...device.board import open_board

    name = PREFIX + emulated_board(options.board).name
    config, weights, precision = PI0_BASE, None, "balanced"
    subject, cameras, steps = "pi0_base, from its sizes alone", CAMERAS, config.num_steps
    if options.checkpoint is not None:
        source = checkpoint_source(options, "checkpoint")
        policy = load_config(source)
        config, weights, precision = policy.model_config(), open_weights(source), policy.precision
        subject, cameras, steps = str(source), max(1, len(policy.image_features)), policy.num_inference_steps
    cameras, steps = options.cameras or cameras, options.steps or steps
    precision = options.precision or precision
    with open_board(name) as board:
        from ...analysis.cost import machine
        from ...analysis.prediction import predict
        from ...analysis.report import dispatched, made_up_weights

        try:
            stages = dispatched(
                config,
                made_up_weights(config) if weights is None else weights,
                board,
                precision=precision,
                cameras=cameras,
                tokens=options.tokens,
            )
        except RuntimeError as error:
            raise ValueError(f"{name}, {precision}: {error}") from error
        result: dict[str, Any] = {
            "subject": subject,
            "board": board.describe(),
            "precision": precision,
            "cameras": cameras,
            "tokens": options.tokens,
        }
        if options.graph:
            result["graph"] = {name: stage.summary() for name, stage in stages.items()}
        if options.predict:
            result["prediction"] = predict(stages, machine(result["board"]), steps=steps)
    return result


def as_text(result: dict[str, Any]) -> str:
    """Returns the result as Markdown for a person."""
    from ...analysis.prediction import NOTE, most_expensive_table, prediction_table
    from ...analysis.report import graph_table

    board = result["board"]
    where = f"{board['name']} ({board['arch']}, {board['grid'][0]} x {board['grid'][1]} workers)"
    lines = [
        f"{result['subject']} on {where}, {result['precision']}, cameras: {result['cameras']}, a prompt of "
        f"{result['tokens']} tokens, batch 1. No card ran: nothing here was timed.",
        "",
    ]
    if "graph" in result:
        lines += [graph_table(result["graph"]), ""]
    if "prediction" in result:
        prediction = result["prediction"]
        lines += [
            f"{NOTE.capitalize()}. How, and how far off for what others have measured: docs/prediction.md.",
            "",
            prediction_table(prediction),
            "",
            f"The {len(prediction['most_expensive'])} most expensive operations, predicted:",
            "",
            most_expensive_table(prediction),
            "",
        ]
    return "\n".join(lines)
