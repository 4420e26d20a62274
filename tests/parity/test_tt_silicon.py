"""What neither instrument computes, and ttnn can be asked: docs/errata.md.

Run in a process of its own for each board (`test_tt_boards.py`): ttnn gives most warnings once, and its kernels are built once.
"""

import re
from functools import cache
from pathlib import Path

import pytest
import torch

ttnn = pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

from lerobot_pi0_ttnn.analysis.graph import DeviceOperation, captured  # noqa: E402
from lerobot_pi0_ttnn.analysis.report import dispatched, made_up_weights  # noqa: E402
from lerobot_pi0_ttnn.device.board import Board  # noqa: E402
from lerobot_pi0_ttnn.device.executor import PI0ModelTTNN  # noqa: E402
from lerobot_pi0_ttnn.emulation.session import built_kernels  # noqa: E402
from lerobot_pi0_ttnn.model.config import PI0_BASE, TINY  # noqa: E402
from lerobot_pi0_ttnn.tt.precision import PRESETS  # noqa: E402

from .tt import random_inputs, random_weights  # noqa: E402

FAULTY = ("HiFi4", True)
"""tt-metal #38306: with float32 accumulation, single outputs of a Wormhole are wrong by a power of two."""

FAULTY_IN_A_HEADER = (4, True)
"""`ckernel::MathFidelity::HiFi4` and `DST_ACCUM_MODE`, as ttnn writes them into a header for each kernel that it builds."""

NOT_MULTIPLIED = {
    "eltwise_binary_sfpu_no_bcast": "float32 sums of the vector unit, which has no fidelity; ttnn's default is written there",
    "ternary_sfpu_col_scalar_bcast_ttt": "the state's token or an action's, chosen by the vector unit from copies; as above",
}
"""Kernels built with the pair that multiply nothing on the matrix engine, and why."""

EXPLAINED: dict[str, str] = {}
"""Warnings that ttnn may give while a chunk runs, and why."""


@pytest.fixture(scope="module")
def emulated(board):
    if board.kind != "emulated":
        pytest.skip(f"only an emulated board has its kernels and its log where this test looks, this is a {board.kind}")
    if built_kernels():
        pytest.skip("other tests have built kernels here: test_tt_boards.py runs this in a process of its own")
    return board


@cache
def ran(board: Board) -> tuple[dict[str, list[DeviceOperation]], list[Path]]:
    """What pi0_base dispatches, shapes only, and the tiny model while it computes a chunk in each precision; and the folders
    of the kernels that ttnn has built for it."""
    stages = dispatched(PI0_BASE, made_up_weights(PI0_BASE), board, precision="balanced", cameras=4, tokens=48)
    operations = {"pi0_base": [operation for stage in stages.values() for operation in stage.operations]}
    for precision in PRESETS:
        model = PI0ModelTTNN(TINY, random_weights(TINY), board.device, precision=precision)
        with captured() as graph:
            model.sample_actions(**random_inputs(TINY, 2, 20), num_steps=1)
        operations[precision] = graph.operations
    return operations, built_kernels()


def test_ttnn_gives_no_warning(emulated, capfd):
    """First of all, since ttnn gives most warnings once in a process."""
    ran(emulated)
    logged = "".join(capfd.readouterr())
    warnings = [line for line in logged.splitlines() if re.search(r"\| (warning|error|critical) +\|", line)]
    assert [line for line in warnings if not any(text in line for text in EXPLAINED)] == []


def test_a_warning_of_ttnn_would_be_seen(emulated, capfd):
    """The board shows what ttnn logs: it warns of the faulty pair where it is asked for it, on a Wormhole and once."""
    ran(emulated)
    x = ttnn.from_torch(torch.zeros(32, 32), dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=emulated.device)
    pair = ttnn.WormholeComputeKernelConfig(math_fidelity=ttnn.MathFidelity.HiFi4, fp32_dest_acc_en=True)
    ttnn.matmul(x, x, compute_kernel_config=pair)
    is_wormhole = emulated.device.arch() == ttnn.device.Arch.WORMHOLE_B0
    assert ("due to a hardware bug" in "".join(capfd.readouterr())) == is_wormhole


def test_no_operation_of_a_wormhole_has_the_faulty_pair(emulated):
    """By ttnn's own capture; a Blackhole, which has no such fault, is given all passes."""
    highest = {ttnn.device.Arch.WORMHOLE_B0: "HiFi3", ttnn.device.Arch.BLACKHOLE: "HiFi4"}[emulated.device.arch()]
    operations_of, _ = ran(emulated)
    for what, operations in operations_of.items():
        compute = {name: set() for name in ("Matmul", "LayerNorm", "SDPA", "GenericOp")}
        for operation in operations:
            compute.setdefault(operation.name, set()).update(operation.compute)
        used = set().union(*compute.values())
        assert (highest, True) in used
        assert all(accumulates_float32 for _, accumulates_float32 in used)
        assert (FAULTY in used) == (highest == "HiFi4"), what
        assert all(compute[name] for name in ("Matmul", "LayerNorm", "SDPA", "GenericOp")), (
            "each of these says what it is"
        )


def test_no_kernel_of_a_wormhole_is_built_with_the_faulty_pair(emulated):
    """Also where the operation does not say: by the headers that ttnn made for each compute kernel."""
    if emulated.device.arch() != ttnn.device.Arch.WORMHOLE_B0:
        pytest.skip("a Blackhole has no such fault")
    _, kernels = ran(emulated)
    pairs = [(folder.parent.name, compute_config(folder)) for folder in kernels if is_compute(folder)]
    assert "split_heads_compute" in dict(pairs)
    faulty = {name for name, pair in pairs if pair == FAULTY_IN_A_HEADER}
    assert faulty == set(NOT_MULTIPLIED)


def test_norms_are_those_that_hold_a_row_in_l1(emulated):
    """The kernels for wider rows reuse the destination registers, which races on a Wormhole (#54731)."""
    _, kernels = ran(emulated)
    names = {folder.parent.name for folder in kernels}
    assert {"layernorm", "layernorm_sharded"} <= names
    assert not [name for name in names if "large_tensor" in name or "welford" in name]


def test_operands_of_an_elementwise_operation_have_one_dtype(emulated):
    """Sharded operands and fused activations of unlike dtypes gave wrong values (#56958, #56738)."""
    operations_of, _ = ran(emulated)
    for operations in operations_of.values():
        binary = [operation for operation in operations if operation.name == "BinaryNg"]
        assert binary
        assert all(len({operand.dtype for operand in operation.operands.values()}) == 1 for operation in binary)


def is_compute(folder: Path) -> bool:
    return (folder / "chlkc_math.cpp").is_file()


def compute_config(folder: Path) -> tuple[int, bool]:
    """Fidelity and float32 accumulation of a built kernel."""
    header = (folder / "chlkc_descriptors.h").read_text()
    fidelity = re.search(r"MATH_FIDELITY = static_cast<ckernel::MathFidelity>\((\d)\)", header)
    accumulation = re.search(r"DST_ACCUM_MODE = (true|false)", header)
    assert fidelity, header
    assert accumulation, header
    return int(fidelity[1]), accumulation[1] == "true"
