"""`lerobot-pi0-ttnn bench --predict` and `--graph`: what a board should take for a call, and what it is asked to do.

An emulated board stands in for the real one: ttnn plans every operation, nothing runs and nothing is timed.
"""

import argparse
import json
from typing import Any

from ...checkpoint import open_weights
from ...config_loading import CONFIGS, load_config
from ...configuration_pi0_ttnn import PI0TTNNConfig
from ...emulation.boards import PREFIX, emulated_board
from ..hub import checkpoint_source

CAMERAS, STATE_DIM = 2, 14
"""Where no checkpoint says how many there are."""
TASK_TOKENS = 12
FRAME_TOKENS, STATE_TOKENS = 10, 4
"""Of pi0.5's prompt: around the task and the state, and for each of the state's values, a number of up to three digits."""


def run(options: argparse.Namespace) -> int:
    """Prints the tables and, as the last line, JSON."""
    result = planned(options)
    print(as_text(result))
    print(json.dumps(result))
    return 0


def usual_tokens(config: PI0TTNNConfig) -> int:
    """Returns of how many tokens a prompt is, for a task in a few words."""
    tokens, most = TASK_TOKENS, config.tokenizer_max_length
    if not config.model_config().state_dim:
        state = config.robot_state_feature
        tokens += FRAME_TOKENS + STATE_TOKENS * (int(state.shape[0]) if state else STATE_DIM)
    return tokens if tokens < most else most


def planned(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the prediction and the graph, whichever was asked for, as JSON values.

    Raises:
        ValueError: the board is not one that can be emulated, or has too little memory; or the calibration is none, or of
            another architecture.
        FileNotFoundError: there is no such calibration.
        ImportError: ttnn is not installed.
    """
    from ...analysis.calibration import read_calibration
    from ...device.board import open_board

    name = PREFIX + emulated_board(options.board).name
    calibration = read_calibration(options.calibration) if options.calibration else None
    if options.checkpoint is None:
        model = options.model or "pi0"
        policy, weights = CONFIGS[model](), None
        subject, cameras = f"{model}_base, from its sizes alone", CAMERAS
    else:
        source = checkpoint_source(options, "checkpoint")
        policy, weights = load_config(source), open_weights(source)
        subject, cameras = str(source), max(1, len(policy.image_features))
    config, precision = policy.model_config(), policy.precision
    tokens = options.tokens or usual_tokens(policy)
    cameras, steps = options.cameras or cameras, options.steps or config.num_steps
    precision = options.precision or precision
    with open_board(name) as board:
        from ...analysis.cost import machine
        from ...analysis.prediction import predict
        from ...analysis.report import dispatched, made_up_weights

        on = machine(board.describe())
        if calibration:
            on = calibration.applied(on, board.describe()["arch"])
        try:
            stages = dispatched(
                config,
                made_up_weights(config) if weights is None else weights,
                board,
                precision=precision,
                cameras=cameras,
                tokens=tokens,
            )
        except RuntimeError as error:
            raise ValueError(f"{name}, {precision}: {error}") from error
        result: dict[str, Any] = {
            "subject": subject,
            "board": board.describe(),
            "precision": precision,
            "cameras": cameras,
            "tokens": tokens,
        }
        if options.graph:
            result["graph"] = {name: stage.summary() for name, stage in stages.items()}
        if options.predict:
            result["prediction"] = predict(stages, on, steps=steps)
        if calibration:
            result["calibration"] = calibration.as_json()
    return result


def as_text(result: dict[str, Any]) -> str:
    """Returns the result as Markdown for a person."""
    from ...analysis.prediction import NOTE, classes_table, most_expensive_table, prediction_table
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
        if "calibration" in result:
            measured = ", ".join(result["calibration"]["measured"])
            lines += [f"By constants that `verify` measured on a card ({measured}), the others as published.", ""]
        lines += [
            f"{NOTE.capitalize()}. How, and how far off for what others have measured: docs/prediction.md.",
            "",
            prediction_table(prediction),
            "",
            classes_table(prediction),
            "",
            f"The {len(prediction['most_expensive'])} most expensive operations, predicted:",
            "",
            most_expensive_table(prediction),
            "",
        ]
    return "\n".join(lines)
