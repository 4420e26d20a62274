"""Opening boards: what is taken, what is refused and in which words. The card and ttnn are stand-ins here."""

from __future__ import annotations

import ast
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import lerobot_pi0_ttnn
from lerobot_pi0_ttnn.tt import board as boards
from lerobot_pi0_ttnn.tt import cards
from lerobot_pi0_ttnn.tt.board import open_board


class FakeTTNN(SimpleNamespace):
    """As much of ttnn as opening a card needs."""

    def __init__(self, count=1):
        super().__init__(opened=[], closed=[], failure=None)
        self.GetNumAvailableDevices = lambda: count
        self.close_device = self.closed.append

    def CreateDevices(self, numbers, **options):  # noqa: N802
        if self.failure:
            raise self.failure
        self.opened.append((numbers, options))
        return {number: f"device {number}" for number in sorted(numbers)}


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with one card and a stand-in ttnn, in which nothing is open."""
    nodes = tmp_path / "tenstorrent"
    nodes.mkdir()
    (nodes / "0").touch()
    (nodes / "by-id").mkdir()
    ttnn = FakeTTNN()
    monkeypatch.setitem(sys.modules, "ttnn", ttnn)
    monkeypatch.setattr(cards, "NODES", nodes)
    monkeypatch.setattr(boards, "_open", None)
    monkeypatch.setattr(boards.atexit, "register", lambda function: function)
    for variable in ("TT_METAL_SIMULATOR", "TT_METAL_MOCK_CLUSTER_DESC_PATH"):
        monkeypatch.delenv(variable, raising=False)
    return SimpleNamespace(nodes=nodes, ttnn=ttnn)


def test_auto_takes_the_first_card(machine):
    board = open_board("auto")
    assert (board.name, board.kind, board.device) == ("0", "card", "device 0")
    assert machine.ttnn.opened == [([0], {"trace_region_size": boards.TRACE_REGION_BYTES})]
    board.close()
    assert machine.ttnn.closed == ["device 0"]


def test_a_card_by_its_number(machine):
    machine.ttnn.GetNumAvailableDevices = lambda: 2
    assert open_board("1").device == "device 1"


def test_several_chips_are_one_board_in_the_order_asked_for(machine):
    machine.ttnn.GetNumAvailableDevices = lambda: 3
    board = open_board("2,0")
    assert (board.name, board.devices, board.device) == ("2,0", ("device 2", "device 0"), "device 2")
    assert [numbers for numbers, _ in machine.ttnn.opened] == [[2, 0]]
    assert open_board("auto") is open_board("2,0") is board
    with pytest.raises(RuntimeError, match=r"board '0': this process has board '2,0' open"):
        open_board("0")
    for _ in range(3):
        board.close()
    assert machine.ttnn.closed == ["device 2", "device 0"]


def test_a_chip_that_does_not_close_leaves_the_others_and_the_lock_free(machine, caplog):
    machine.ttnn.GetNumAvailableDevices = lambda: 2

    def close(device):
        machine.ttnn.closed.append(device)
        raise RuntimeError(f"{device} is gone")

    machine.ttnn.close_device = close
    open_board("0,1").close()
    assert machine.ttnn.closed == ["device 0", "device 1"]
    assert "device 0 is gone" in caplog.text
    assert "device 1 is gone" in caplog.text
    cards.CardLock(cards.card_nodes()).release()


@pytest.mark.parametrize("name", ["1", "0,1"])
def test_a_number_beyond_the_chips(machine, name):
    with pytest.raises(ValueError, match=rf"board '{name}': expected numbers below 1"):
        open_board(name)
    assert machine.ttnn.opened == []
    open_board("0")


@pytest.mark.parametrize("name", ["0,0", "1,0,01"])
def test_a_chip_named_twice(machine, name):
    with pytest.raises(ValueError, match=f"board '{name}': expected each chip once"):
        open_board(name)


def test_no_board_says_what_was_looked_for_and_how_to_go_on(machine):
    (machine.nodes / "0").unlink()
    for board in ("auto", "0"):
        with pytest.raises(FileNotFoundError) as error:
            open_board(board)
        for word in (
            f"{machine.nodes}/*",
            "TT_METAL_SIMULATOR",
            "--policy.board=emulated:n150",
            "--policy.backend=torch",
        ):
            assert word in str(error.value)


def test_the_simulator_is_a_card(machine, monkeypatch):
    (machine.nodes / "0").unlink()
    monkeypatch.setenv("TT_METAL_SIMULATOR", "/somewhere/libttsim.so")
    board = open_board("auto")
    assert (board.name, board.kind) == ("0", "simulator")


def test_a_mocked_card_is_not_taken_for_one(machine, monkeypatch):
    monkeypatch.setenv("TT_METAL_MOCK_CLUSTER_DESC_PATH", "/somewhere/cluster.yaml")
    with pytest.raises(RuntimeError, match=r"computes nothing.*emulated:n150"):
        open_board("auto")


@pytest.mark.parametrize("name", ["n150", "gpu", "emulated", "-1", "", "0,", "0;1", "0,emulated:n150"])
def test_an_unknown_board_lists_the_known_ones(name):
    with pytest.raises(ValueError, match=r"'auto', the number of a chip .* emulated:n150, .*emulated:p150-130"):
        open_board(name)


def test_without_ttnn_the_error_is_the_recipe(machine, monkeypatch):
    monkeypatch.setitem(sys.modules, "ttnn", None)
    with pytest.raises(ImportError) as error:
        open_board("auto")
    for word in ("uv sync", "pip install --no-deps ttnn==0.81.1", "loguru", "--policy.backend=torch"):
        assert word in str(error.value)


def test_a_broken_ttnn_is_not_a_missing_one(machine, monkeypatch, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "ttnn.py").write_text("import a_dependency_of_ttnn")
    monkeypatch.delitem(sys.modules, "ttnn")
    monkeypatch.syspath_prepend(tmp_path / "broken")
    with pytest.raises(ModuleNotFoundError, match="a_dependency_of_ttnn"):
        open_board("auto")


def test_users_share_a_board_and_the_last_one_closes_it(machine):
    first, second, third = open_board("auto"), open_board("0"), open_board("auto")
    assert first is second is third
    assert len(machine.ttnn.opened) == 1
    first.close()
    with second:
        pass
    assert first.is_open
    assert machine.ttnn.closed == []
    third.close()
    assert not first.is_open
    assert machine.ttnn.closed == ["device 0"]
    first.close()
    assert machine.ttnn.closed == ["device 0"]
    assert open_board("auto") is not first


def test_a_process_has_one_board(machine):
    open_board("0")
    for name in ("1", "emulated:n150"):
        with pytest.raises(RuntimeError, match=f"board '{name}': this process has board '0' open"):
            open_board(name)


def test_what_is_open_at_exit_is_closed(machine, monkeypatch):
    at_exit = []
    monkeypatch.setattr(boards.atexit, "register", at_exit.append)
    open_board("auto")
    open_board("auto")
    (close,) = at_exit
    close()
    assert machine.ttnn.closed == ["device 0"]
    close()
    assert machine.ttnn.closed == ["device 0"]


def test_two_threads_open_one_board(machine):
    really_open = machine.ttnn.CreateDevices

    def slowly(numbers, **options):
        time.sleep(0.05)
        return really_open(numbers, **options)

    machine.ttnn.CreateDevices = slowly
    found = []
    threads = [threading.Thread(target=lambda: found.append(open_board("auto"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(found), len(set(map(id, found)))) == (4, 1)
    assert len(machine.ttnn.opened) == 1


def test_the_lock_keeps_other_threads_out(machine):
    board, events = open_board("auto"), []

    def work():
        with board.lock:
            events.append("other")

    with board.lock, board.lock:
        other = threading.Thread(target=work)
        other.start()
        time.sleep(0.05)
        events.append("holder")
    other.join()
    assert events == ["holder", "other"]


def test_a_card_is_kept_to_one_process(machine):
    node = machine.nodes / "0"
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, sys; node = open(sys.argv[1]); fcntl.flock(node, fcntl.LOCK_EX); print(flush=True); input()",
            node,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        holder.stdout.readline()
        with pytest.raises(RuntimeError, match=r"tenstorrent/0: another process has this card open"):
            open_board("auto")
        assert machine.ttnn.opened == []
    finally:
        holder.communicate(b"\n")
    open_board("auto").close()


@pytest.mark.parametrize("ending", ["closed", "failed"])
def test_the_card_is_free_again_afterwards(machine, ending):
    if ending == "closed":
        board = open_board("auto")
        with pytest.raises(RuntimeError, match="another process"):
            cards.CardLock(cards.card_nodes())
        board.close()
    else:
        machine.ttnn.failure = RuntimeError("TT_FATAL")
        with pytest.raises(RuntimeError, match="TT_FATAL"):
            open_board("auto")
    cards.CardLock(cards.card_nodes()).release()


def test_cards_are_ordered_by_number(machine):
    for name in ("10", "2"):
        (machine.nodes / name).touch()
    assert [node.name for node in cards.card_nodes()] == ["0", "2", "10"]


def test_shapes_only_needs_an_emulated_board(machine):
    with open_board("auto") as board, pytest.raises(RuntimeError, match="needs an emulated board"), board.shapes_only():
        pass


def test_only_two_packages_import_ttnn():
    root = Path(lerobot_pi0_ttnn.__file__).parent
    importers = {
        path.relative_to(root).parts[0]
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
        if name.split(".")[0] == "ttnn"
    }
    assert importers == {"tt", "emulation"}
