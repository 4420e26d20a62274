"""The doctor on made-up machines, check by check, and on this one."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from lerobot_pi0_ttnn.checkpoint.tokenizer import NamedTokenizer, TokenizerState
from lerobot_pi0_ttnn.cli import main
from lerobot_pi0_ttnn.cli.doctor import card, compiler, environment, host, hub, packages
from lerobot_pi0_ttnn.cli.doctor.command import as_text, check_board, check_host
from lerobot_pi0_ttnn.cli.doctor.finding import Finding
from lerobot_pi0_ttnn.device import cards
from lerobot_pi0_ttnn.ttnn_api.installed import SFPI_TABLE

NODE = Path("/dev/tenstorrent/0")
WORMHOLE = card.Card("0000:01:00.0", "wormhole_b0", "n150", "19.2.0.0", "identity")
BLACKHOLE = card.Card("0000:02:00.0", "blackhole", "p150a", "19.5.0.0", "DMA-FQ")
BLACKHOLE_OFF = card.Card("0000:02:00.0", "blackhole", "p150a", "19.4.0.0", "identity")
BY_LEROBOT, BY_TTNN = SpecifierSet(">=2.0.0,<2.3.0"), SpecifierSet("<2,>=1.24.4")


def write(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def status(finding, *words):
    """The status; every word stands in what was found or in the fix."""
    for word in words:
        assert word in finding.found + finding.fix
    return finding.status


@pytest.mark.parametrize(("kind", "fix"), [("ok", "pointless"), ("warn", ""), ("fail", "")])
def test_a_fix_is_for_complaints(kind, fix):
    with pytest.raises(ValueError, match="a fix belongs to"):
        Finding("x", kind, "found", fix)


class TestPackages:
    @pytest.mark.parametrize(("version", "want"), [("3.12.3", "ok"), ("3.11.9", "fail"), ("3.13.0", "fail")])
    def test_python(self, version, want):
        assert status(packages.check_python(version, ">=3.12,<3.13")) == want

    def test_plugin(self):
        assert status(packages.check_plugin("0.1.0"), "0.1.0") == "ok"
        assert status(packages.check_plugin(None), "pi0_ttnn", "pip install .") == "fail"

    @pytest.mark.parametrize(
        ("version", "want"), [("0.6.1", "ok"), ("0.6.0", "fail"), ("0.7.0", "fail"), (None, "fail")]
    )
    def test_lerobot(self, version, want):
        lines = ["torch", "lerobot[aloha,pi]<0.7,>=0.6.1", 'ttnn>=0.81; extra == "ttnn"']
        assert status(packages.check_package("lerobot", version, packages.declared_range(lines, "lerobot"))) == want

    @pytest.mark.parametrize(
        ("version", "want", "word"),
        [
            ("2.2.6", "ok", "ttnn is known to work"),
            ("1.26.4", "fail", "expected"),
            ("2.3.1", "fail", "expected"),
            (None, "fail", "not installed"),
        ],
    )
    def test_numpy(self, version, want, word):
        assert status(packages.check_numpy(version, BY_LEROBOT, BY_TTNN), word) == want

    def test_numpy_of_later_releases(self):
        later = SpecifierSet(">=2,<3")
        assert packages.check_numpy("2.2.6", later, SpecifierSet("<3")) == Finding("numpy", "ok", "2.2.6")
        assert status(packages.check_numpy("2.4.0", later, BY_TTNN), "numpy<2.3,>=2") == "warn"

    @pytest.mark.parametrize(
        ("version", "failure", "platform", "want", "word"),
        [
            ("0.81.1", None, "linux x86_64", "ok", "0.81.1"),
            (None, None, "linux x86_64", "fail", '--no-deps "ttnn'),
            (None, None, "darwin arm64", "fail", "wheels are for linux x86_64"),
            ("0.81.1", "ImportError: libnuma.so.1", "linux x86_64", "fail", "libnuma.so.1"),
            ("0.65.0", None, "linux x86_64", "fail", "expected >=0.81"),
        ],
    )
    def test_ttnn(self, version, failure, platform, want, word):
        finding = packages.check_ttnn(version, SpecifierSet(">=0.81"), failure, platform=platform)
        assert status(finding, word) == want
        assert want == "ok" or "backend=torch" in finding.fix or version == "0.65.0"

    def test_import_failure(self):
        assert packages.import_failure("json") is None
        assert "no_such_module" in packages.import_failure("no_such_module")
        assert "-6" in packages.import_failure("os; os.abort()")
        assert "-6" in packages.import_failure("os, sys; sys.stderr.write('last words'); os.abort()")
        assert "did not end" in packages.import_failure("time; time.sleep(60)", timeout_s=0.2)


class TestCompiler:
    BANNER = "riscv-tt-elf-g++ (tenstorrent/sfpi:7.89.0[1050]) 15.1.0"

    @pytest.fixture
    def root(self, tmp_path):
        write(tmp_path / "ttnn" / SFPI_TABLE, "# sfpi release\nsfpi_version='7.89.0'\nsfpi_build='1050'\n")
        return tmp_path / "ttnn"

    def check(self, root, banner=BANNER, *, real_kernels=True):
        system = root.parent / "opt"
        return compiler.check_compiler(
            root, system, banner=lambda path: banner, real_kernels=real_kernels, machine="x86_64"
        )

    @pytest.mark.parametrize("place", ["ttnn/runtime/sfpi", "opt"])
    def test_there(self, root, place):
        write(root.parent / place / compiler.COMPILER)
        assert status(self.check(root), str(root.parent / place), "7.89.0") == "ok"

    def test_absent(self, root):
        words = ("wheel does not carry", "github.com/tenstorrent/sfpi/releases/tag/7.89.0", "x86_64")
        assert status(self.check(root), *words) == "fail"
        assert status(self.check(root, real_kernels=False), *words) == "warn"

    def test_of_another_release(self, root):
        write(root.parent / "opt" / compiler.COMPILER)
        assert status(self.check(root, "g++ (tenstorrent/sfpi:6.1.0[3])"), "6.1.0", "wants 7.89.0") == "warn"

    def test_broken(self, root):
        write(root.parent / "opt" / compiler.COMPILER)
        assert status(self.check(root, "Exec format error"), "Exec format error") == "fail"

    def test_banner(self, root):
        path = write(root / "g++", "#!/bin/sh\necho first $1; echo second\n")
        assert "denied" in compiler.compiler_banner(path)
        path.chmod(0o755)
        assert compiler.compiler_banner(path) == "first --version"


class TestCard:
    def test_reads_the_bus(self, tmp_path):
        bus = tmp_path / "bus/pci/devices"
        write(bus / "0000:00:01.0/vendor", "0x8086\n")
        write(bus / "0000:02:00.0/vendor", "0x1e52\n")
        write(bus / "0000:02:00.0/device", "0xb140\n")
        write(bus / "0000:02:00.0/iommu_group/type", "DMA-FQ\n")
        write(bus / "0000:02:00.0/tenstorrent/tenstorrent!0/tt_card_type", "p150a\n")
        write(bus / "0000:02:00.0/tenstorrent/tenstorrent!0/tt_fw_bundle_ver", "19.5.0.0\n")
        write(bus / "0000:02:00.0/tenstorrent/tenstorrent!0/tt_aiclk", "1350\n")
        write(bus / "0000:01:00.0/vendor", "0x1e52\n")
        write(bus / "0000:01:00.0/device", "0x401e\n")
        assert card.read_cards(tmp_path) == [
            card.Card("0000:01:00.0", "wormhole_b0", "", "", ""),
            replace(BLACKHOLE, clock="1350"),
        ]
        assert card.read_cards(tmp_path / "absent") == []

    @pytest.mark.parametrize(
        ("cards", "nodes", "opens", "want", "word"),
        [
            ([WORMHOLE], [NODE], True, "ok", "n150 at 0000:01:00.0"),
            ([], [], True, "warn", "emulated:n150"),
            ([WORMHOLE], [], True, "fail", "no device node"),
            ([WORMHOLE], [NODE], False, "fail", "chmod 666 /dev/tenstorrent/0"),
        ],
    )
    def test_card(self, cards, nodes, opens, want, word):
        assert status(card.check_card(cards, nodes, may_open=lambda node: opens), word) == want

    @pytest.mark.parametrize(
        ("cards", "nodes", "version", "want", "word"),
        [
            ([], [], None, "ok", "nothing for it to do"),
            ([WORMHOLE], [], None, "fail", "modprobe tenstorrent"),
            ([], [NODE], None, "warn", "/sys"),
            ([WORMHOLE], [NODE], "2.5.0\n", "ok", "2.5.0"),
            ([WORMHOLE], [NODE], "2.4.1\n", "warn", "2.4.1"),
            ([WORMHOLE], [NODE], "?", "warn", "unknown"),
        ],
    )
    def test_driver(self, tmp_path, cards, nodes, version, want, word):
        if version is not None:
            write(tmp_path / "tenstorrent/version", version)
        assert status(card.check_driver(cards, nodes, tmp_path / "tenstorrent"), word) == want

    @pytest.mark.parametrize(
        ("product", "firmware", "want", "word"),
        [
            ("n150", "19.2.0.0", "ok", "19.2.0"),
            ("p150a", "19.5.0.0", "ok", "so 11 x 10 workers"),
            ("p150a", "19.4.2.0", "ok", "so 13 x 10 workers"),
            ("n150", "18.12.0.0", "warn", "tt-flash"),
            ("n150", "", "warn", "unknown"),
            ("n150", "18.9.0.0", "fail", "tt-flash"),
        ],
    )
    def test_firmware(self, product, firmware, want, word):
        one = card.Card("0000:01:00.0", "", product, firmware, "")
        assert status(card.check_firmware([one, WORMHOLE]), word) == want
        assert status(card.check_firmware([WORMHOLE, one]), word) == want
        assert status(card.check_firmware([])) == "ok"

    MOUNT = "hugetlbfs /dev/hugepages-1G hugetlbfs rw,relatime,pagesize=1024M 0 0\n"
    SMALL = "hugetlbfs /dev/hugepages hugetlbfs rw,relatime,pagesize=2M 0 0\n"

    @pytest.mark.parametrize(
        ("cards", "mounts", "count", "want", "word"),
        [
            ([WORMHOLE], SMALL + MOUNT, 1, "ok", "mounted at /dev/hugepages-1G"),
            ([WORMHOLE], SMALL, 1, "fail", "no hugetlbfs"),
            ([WORMHOLE], MOUNT, 0, "fail", "tenstorrent-hugepages.service"),
            ([WORMHOLE, BLACKHOLE_OFF], MOUNT, 1, "fail", "1 of 1 GiB for 2 cards"),
            ([WORMHOLE, BLACKHOLE], MOUNT, 1, "ok", "1 of 1 GiB"),
            ([BLACKHOLE_OFF], "", 0, "warn", "0 of 1 GiB"),
            ([BLACKHOLE], "", 0, "ok", "IOMMU"),
            ([], "", 0, "ok", "no card"),
        ],
    )
    def test_hugepages(self, tmp_path, cards, mounts, count, want, word):
        write(tmp_path / card.GIB_PAGES, f"{count}\n")
        assert status(card.check_hugepages(cards, mounts, tmp_path), word) == want

    @pytest.mark.parametrize(("grid", "want"), [([8, 8], "ok"), ([12, 10], "warn")])
    def test_grid(self, grid, want):
        board = {"name": "0", "kind": "card", "arch": "blackhole", "grid": grid, "dram_bytes": 32 << 30}
        assert status(card.check_grid(board, {(8, 8)}), f"{grid[0]} x {grid[1]} workers, 32.0 GiB") == want

    def test_clock(self):
        slow, full = replace(BLACKHOLE, clock="800"), replace(WORMHOLE, clock="1000")
        assert status(card.check_clock([slow, WORMHOLE]), "p150a at 0000:02:00.0: 800 MHz now, 1350 while") == "ok"
        assert status(card.check_clock([WORMHOLE]), "does not tell") == status(card.check_clock([]), "no card") == "ok"
        assert card.slow_cards([slow, full, WORMHOLE]) == "p150a at 0000:02:00.0: 800 of 1350 MHz"
        board = {"name": "0", "kind": "card", "arch": "blackhole", "grid": [11, 10], "dram_bytes": 32 << 30}
        described = board | {"slow": card.slow_cards([slow])}
        assert status(card.check_grid(described, {(11, 10)}), "its clock was low", "75 C") == "warn"

    @pytest.mark.parametrize(
        ("variables", "count", "locked", "want", "word"),
        [
            ({}, 0, "", "ok", "no card"),
            ({}, 1, "", "ok", "a process takes /dev/tenstorrent/0"),
            ({}, 2, "", "ok", "for a process for each card: TT_VISIBLE_DEVICES=0"),
            ({}, 1, "0", "warn", "`fuser -v /dev/tenstorrent/0` names it; end it"),
            ({}, 2, "1", "warn", "or part the cards: TT_VISIBLE_DEVICES=0"),
            ({"TT_VISIBLE_DEVICES": "0"}, 2, "1", "warn", "TT_METAL_CACHE: builds of two at a time collide"),
            ({"TT_VISIBLE_DEVICES": "0", "TT_METAL_CACHE": "/a"}, 2, "1", "ok", "takes /dev/tenstorrent/0"),
            ({"TT_VISIBLE_DEVICES": ""}, 2, "", "fail", "set and empty"),
            ({"TT_VISIBLE_DEVICES": "9"}, 2, "", "fail", "expected numbers below 2"),
        ],
    )
    def test_processes(self, monkeypatch, variables, count, locked, want, word):
        monkeypatch.setattr(cards, "pci_address", lambda node: f"0000:0{node.name}:00.0")
        finding = card.check_processes(
            [NODE.with_name(str(number)) for number in range(count)],
            variables,
            visible=cards.visible_nodes,
            is_locked=lambda node: node.name == locked,
        )
        assert status(finding, word) == want

    def test_is_locked(self, tmp_path):
        node = write(tmp_path / "0")
        assert not cards.is_locked(node)
        lock = cards.CardLock([node])
        assert cards.is_locked(node)
        lock.release()
        assert not cards.is_locked(node)
        assert not cards.is_locked(tmp_path / "1")


class TestEnvironment:
    @pytest.mark.parametrize(
        ("variables", "want", "word"),
        [
            ({"PATH": "/bin"}, "ok", "no TT_METAL_*"),
            ({"TT_METAL_LOGGER_LEVEL": "error"}, "ok", "TT_METAL_LOGGER_LEVEL"),
            ({environment.MOCK: "n150.yaml"}, "fail", f"unset {environment.MOCK}"),
            ({environment.MOCK: ""}, "ok", "no TT_METAL_*"),
            ({environment.SLOW_DISPATCH: "1"}, "warn", "command queues"),
            ({"TT_METAL_HOME": "/src"}, "warn", "TT_METAL_HOME=/src"),
            ({"TT_METAL_CORE_GRID_OVERRIDE_TODEPRECATE": "10,9"}, "warn", "a part of the card"),
            ({"TT_METAL_VISIBLE_DEVICES": "1"}, "warn", "export TT_VISIBLE_DEVICES"),
            ({environment.TIMEOUT: "30"}, "ok", environment.TIMEOUT),
            ({environment.TIMEOUT: "0"}, "warn", "for ever"),
            ({environment.TIMEOUT: "5"}, "warn", "at least 10 s"),
            ({environment.TIMEOUT: "soon"}, "warn", "at least 10 s"),
            ({environment.THROTTLE: "2"}, "warn", "slowed down"),
            ({environment.THROTTLE: "6"}, "warn", "ttnn ignores it"),
        ],
    )
    def test_variables(self, variables, want, word):
        assert status(environment.check_environment(variables), word) == want

    def test_simulator(self, tmp_path):
        library = write(tmp_path / "libttsim.so")
        slow = {environment.SIMULATOR: str(library), environment.SLOW_DISPATCH: "1"}
        assert status(environment.check_environment(slow), "soc_descriptor.yaml") == "fail"
        write(tmp_path / "soc_descriptor.yaml")
        assert status(environment.check_environment(slow), "real kernels") == "warn"
        fast = {environment.SIMULATOR: str(library)}
        assert status(environment.check_environment(fast), f"export {environment.SLOW_DISPATCH}=1") == "warn"
        gone = slow | {environment.SIMULATOR: str(tmp_path / "gone.so")}
        assert status(environment.check_environment(gone), "gone.so") == "fail"


class TestHub:
    @pytest.mark.parametrize(
        ("writable", "free", "offline", "want"),
        [
            (True, 18e9, False, "ok"),
            (True, 17e9, False, "warn"),
            (False, 9e11, False, "fail"),
            (False, 0, True, "warn"),
        ],
    )
    def test_cache(self, tmp_path, writable, free, offline, want):
        assert status(hub.check_cache(tmp_path, writable=writable, free_bytes=free, offline=offline)) == want

    def test_existing_folder(self, tmp_path):
        assert hub.existing_folder(tmp_path / "a" / "b") == tmp_path
        assert hub.existing_folder(tmp_path) == tmp_path

    def test_within(self):
        began = time.monotonic()
        assert hub.within(0.1, lambda: time.sleep(30), otherwise="late") == "late"
        assert time.monotonic() - began < 10
        assert hub.within(30, lambda: None, otherwise="late") is None

    @pytest.mark.parametrize(
        ("state", "of_checkpoint", "want", "word"),
        [
            (TokenizerState("t/t", is_here=True), True, "ok", "t/t"),
            (TokenizerState("t/t"), True, "ok", "fetch"),
            (TokenizerState("t/t", problem="gated", fix="hf auth login"), False, "warn", "hf auth login"),
            (TokenizerState("t/t", problem="gated", fix="hf auth login"), True, "fail", "gated"),
            (TokenizerState("t/t", is_here=True, problem="a stranger's", fix="convert"), True, "warn", "convert"),
            (TokenizerState("t/t", is_here=True, problem="no pad", fix="add", is_fatal=True), True, "fail", "no pad"),
        ],
    )
    def test_tokenizer(self, state, of_checkpoint, want, word):
        finding = hub.check_tokenizer(NamedTokenizer("t/t", state, by_preprocessor=of_checkpoint))
        assert status(finding, word) == want


class TestHost:
    @pytest.mark.parametrize(
        ("variables", "libraries", "want", "word"),
        [
            ({"MUJOCO_GL": "egl"}, {"EGL", "GL"}, "ok", "egl"),
            ({"MUJOCO_GL": "egl"}, {"GL"}, "warn", "apt-get install libegl1"),
            ({"MUJOCO_GL": "osmesa"}, {"EGL", "GL"}, "warn", "libosmesa6"),
            ({"MUJOCO_GL": "osmesa"}, {"OSMesa"}, "ok", "osmesa"),
            ({"MUJOCO_GL": "glfw"}, {"GL"}, "warn", "no display"),
            ({"MUJOCO_GL": "glfw", "DISPLAY": ":0"}, {"GL"}, "ok", "glfw"),
            ({"MUJOCO_GL": "vulkan"}, {"EGL", "GL"}, "warn", "egl, osmesa, glfw"),
            ({}, {"EGL", "GL"}, "warn", "export MUJOCO_GL=egl"),
            ({"DISPLAY": ":0"}, {"EGL", "GL"}, "ok", "a display"),
            ({"DISPLAY": ":0"}, set(), "warn", "libEGL and libGL"),
        ],
    )
    def test_gl(self, variables, libraries, want, word):
        find = {name: f"lib{name}.so.1" for name in libraries}.get
        assert status(host.check_gl(variables, find), word) == want

    def test_read_memory(self):
        meminfo = "MemTotal:       4000 kB\nMemFree:         100 kB\nMemAvailable:   3000 kB\n"
        assert host.read_memory(meminfo, ["max\n"]) == host.Memory(4096000, 3072000)
        assert host.read_memory(meminfo, [" 2048000\n"]) == host.Memory(2048000, 2048000)

    @pytest.mark.parametrize(
        ("backend", "total", "available", "want"),
        [
            ("ttnn", 8e9, 3.1e9, "ok"),
            ("ttnn", 8e9, 2.9e9, "warn"),
            ("ttnn", 2.9e9, 2.9e9, "fail"),
            ("torch", 8e9, 3.1e9, "warn"),
        ],
    )
    def test_memory(self, backend, total, available, want):
        memory = host.Memory(int(total), int(available))
        assert status(host.check_memory(host.PI0_BASE_PARAMETERS, memory, backend=backend)) == want
        small = host.check_memory(host.PI0_BASE_PARAMETERS // 100, memory, backend=backend)
        assert status(small) == "ok"

    @pytest.mark.parametrize(
        ("backend", "free", "want"), [("ttnn", 3.8e9, "ok"), ("ttnn", 3.6e9, "warn"), ("torch", 0, "ok")]
    )
    def test_disk(self, backend, free, want):
        finding = host.check_disk(host.PI0_BASE_PARAMETERS, 14 * 10**9, int(free), backend=backend)
        assert status(finding, "14.0 GB") == want


def test_here():
    """A process of its own, as a user's: every check reports once, and the status is that of the findings."""
    command = [sys.executable, "-m", "lerobot_pi0_ttnn", "doctor", "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stderr == ""
    findings = {finding["check"]: finding for finding in json.loads(result.stdout)}
    checks = (
        "python, plug-in, lerobot, torch, numpy, ttnn, card, driver, firmware, clock, processes, hugepages, environment"
    )
    assert list(findings)[:13] == checks.split(", ")
    assert {"hf cache", "tokenizer", "gl"} <= findings.keys()
    assert result.returncode == any(finding["status"] == "fail" for finding in findings.values())


class TestCommand:
    @pytest.fixture(autouse=True)
    def _offline(self, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def test_checkpoint(self, tmp_path, capsys):
        from lerobot_pi0_ttnn.demo.stand_in import make_demo_checkpoint

        make_demo_checkpoint(tmp_path, "pusht")
        assert main(["doctor", "--backend", "torch", "--checkpoint", str(tmp_path)]) == 0
        out = capsys.readouterr().out
        for line in ("checkpoint", "disk", "memory"):
            assert f"ok    {line}" in out
        assert f"ok    tokenizer        tokenizer: {tmp_path / 'tokenizer'}" in out
        assert "card" not in out

    def test_no_such_checkpoint(self, capsys):
        assert main(["doctor", "--backend", "torch", "--checkpoint", "./absent"]) == 1
        assert "fail  checkpoint       ./absent: there is no such folder" in capsys.readouterr().out

    def test_the_size_is_that_of_the_files(self, tmp_path, monkeypatch):
        from lerobot_pi0_ttnn.demo.stand_in import make_demo_checkpoint

        make_demo_checkpoint(tmp_path, "pusht")
        sizes = []
        monkeypatch.setattr(
            host, "check_disk", lambda _, size, *__, **___: sizes.append(size) or Finding("disk", "ok", "")
        )
        check_host(str(tmp_path), "torch")
        assert sizes == [(tmp_path / "model.safetensors").stat().st_size]

    def test_lines_for_a_person(self):
        findings = [Finding("gl", "ok", "there"), Finding("disk", "warn", "full", "make room")]
        assert as_text(findings).splitlines() == [
            "ok    gl               there",
            "warn  disk             full",
            "        fix:           make room",
            "1 ok, 1 warn, 0 fail",
        ]

    def test_there_is_no_board_to_open_for_torch(self, capsys):
        assert main(["doctor", "--backend", "torch", "--open"]) == 1
        assert "--open: the torch backend has no board to open" in capsys.readouterr().err

    def test_a_board_is_opened_only_if_asked(self, monkeypatch):
        opened = []
        monkeypatch.setattr(
            "lerobot_pi0_ttnn.cli.doctor.command.open_board_apart",
            lambda name: opened.append(name) or Finding("grid", "ok", name),
        )
        check_board(None)
        assert opened == []
        assert check_board("emulated:n150")[-1] == Finding("grid", "ok", "emulated:n150")
        assert opened == ["emulated:n150"]

    def test_a_machine_without_anything(self):
        """That of these tests: no card, no driver, no compiler, no variable, whatever the one below them has."""
        findings = {finding.check: finding.status for finding in check_board(None)}
        of_nothing = {"card": "warn", "driver": "ok", "firmware": "ok", "hugepages": "ok", "environment": "ok"}
        assert findings.items() >= of_nothing.items()
        assert findings.get("kernel compiler", "warn") == "warn"

    def test_opens_a_board(self):
        pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")
        from lerobot_pi0_ttnn.cli.doctor.command import open_board_apart

        assert status(open_board_apart("emulated:n150"), "8 x 8 workers") == "ok"

    def test_a_board_that_cannot_be_opened(self, monkeypatch):
        from lerobot_pi0_ttnn.cli.doctor import command as doctor

        ended = subprocess.CompletedProcess([], 1, stdout="", stderr="Traceback:\nRuntimeError: TT_THROW: no card\n")
        monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: ended)
        assert (
            status(doctor.open_board_apart("0"), "board 0 cannot be opened: RuntimeError: TT_THROW: no card") == "fail"
        )
