"""The TTNN twin on other emulated boards: other grids, other limits, another architecture.

Each in a process of its own, since a process has one board. What ttnn says of a call depends on the board, what is computed
does not: values are compared on one other board, once.
"""

import pytest
import torch

pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

from ..oracle import make_noise, state_dict
from ..quality import assert_quality

SESSION = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
SILICON, FULL_SIZE = "tests/parity/test_tt_silicon.py", "tests/parity/test_tt_full_size.py"


@pytest.mark.parametrize(
    ("board_name", "tests"),
    [
        # The n150 of this process's other tests is full of their kernels.
        ("n150", [SILICON]),
        ("n300x2", [SILICON]),
        *((name, [SILICON, FULL_SIZE]) for name in ("n300", "p100a", "p150", "p150-130")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_board(pytestconfig, run_python, board_name, tests):
    run_python(
        SESSION,
        [*tests, "--board", f"emulated:{board_name}", "-q", "-p", "no:cacheprovider"],
        folder=pytestconfig.rootpath,
    )


CHUNKS = """
import sys, torch
from lerobot_pi0_ttnn.model.config import TINY
from lerobot_pi0_ttnn.device.board import open_board
from lerobot_pi0_ttnn.device.executor import PI0ModelTTNN

weights, inputs = torch.load(sys.argv[1])
with open_board("emulated:p150") as board:
    chunks = {}
    for precision in ("accurate", "balanced", "fast"):
        model = PI0ModelTTNN(TINY, weights, board.device, precision=precision)
        chunks[precision] = model.sample_actions(**inputs)
        assert model.describe()["programs_refused"] == {}, model.describe()["programs_refused"]
torch.save(chunks, sys.argv[2])
"""


def test_values_on_another_architecture(run_python, policy, twin, inputs, tmp_path):
    """The awkward batch, ten steps, by the limits of this process's board."""
    inputs = {**inputs, "noise": make_noise()}
    torch.save((state_dict(policy), inputs), tmp_path / "inputs.pt")
    run_python(CHUNKS, [tmp_path / "inputs.pt", tmp_path / "chunks.pt"])
    want = twin.sample_actions(**inputs)
    for precision, chunk in torch.load(tmp_path / "chunks.pt").items():
        assert_quality(chunk, want, pcc=0.9995, rel_rmse=0.008 if precision == "accurate" else 0.03)
