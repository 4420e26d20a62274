"""Opening boards: what is taken, what is refused and in which words. The card and ttnn are stand-ins here."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from lerobot_pi0_ttnn.device import board as boards
from lerobot_pi0_ttnn.device import cards, opening
from lerobot_pi0_ttnn.device.board import open_board
from lerobot_pi0_ttnn.device.failure import BoardError, is_failure


class FakeTTNN(SimpleNamespace):
    """As much of ttnn as opening a card needs."""

    def __init__(self, count=1):
        super().__init__(opened=[], closed=[], failure=None, timeouts=[], dispatch="workers")
        self.GetNumAvailableDevices = lambda: count
        self.close_device = self.closed.append
        self.device = SimpleNamespace(
            DispatchCoreConfig=lambda **chosen: SimpleNamespace(**(chosen or {"type": self.dispatch})),
            DispatchCoreType=SimpleNamespace(WORKER="workers", ETH="ethernet"),
            DispatchCoreAxis=SimpleNamespace(ROW="row"),
        )

    def CreateDevices(self, numbers, **options):  # noqa: N802
        if self.failure:
            raise self.failure
        self.opened.append((numbers, options))
        self.timeouts.append(os.environ.get(opening.TIMEOUT))
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
    monkeypatch.setattr(opening, "_timeout_in_force", None)
    monkeypatch.setattr(boards.Board, "_describe", lambda self: {"name": self.name})
    for variable in ("TT_METAL_SIMULATOR", "TT_METAL_MOCK_CLUSTER_DESC_PATH", cards.VISIBLE, opening.TIMEOUT):
        monkeypatch.delenv(variable, raising=False)
    return SimpleNamespace(nodes=nodes, ttnn=ttnn)


def test_auto_takes_the_first_card(machine):
    board = open_board("auto")
    assert (board.name, board.kind, board.device) == ("0", "card", "device 0")
    assert machine.ttnn.opened == [([0], {"trace_region_size": 1024 << 20})]
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
    for word in ("uv sync", 'pip install --no-deps "ttnn>=0.81,<0.82"', "loguru", "--policy.backend=torch"):
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


def test_a_closed_board_says_what_it_was(machine):
    board = open_board("auto")
    assert board.describe() == {"name": "0", "open": True}
    board.close()
    assert board.describe() == {"name": "0", "open": False}


def test_describing_waits_for_the_board(machine):
    board, described = open_board("auto"), threading.Event()
    thread = threading.Thread(target=lambda: (board.describe(), described.set()))
    with board.in_use("a chunk"):
        thread.start()
        assert not described.wait(0.1)
    thread.join()
    assert described.is_set()


class Tenant:
    """Whose tensors are freed: in which thread, and whether the board was that thread's."""

    def __init__(self, board, error=None):
        self.board, self.error, self.freed = board, error, []

    def release(self):
        self.freed.append((threading.get_ident(), self.board.doing))
        if self.error:
            raise self.error


class TestTenants:
    def test_what_is_dropped_is_freed_by_the_next_who_uses_the_board(self, machine):
        board = open_board("auto")
        tenant = Tenant(board)
        with board.in_use("a chunk"):
            dropping = threading.Thread(target=board.discard, args=[tenant])
            dropping.start()
            dropping.join()
            assert tenant.freed == []
        for _ in range(2):
            with board.in_use("another chunk"):
                pass
        assert [thread for thread, _ in tenant.freed] == [threading.get_ident()]

    def test_one_that_cannot_be_freed_does_not_stop_the_next_chunk(self, machine, caplog):
        board = open_board("auto")
        board.discard(Tenant(board, RuntimeError("TT_FATAL @ /project/x.cpp:1: no\ninfo:\nno such buffer")))
        with board.in_use("a chunk"):
            pass
        assert "no such buffer" in caplog.text

    def test_a_failed_or_closed_board_is_not_asked(self, machine):
        board, tenant = open_board("auto"), None
        tenant = Tenant(board)
        with pytest.raises(BoardError), board.in_use("a chunk"):
            raise RuntimeError("TIMEOUT: device timeout")
        board.release(tenant)
        board.discard(tenant)
        board.close()
        board.release(tenant)
        assert tenant.freed == []

    @pytest.mark.parametrize("error", [BoardError("TIMEOUT"), ValueError("bad input"), KeyboardInterrupt()])
    def test_an_error_keeps_no_tensor_alive(self, machine, error):
        """Its traceback would, until whoever caught it lets go, in whatever thread."""
        board, freed = open_board("auto"), []

        class Tensor:
            def __del__(self):
                freed.append(board.doing)

        def compute(tensor):
            raise error

        with pytest.raises(type(error)) as caught, board.in_use("a chunk"):
            compute(Tensor())
        assert freed == ["a chunk"]
        assert caught.tb is not None, "as whoever caught the error may keep it"


class TestTraceRegion:
    """DRAM for traces is the user's choice, and one for all policies on a board."""

    def test_its_size_is_a_choice(self, machine):
        board = open_board("auto", trace_region_mb=256)
        assert machine.ttnn.opened[0][1]["trace_region_size"] == 256 << 20
        assert board.trace_region_mb == 256
        assert open_board("auto") is open_board("auto", trace_region_mb=256) is board

    def test_an_open_board_has_the_one_it_has(self, machine):
        open_board("auto", trace_region_mb=256)
        with pytest.raises(RuntimeError, match=r"trace_region_mb=512: .* board '0' open with 256 MB for traces"):
            open_board("auto", trace_region_mb=512)


class TestDispatch:
    """One function says how chips are opened: tests/emulation has what it makes of the emulated ones."""

    @pytest.mark.parametrize("number", ["0", "1", "0,1"])
    def test_a_row_of_workers_instead_of_ethernet_cores(self, machine, number):
        machine.ttnn.GetNumAvailableDevices, machine.ttnn.dispatch = lambda: 2, "ethernet"
        open_board(number)
        assert machine.ttnn.opened[0][1]["dispatch_core_config"] == SimpleNamespace(type="workers", axis="row")

    def test_other_boards_are_left_to_ttnn(self, machine):
        open_board("auto")
        assert "dispatch_core_config" not in machine.ttnn.opened[0][1]


class TestTimeout:
    """A card that hangs is an error: ttnn is told while it reads its environment, and nobody else is."""

    @pytest.mark.parametrize(
        ("of_user", "asked", "want"), [(None, None, "30"), ("5", None, "5"), (None, 60.0, "60"), (None, 0, "0")]
    )
    def test_what_ttnn_is_told(self, machine, monkeypatch, caplog, of_user, asked, want):
        if of_user:
            monkeypatch.setenv(opening.TIMEOUT, of_user)
        open_board("auto", operation_timeout_s=asked)
        assert machine.ttnn.timeouts == [want]
        assert os.environ.get(opening.TIMEOUT) == of_user
        assert not caplog.records

    def test_the_option_wins_over_the_variable_and_says_so(self, machine, monkeypatch, caplog):
        monkeypatch.setenv(opening.TIMEOUT, "5")
        open_board("auto", operation_timeout_s=60)
        assert machine.ttnn.timeouts == ["60"]
        assert "operation_timeout_s=60 is taken, TT_METAL_OPERATION_TIMEOUT_SECONDS=5 is not" in caplog.text

    def test_it_is_told_where_the_chips_are_counted(self, machine):
        """That is the first thing asked of ttnn, and all that it reads of the environment it reads then."""
        seen = []
        machine.ttnn.GetNumAvailableDevices = lambda: seen.append(os.environ.get(opening.TIMEOUT)) or 1
        open_board("auto")
        assert seen == ["30"]

    def test_a_later_choice_cannot_be_honoured(self, machine, caplog):
        open_board("auto").close()
        open_board("auto").close()
        assert not caplog.records
        open_board("auto", operation_timeout_s=60)
        assert "30 s stay in force instead of 60 s" in caplog.text
        caplog.clear()
        open_board("auto", operation_timeout_s=30)
        open_board("auto")
        assert not caplog.records
        open_board("auto", operation_timeout_s=90)
        assert "30 s stay in force instead of 90 s" in caplog.text

    def test_ttnn_in_use_before(self, machine, caplog):
        with (machine.nodes / "0").open():
            open_board("auto")
        assert "if that hangs, it is waited for for ever, not 30 s" in caplog.text

    def test_nonsense(self, machine, monkeypatch):
        monkeypatch.setenv(opening.TIMEOUT, "soon")
        with pytest.raises(ValueError, match="TT_METAL_OPERATION_TIMEOUT_SECONDS=soon: expected seconds"):
            open_board("auto")
        monkeypatch.delenv(opening.TIMEOUT)
        open_board("auto")

    def test_a_simulator_takes_its_time(self, machine, monkeypatch):
        monkeypatch.setenv("TT_METAL_SIMULATOR", "/somewhere/libttsim.so")
        open_board("auto").close()
        open_board("auto", operation_timeout_s=600)
        assert machine.ttnn.timeouts == [None, "600"]


class TestVisible:
    """What a process may see is what it locks."""

    @pytest.fixture
    def three(self, machine, monkeypatch):
        """Cards whose numbers are not in the order of their PCI addresses."""
        machine.ttnn.GetNumAvailableDevices = lambda: 3
        for name in ("1", "2"):
            (machine.nodes / name).touch()
        addresses = {"0": "0000:c1:00.0", "1": "0000:01:00.0", "2": "0000:c2:00.0"}
        monkeypatch.setattr(cards, "pci_address", lambda node: addresses[node.name])
        return machine

    @pytest.mark.parametrize(
        ("value", "want"),
        [
            (None, "012"),
            ("", ""),
            ("0", "1"),
            ("1", "0"),
            ("0, 2,", "12"),
            ("0000:c2:00.0", "2"),
            ("0000:c", "02"),
            ("c1:00,1", "0"),
        ],
    )
    def test_which(self, three, value, want):
        environment = {} if value is None else {cards.VISIBLE: value}
        found = cards.visible_nodes(cards.card_nodes(), environment)
        assert sorted(node.name for node in found) == list(want)

    @pytest.mark.parametrize("value", ["3", "-1", "x", "0000:0f", "0 1"])
    def test_none_of_them(self, three, value):
        with pytest.raises(ValueError, match=r"expected numbers below 3, .* 0000:01:00.0, 0000:c1:00.0, 0000:c2:00.0"):
            cards.visible_nodes(cards.card_nodes(), {cards.VISIBLE: value})

    def test_two_processes_with_a_card_each(self, three, monkeypatch):
        other = cards.CardLock([three.nodes / "0"])
        with pytest.raises(RuntimeError, match=r"start each process with cards of its own: TT_VISIBLE_DEVICES=0"):
            open_board("auto")
        monkeypatch.setenv(cards.VISIBLE, "1")
        with pytest.raises(RuntimeError, match="tenstorrent/0: another process"):
            open_board("auto")
        monkeypatch.setenv(cards.VISIBLE, "0")
        three.ttnn.GetNumAvailableDevices = lambda: 1
        open_board("auto").close()
        other.release()

    def test_no_card_to_be_seen(self, three, monkeypatch):
        monkeypatch.setenv(cards.VISIBLE, "")
        with pytest.raises(FileNotFoundError, match="TT_VISIBLE_DEVICES is set and empty"):
            open_board("auto")

    def test_cards_kept_but_not_used_are_named(self, three, caplog):
        open_board("0,1").close()
        assert "chips of this machine that it does not use are kept to this process" in caplog.text
        caplog.clear()
        open_board("0,1,2").close()
        assert not caplog.records

    def test_without_sys_all_are_locked(self, three, monkeypatch, caplog):
        monkeypatch.setattr(cards, "pci_address", lambda node: None)
        assert len(cards.visible_nodes(cards.card_nodes(), {cards.VISIBLE: "0"})) == 3
        assert "/sys does not tell the PCI addresses" in caplog.text

    def test_address_by_device_number(self, tmp_path):
        device = tmp_path / "devices/pci0000:00/0000:00:01.0/0000:c1:00.0/tenstorrent/tenstorrent!0"
        device.mkdir(parents=True)
        (tmp_path / "dev/char").mkdir(parents=True)
        number = os.stat("/dev/null").st_rdev
        (tmp_path / f"dev/char/{os.major(number)}:{os.minor(number)}").symlink_to(device)
        assert cards.pci_address(Path("/dev/null"), tmp_path) == "0000:c1:00.0"
        assert cards.pci_address(Path("/dev/zero"), tmp_path) is None
        assert cards.pci_address(tmp_path / "dev") is None


def ttnn_error(kind, place, words):
    return RuntimeError(f"{kind} @ /project/{place}: false\ninfo:\n{words}\nbacktrace:\n --- libtt_metal.so(+0x1)")


REFUSALS = {  # as seen on an emulated n150
    "shapes": (
        "TT_FATAL",
        "ttnn/cpp/ttnn/operations/matmul/device/matmul_device_operation.cpp:79",
        "Mismatch: width=64",
    ),
    "layout": ("TT_FATAL", "ttnn/cpp/ttnn/operations/normalization/rmsnorm/rmsnorm.cpp:36", "Use TILE layout."),
    "broadcast": (
        "TT_THROW",
        "ttnn/cpp/ttnn/operations/eltwise/binary_ng/device/binary_ng_device_operation.cpp:246",
        "Invalid subtile broadcast type",
    ),
    "memory": ("TT_FATAL", "tt_metal/impl/allocator/bank_manager.cpp:514", "Out of Memory: Not enough space"),
    "shards": ("TT_FATAL", "tt_metal/impl/tensor/spec/layout/tensor_layout.cpp:171", "must be tile {32, 32} sized!"),
    "index": ("TT_THROW", "tt_metal/common/shape_base.cpp:16", "ShapeBase[] index out of range. 2 not in [-4, 2)"),
    "upload": ("TT_FATAL", "tt_metal/impl/tensor/tensor_apis.cpp:161", "Host tensor has different shape"),
    "freed": ("TT_FATAL", "ttnn/cpp/ttnn-nanobind/pytensor.cpp:1396", "Tensor is not allocated."),
    "L1": (
        "TT_THROW",
        "tt_metal/impl/dataflow_buffer/dataflow_buffer.cpp:3087",
        "Statically allocated dataflow buffers on core range [0-0 - 7-7] grow to 71408992 B which is beyond max L1 size",
    ),
}
FAILURES = {
    "queue": ("TT_FATAL", "tt_metal/impl/dispatch/system_memory_manager.cpp:700", "TIMEOUT: in fetch queue wait"),
    "command": ("TT_FATAL", "tt_metal/distributed/fd_mesh_command_queue.cpp:300", "Unexpected event id 7 != 8"),
    "cores": ("TT_FATAL", "tt_metal/llrt/llrt.cpp:99", "Device 0: Timeout (10000 ms) waiting for physical cores"),
    "device": (
        "TT_FATAL",
        "tt_metal/impl/device/device.cpp:10",
        "Device 0 init: failed to initialize FW! Try resetting",
    ),
    "link": ("TT_THROW", "tt_metal/fabric/fabric_context.cpp:5", "Fabric Router Sync: Timeout after 10000 ms"),
    "program": ("TT_FATAL", "tt_metal/impl/program/dispatch.cpp:20", "launch message sync failed"),
}


@pytest.mark.parametrize("error", REFUSALS.values(), ids=REFUSALS)
def test_a_refused_call_leaves_the_board_trusted(error):
    assert not is_failure(ttnn_error(*error))


@pytest.mark.parametrize("error", FAILURES.values(), ids=FAILURES)
def test_a_fatal_error_of_dispatch_or_firmware_does_not(error):
    assert is_failure(ttnn_error(*error))
