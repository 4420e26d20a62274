"""The tests of the TTNN twin on other emulated boards: other grids, other limits, another architecture.

Each in a process of its own, since a process has one board.
"""

import subprocess
import sys

import pytest

pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

PARITY = ("tests/parity/test_tt_parts.py", "tests/parity/test_tt_whole.py::TestQuality")
SILICON = ("tests/parity/test_tt_silicon.py",)
FULL_SIZE = (*SILICON, "tests/parity/test_tt_full_size.py")


@pytest.mark.parametrize(
    ("board", "tests"),
    [
        pytest.param("p150", PARITY, id="p150-parity"),
        *(pytest.param(board, SILICON, id=f"{board}-silicon") for board in ("n150", "n300x2")),
        *(pytest.param(board, FULL_SIZE, id=f"{board}-full-size") for board in ("n300", "p100a", "p150", "p150-130")),
    ],
)
def test_board(pytestconfig, board, tests):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *tests, "--board", f"emulated:{board}", "-q"],
        cwd=pytestconfig.rootpath,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
