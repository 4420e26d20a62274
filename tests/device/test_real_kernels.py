"""What real kernels say of the TTNN twin: those of a card, or of the simulator that TT_METAL_SIMULATOR names.

They run where they are asked for, by `-m device`: what this machine happens to have decides nothing.
Each runs in a process of its own: a process has one board, and an instruction that the simulator lacks ends it.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

NODES = Path("/dev/tenstorrent")

ON_REAL_KERNELS = [
    pytest.param("tests/parity/test_tt_parts.py", id="parts"),
    pytest.param("tests/parity/test_tt_whole.py::TestQuality::test_awkward_batch", id="whole"),
    pytest.param("tests/parity/test_tt_whole.py::TestIdentities", id="identities"),
    pytest.param("tests/parity/test_tt_heads.py", id="heads"),
    pytest.param("tests/parity/test_tt_attend.py", id="attend"),
    pytest.param("tests/parity/test_tt_gate_up.py", id="gate-up"),
    pytest.param("tests/parity/test_tt_add_projection.py", id="add-projection"),
    pytest.param("tests/parity/test_tt_group_matmul.py", id="group-matmul"),
    pytest.param("tests/parity/test_tt_trace.py", id="traces"),  # skipped in slow dispatch
    pytest.param("tests/test_warm_up.py::TestPrograms", id="warm-up"),
    pytest.param("tests/verify/test_on_kernels.py", id="verify"),  # in part skipped in slow dispatch
    pytest.param("tests/parity/test_tt_full_width.py::test_siglip_and_projector", id="full-width-siglip"),
    pytest.param("tests/parity/test_tt_full_width.py::test_gemma_2b", id="full-width-gemma-2b"),
    pytest.param("tests/parity/test_tt_full_width.py::test_gemma_300m", id="full-width-gemma-300m"),
]


@pytest.mark.device
@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("tests", ON_REAL_KERNELS)
def test_on_real_kernels(tests, pytestconfig, variables_of_the_board):
    if "device" not in pytestconfig.getoption("markexpr"):
        pytest.skip("for real kernels, takes hours: -m device")
    if not any(NODES.glob("[0-9]*")) and not variables_of_the_board.get("TT_METAL_SIMULATOR"):
        pytest.skip(f"no real kernels: no device node {NODES}/*, and TT_METAL_SIMULATOR is not set")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", tests, "--board", "auto", "-q", "--timeout", "0"],
        cwd=pytestconfig.rootpath,
        env=os.environ | variables_of_the_board,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
