"""What each emulated board is, and that it keeps to itself. A process has one board: most of these start their own."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lerobot_pi0_ttnn.device.opening import TRACE_REGION_MB
from lerobot_pi0_ttnn.emulation.boards import BOARDS, emulated_board
from lerobot_pi0_ttnn.emulation.runtime_root import RuntimeRoot

pytest.importorskip("ttnn")

# Of ttnn 0.81 on real boards: workers an op may use, DRAM banks, bytes of a bank (a Wormhole has 1 GiB, a Blackhole 4).
FACTS = {
    "n150": ("wormhole_b0", [8, 8], 12, 1 << 30),
    "n300": ("wormhole_b0", [8, 7], 12, 1 << 30),
    "n300x2": ("wormhole_b0", [8, 7], 12, 1 << 30),
    "p100a": ("blackhole", [11, 10], 7, 4 << 30),
    "p150": ("blackhole", [11, 10], 8, 4 << 30),
    "p150-130": ("blackhole", [13, 10], 8, 4 << 30),
}

DESCRIBE = """
import json, sys, torch
from lerobot_pi0_ttnn.device.board import open_board
board = open_board(sys.argv[1])
import ttnn
up = lambda t: ttnn.from_torch(t, dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, device=board.device)
a, b = torch.randn(64, 256).bfloat16(), torch.randn(256, 512).bfloat16()
product = ttnn.to_torch(ttnn.linear(up(a), up(b))).float()
error = float((product - a.float() @ b.float()).abs().max() / product.abs().max())
print(json.dumps({**board.describe(), "error": error}))
"""


def check_description(found, name):
    arch, grid, banks, bank_bytes = FACTS[name]
    assert found["name"] == f"emulated:{name}"
    assert (found["kind"], found["emulated"]) == ("emulated", True)
    assert found["chips"] == (2 if name.endswith("x2") else 1)
    assert (found["arch"], found["grid"], found["workers"]) == (arch, grid, grid[0] * grid[1])
    assert found["dram_banks"] == banks
    room = banks * bank_bytes - (TRACE_REGION_MB << 20)
    assert 0.95 * room < found["dram_bytes"] < room
    assert 1.3e6 < found["l1_bytes_per_core"] < (1.5e6 if arch == "wormhole_b0" else 1.6e6)


def test_every_board_is_described_here():
    assert set(FACTS) == set(BOARDS)
    assert {name: list(board.grid) for name, board in BOARDS.items()} == {name: fact[1] for name, fact in FACTS.items()}


@pytest.mark.parametrize("name", [name for name in BOARDS if name != "n150"])
def test_board(name, run_python):
    found = json.loads(run_python(DESCRIBE, arguments=[f"emulated:{name}"]).splitlines()[-1])
    check_description(found, name)
    assert found["error"] < 2**-8


def test_board_of_this_process(board):
    check_description(board.describe(), "n150")
    assert board.grid == (8, 8)


def test_memory_in_use_follows_the_tensors(board, upload):
    before = board.describe()["dram_bytes_in_use"]
    tensor = upload(torch.zeros(1024, 1024))
    grown = board.describe()["dram_bytes_in_use"] - before
    assert 2 * 1024 * 1024 <= grown < 2.2 * 1024 * 1024
    del tensor
    assert board.describe()["dram_bytes_in_use"] == before


def test_unknown_board_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'n151': expected one of emulated:n150, emulated:n300"):
        emulated_board("emulated:n151")


def test_it_stays_in_its_own_folder_and_removes_it(tmp_path):
    home, temporary, working = (tmp_path / name for name in ("home", "tmp", "cwd"))
    for folder in (home, temporary, working):
        folder.mkdir()
    program = DESCRIBE + (
        "import os\n"
        "print(json.dumps([os.environ.get('TT_METAL_MOCK_CLUSTER_DESC_PATH'), os.environ['TMPDIR']]))\n"
        "maps = [line.split()[-1] for line in open('/proc/self/maps')]\n"
        "files = [os.path.realpath(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd')]\n"
        "shared = [name for name in maps + files if name.startswith('/dev/shm/')]\n"
        "print(json.dumps([name for name in shared if 'open_mpi' not in name]))\n"
        "print(json.dumps(os.listdir(os.environ['TMPDIR'])))\n"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", program, "emulated:n150"],
        env={**os.environ, "HOME": str(home), "TMPDIR": str(temporary), "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=working,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    environment, shared_memory, temporary_while_open = (json.loads(line) for line in done.stdout.splitlines()[-3:])
    # A child of this process would otherwise take its own ttnn for a card.
    assert environment == [None, str(temporary)]
    assert shared_memory == []
    assert len(temporary_while_open) == 1
    assert [list(folder.rglob("*")) for folder in (temporary, working)] == [[], []]
    assert not [path for path in home.rglob("*") if "tt" in path.name.lower()]


def test_it_says_in_the_log_that_it_is_no_card(board, caplog):
    from lerobot_pi0_ttnn.emulation import session

    with caplog.at_level(logging.WARNING):
        session.announce(emulated_board("n150"))
    assert "emulated:n150 is emulated: there is no card" in caplog.text


def test_the_choice_of_cards_is_not_one_of_mocked_chips(monkeypatch):
    """ttnn would end the process: `TT_VISIBLE_DEVICES=1` names none of the one mocked chip that an n150 has."""
    monkeypatch.setenv("TT_VISIBLE_DEVICES", "1")
    with RuntimeRoot(emulated_board("n150")).environment():
        assert "TT_VISIBLE_DEVICES" not in os.environ
    assert os.environ["TT_VISIBLE_DEVICES"] == "1"


REFUSALS = """
import ttnn
from lerobot_pi0_ttnn.emulation.boards import emulated_board
from lerobot_pi0_ttnn.emulation.runtime_root import RuntimeRoot
from lerobot_pi0_ttnn.device.board import open_board

def refusal(name):
    try:
        open_board(name)
    except RuntimeError as error:
        print("refused:", error)

if {by_hand}:
    root = RuntimeRoot(emulated_board("p150"))
    with root.environment():
        device = ttnn.open_device(device_id=0)
    refusal("emulated:n150")
    refusal("emulated:p150")
else:
    board = open_board("emulated:n150")
    for name in ("emulated:p150", "auto", "0"):
        refusal(name)
    again = open_board("emulated:n150")
    print(again is board)
    board.close()
    print(board.is_open)
    board.close()
    print(board.is_open)
    refusal("emulated:p150")
    with open_board("emulated:n150") as reopened:
        x = ttnn.ones([32, 32], ttnn.bfloat16, ttnn.TILE_LAYOUT, reopened.device)
        print(float(ttnn.to_torch(x + x).sum()))
    print(type(ttnn.begin_trace_capture).__name__)
"""


def test_it_refuses_a_process_in_which_ttnn_is_open(run_python):
    # ttnn's own log is on stdout, too.
    printed = run_python(REFUSALS.format(by_hand=True)).splitlines()
    refused = [line for line in printed if line.startswith("refused:")]
    assert len(refused) == 2
    assert all("ttnn was open on another board in this process already" in line for line in refused)


def test_one_board_for_a_process(run_python):
    *refused, same, first, second, changed, total, trace = run_python(REFUSALS.format(by_hand=False)).splitlines()
    assert len(refused) == 3
    assert all("this process has board 'emulated:n150' open" in line for line in refused)
    assert (same, first, second) == ("True", "True", "False")
    assert "this process has had emulated:n150 open" in changed
    assert float(total) == 2 * 32 * 32
    assert trace == "nb_func"


@pytest.mark.parametrize("variable", ["TT_METAL_SIMULATOR", "TT_METAL_MOCK_CLUSTER_DESC_PATH"])
def test_it_refuses_where_another_board_is_asked_for(monkeypatch, variable):
    from lerobot_pi0_ttnn.emulation import session

    monkeypatch.setattr(session, "_session", None)
    monkeypatch.setenv(variable, "/somewhere")
    with pytest.raises(RuntimeError, match=f"{variable} is set"):
        session.open_emulated("n150")


def test_it_refuses_a_process_that_has_a_card_open(monkeypatch):
    from lerobot_pi0_ttnn.emulation import session

    monkeypatch.setattr(session, "_session", None)
    monkeypatch.setattr(session, "open_files", lambda: [Path("/dev/tenstorrent/3"), Path("/dev/null")])
    with pytest.raises(RuntimeError, match=r"/dev/tenstorrent/3 open in this process"):
        session.open_emulated("n150")
