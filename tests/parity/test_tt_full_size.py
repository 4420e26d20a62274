"""All of pi0_base and pi05_base (27 + 18 + 18 layers), four cameras, a full prompt: each op is legal on the board, and it fits.

Shapes and memory only: ttnn checks and allocates, nobody computes.
"""

import pytest

pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

from lerobot_pi0_ttnn.analysis.report import (
    EXPERT_LAYER,
    NEW_PROMPT,
    STEP,
    ShapesOnly,
    dispatched,
    made_up_weights,
    operations_by_stage,
)
from lerobot_pi0_ttnn.device.executor import PI0ModelTTNN
from lerobot_pi0_ttnn.model.config import PI0_BASE, PI05_BASE

from ..oracle import make_noise
from .tt import random_inputs

MODELS = pytest.mark.parametrize(("config", "tokens"), [(PI0_BASE, 48), (PI05_BASE, 200)], ids=["pi0", "pi05"])


@pytest.mark.parametrize(
    ("config", "tokens", "programs"),
    [(PI0_BASE, 48, "ours"), (PI05_BASE, 200, "ours"), (PI0_BASE, 48, "stock")],
    ids=["pi0", "pi05", "pi0-stock"],
)
def test_base_model_fits(board, config, tokens, programs):
    if board.kind != "emulated":
        pytest.skip(f"only an emulated board follows shapes without values, this is a {board.kind}")
    weights = made_up_weights(config)
    with board.shapes_only(), board.record() as counts:
        model = PI0ModelTTNN(config, weights, board.device, precision="accurate", programs=programs)
        with pytest.raises(RuntimeError, match="only shapes are followed"):
            # It is the readback, after the last op.
            model.sample_actions(**random_inputs(config, 4, tokens), noise=make_noise(1), num_steps=10)
    # Blocks of SigLIP take 10 ops, those of Gemma 12, or 8 of the expert by our own programs.
    assert counts.operations.total() > 27 * 10 + 17 * 12 + (17 + 18) * 8
    assert model.describe()["programs_refused"] == {}, "ttnn runs each program as `blocking.py` cuts it"
    assert 6e9 < board.describe()["dram_bytes_in_use"] < 7.2e9


STEPS = {
    "pi0": {"vision and language": 276, "prefill": 208, STEP: 150, EXPERT_LAYER: 8},
    # The prompt is read at every call: its embeddings, their scale, and two masks.
    "pi05": {"vision and language": 276 + 4, "prefill": 207, STEP: 148, EXPERT_LAYER: 8},
}

IN_GROUPS = {("pi0", (8, 8))}
"""Where a branch of the prefix and its addition are one program, `group_matmul`: of 18 rows of tiles on 8 rows of cores."""


@MODELS
def test_what_a_base_model_dispatches(board, request, config, tokens):
    """Two cameras and a full prompt: a change that adds an operation is seen. docs/graph.md has them by name."""
    if board.kind != "emulated":
        pytest.skip(f"only an emulated board follows shapes without values, this is a {board.kind}")
    weights = made_up_weights(config)
    stages = dispatched(config, weights, board, precision="balanced", cameras=2, tokens=tokens)
    name = request.node.callspec.id
    one_program = (name, board.grid) in IN_GROUPS
    # But for the copies of RoPE's tables: an n300 has no room in L1 for those of pi0.5's prefix.
    assert {name: len([op for op in stage.operations if op.name != "Copy"]) for name, stage in stages.items()} == {
        NEW_PROMPT: 4 if name == "pi0" else 0,
        "upload": 0,
        **STEPS[name],
        "prefill": STEPS[name]["prefill"] - (2 * 17 if one_program else 0),
    }
    vision, prefill = (stages[stage].operations for stage in ("vision and language", "prefill"))
    layers = [operation for operation in vision if operation.name in ("LayerNorm", "Matmul", "NlpCreateHeads", "SDPA")]
    assert {where for operation in layers for where in places(operation)} == {"L1"}
    gates = [
        operation for operation in prefill if (2048, 16384) in [each.shape for each in operation.operands.values()]
    ]
    assert len(gates) == 2 * 17
    if name == "pi0":
        # 18.9 MB each for gate, up and product: in 154 MB of a Blackhole's cores, not in 85 of a Wormhole's.
        near = {"L1"} if board.describe()["arch"] == "blackhole" else {"DRAM"}
        assert {where for operation in gates for where in places(operation)} == near
    added = [operation for operation in prefill if [*operation.operands.values()][-1].shape[-1] == 2048]
    stream = [
        places(operation) for operation in added if operation.title == ("group_matmul" if one_program else "BinaryNg")
    ]
    assert stream == [{"L1"}] * 2 * 17, "the residual stream, once a branch is added"


def places(operation):
    """Where a device operation put what it made, of our own programs their last operand."""
    return {memory for memory, _ in ([*operation.inputs][-1:] if operation.own else operation.outputs)}


@pytest.mark.parametrize("cameras", [1, 3])
def test_other_cameras(board, cameras):
    """Other numbers of rows leave other room in L1: no program is refused, and each operation fits."""
    if board.kind != "emulated":
        pytest.skip(f"only an emulated board follows shapes without values, this is a {board.kind}")
    with board.lock, board.shapes_only():
        model = PI0ModelTTNN(PI0_BASE, ShapesOnly(made_up_weights(PI0_BASE)), board.device, precision="balanced")
        operations_by_stage(model, board, cameras=cameras, tokens=12)
        assert model.describe()["programs_refused"] == {}
