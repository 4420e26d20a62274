"""All of pi0_base (27 + 18 + 18 layers), four cameras and a full prompt: every op is legal on the board, and it fits.

Shapes and memory only: ttnn checks and allocates, nobody computes.
"""

import pytest
import torch

pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

from lerobot_pi0_ttnn.analysis.report import EXPERT_LAYER, NEW_PROMPT, STEP, dispatched, made_up_weights
from lerobot_pi0_ttnn.device.executor import PI0ModelTTNN
from lerobot_pi0_ttnn.model.config import PI0_BASE
from lerobot_pi0_ttnn.model.tensors import expected_shapes

from ..oracle import make_noise
from .tt import random_inputs

COMPUTED_ON_THE_HOST = ("action_", "state_")
"""Weights that meet real numbers before they go up: those of the suffix, with the time."""


def test_pi0_base_fits(board):
    if board.kind != "emulated":
        pytest.skip(f"only an emulated board follows shapes without values, this is a {board.kind}")
    weights = {
        name: torch.empty(shape, device="cpu" if name.startswith(COMPUTED_ON_THE_HOST) else "meta")
        for name, shape in expected_shapes(PI0_BASE).items()
    }
    # The last norm is folded into a projection of the suffix.
    weights["paligemma_with_expert.gemma_expert.model.norm.weight"] = torch.zeros(PI0_BASE.expert.width)
    with board.shapes_only(), board.record() as counts:
        model = PI0ModelTTNN(PI0_BASE, weights, board.device, precision="accurate")
        with pytest.raises(RuntimeError, match="only shapes are followed"):
            # It is the readback, after the last op.
            model.sample_actions(**random_inputs(PI0_BASE, 4, 48), noise=make_noise(1), num_steps=1)
    # Blocks of SigLIP take 10 ops, those of Gemma 12.
    assert counts.operations.total() > 27 * 10 + (17 + 17 + 18) * 12
    assert model.describe()["programs_refused"] == {}, "ttnn runs each program as `blocking.py` cuts it"
    assert 6e9 < board.describe()["dram_bytes_in_use"] < 7e9


def test_what_pi0_base_dispatches(board):
    """Two cameras and a full prompt: a change that adds an operation is seen. docs/graph.md has them by name."""
    if board.kind != "emulated":
        pytest.skip(f"only an emulated board follows shapes without values, this is a {board.kind}")
    weights = made_up_weights(PI0_BASE)
    stages = dispatched(PI0_BASE, weights, board, precision="balanced", cameras=2, tokens=48)
    assert {name: len(stage.operations) for name, stage in stages.items()} == {
        NEW_PROMPT: 5,
        "upload": 0,
        "vision and language": 276,
        "prefill": 207,
        "state": 208,
        STEP: 221,
        EXPERT_LAYER: 12,
    }
