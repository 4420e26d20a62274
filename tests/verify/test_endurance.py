"""A soak, throttled matmuls, ttnn's instruments, kernels that compile, a clock that is low."""

import argparse
import io
import json
import signal
import subprocess
from pathlib import Path

import pytest
import torch

ttnn = pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

from lerobot_pi0_ttnn.analysis import soak  # noqa: E402
from lerobot_pi0_ttnn.analysis.behaviour import Case  # noqa: E402
from lerobot_pi0_ttnn.cli.verify import checks, command, endurance, times  # noqa: E402
from lerobot_pi0_ttnn.cli.verify.findings import ADVICE, Line, Lines  # noqa: E402
from lerobot_pi0_ttnn.device import compiling  # noqa: E402
from lerobot_pi0_ttnn.device.executor import PI0ModelTTNN  # noqa: E402
from lerobot_pi0_ttnn.device.failure import KernelBuildError  # noqa: E402
from lerobot_pi0_ttnn.ttnn_api.installed import ttnn_folder, wanted_sfpi  # noqa: E402


def failed(subject):
    return [(line.kind, line.what) for line in subject.lines.failed]


class TestSoak:
    @pytest.fixture
    def ticks(self, monkeypatch):
        """A minute is so many looks at the clock, and the questions are few."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        monkeypatch.setattr(soak, "SEEDS", 3)
        defaults = soak.soak.__kwdefaults__ | {"clock": iter(range(0, 600, 5)).__next__}
        monkeypatch.setattr(soak.soak, "__kwdefaults__", defaults)

    def test_good(self, subject, ticks):
        endurance.check_soak(subject, 1, 0)
        assert failed(subject) == []
        numbers = subject.lines.all[0].numbers
        assert numbers["calls"] > 8
        assert numbers["reloads"] > 1
        assert numbers["interrupts"] > 0

    def test_ctrl_c_of_the_users_ends_it(self, subject, ticks, monkeypatch):
        ask, asked = Case.ask, []

        def stopped(case, model):
            asked.append(case)
            if len(asked) == 3:
                signal.raise_signal(signal.SIGINT)
            return ask(case, model)

        monkeypatch.setattr(Case, "ask", stopped)
        with pytest.raises(KeyboardInterrupt):
            endurance.check_soak(subject, 1, 0)
        assert len(asked) == 3

    def test_a_leak_on_the_board(self, subject, ticks, monkeypatch):
        forget, kept = PI0ModelTTNN.forget, []

        def leaking(model):
            forget(model)
            kept.append(ttnn.zeros((1024, 1024), ttnn.float32, ttnn.TILE_LAYOUT, subject.board.device))

        monkeypatch.setattr(PI0ModelTTNN, "forget", leaking)
        endurance.check_soak(subject, 1, 0)
        assert [kind for kind, _ in failed(subject)] == ["memory"]

    def test_a_leak_on_the_host(self, subject, ticks, monkeypatch):
        forget, kept = PI0ModelTTNN.forget, []

        def leaking(model):
            forget(model)
            kept.append(torch.ones(20 << 20))

        monkeypatch.setattr(PI0ModelTTNN, "forget", leaking)
        endurance.check_soak(subject, 1, 0)
        assert [kind for kind, _ in failed(subject)] == ["memory"]

    def test_what_is_free_is_no_leak(self, subject):
        """glibc keeps it below whatever lies highest."""
        before, _ = soak._memory(subject.board, subject.model)
        blocks = [b"x" * 60_000 for _ in range(3000)]
        del blocks[:-1]
        after, _ = soak._memory(subject.board, subject.model)
        assert after - before < 32

    def test_another_answer_names_its_seed(self, subject, ticks, monkeypatch):
        ask, asked = Case.ask, []

        def sometimes(case, model):
            asked.append(case)
            return ask(case, model) + (len(asked) == 7) * 1e-3

        monkeypatch.setattr(Case, "ask", sometimes)
        endurance.check_soak(subject, 1, 2)
        (line,) = subject.lines.failed
        assert line.kind == "repetition"
        assert line.detail.startswith("call 7, to the ")
        assert f"{asked[6].name}, soak seed 2: not the first answer: 1600 of 1600" in line.detail
        again = soak.random_case(subject.model.config, int(asked[6].name.split()[1]), cameras=3, tokens=48)
        assert torch.equal(again.noise, asked[6].noise)


class TestThrottle:
    def test_the_same_bits(self, subject):
        endurance.check_throttle(subject)
        (line,) = subject.lines.all
        assert (line.section, line.status) == ("throttle", "ok")
        assert line.what.startswith("matmuls at throttle 1: the bits of throttle 0")
        assert not [name for name in line.numbers if name.startswith("p50")], "no milliseconds without a card"

    def test_other_bits(self, subject, monkeypatch):
        """Those of the throttled model, twice of twice."""

        def make(subject, programs, *, throttle):
            other = make_model(subject, programs, throttle=throttle)
            sample = other.sample_actions
            other.sample_actions = lambda *args, **kwargs: sample(*args, **kwargs) * 1.001
            return other

        make_model = checks.make_model
        monkeypatch.setattr(endurance, "make_model", make)
        endurance.check_throttle(subject)
        (line,) = subject.lines.failed
        assert line.kind == "repetition"
        assert line.detail.startswith("2 of 4 differ; the first, at throttle 1: ")


class TestInstruments:
    @pytest.fixture
    def run(self, monkeypatch):
        """Returns the lines of processes that end as a function says, and what each was given."""

        def run(ends, **options):
            def process(command, *, env, timeout, **_):
                given.append((command, {name: env[name] for name in env if name.startswith("TT_METAL_")}))
                return ends(Path(command[command.index("--report") + 1]), timeout)

            given = []
            monkeypatch.setattr(subprocess, "run", process)
            lines = Lines(lambda _: None)
            endurance.check_by_instruments(lines, ["CKPT", "--board", "0"], traced=True, **options)
            return lines, given

        return run

    def test_good(self, run):
        lines, given = run(lambda folder, timeout: subprocess.CompletedProcess([], 0, "", ""))
        assert [line.status for line in lines.all] == ["ok", "ok"]
        (watcher, tracker) = given
        assert watcher[1] == {"TT_METAL_WATCHER": "10"}
        assert tracker[1]["TT_METAL_TRACE_ALLOC_TRACKING"] == "1"
        for command_line, _ in given:
            assert command_line[3:7] == ["verify", "CKPT", "--board", "0"]
            assert command_line[command_line.index("--only") + 1] == "behaviour"
            assert "--no-instruments" in command_line

    def test_that_complain(self, run):
        """One by its report, one by its end."""

        def ends(folder, timeout):
            if len(kinds) == 1:
                return subprocess.CompletedProcess([], -6, "", "watcher stopped the device\nbrisc at core (1,2)")
            kinds.append("report")
            failed = {"status": "fail", "what": "turns", "detail": "unsafe buffer"}
            (folder / "verify.json").write_text(json.dumps({"lines": [failed]}))
            return subprocess.CompletedProcess([], 1, "", "")

        kinds = []
        lines, _ = run(ends)
        assert [(line.kind, line.detail) for line in lines.failed] == [
            ("watcher", "turns: unsafe buffer"),
            ("allocation", "ended with status -6: watcher stopped the device brisc at core (1,2)"),
        ]

    def test_that_hang(self, run):
        def ends(folder, timeout):
            raise subprocess.TimeoutExpired("verify", timeout)

        lines, _ = run(ends, seconds=120)
        assert [(line.kind, line.detail) for line in lines.failed] == 2 * [("board", "no end after 2 minutes")]

    def test_the_command_line_of_the_same_subject(self, monkeypatch):
        """Every option that says what is checked is passed on as it was given."""
        parser = argparse.ArgumentParser()
        command.register(parser.add_subparsers())
        given = ["CKPT", "--board", "1", "--precision", "accurate", "--frames", "2", "--local-files-only"]
        options = parser.parse_args(["verify", *given, "--instruments", "--repeats", "7"])
        passed = []
        monkeypatch.setattr(
            endurance, "check_by_instruments", lambda lines, arguments, traced: passed.extend(arguments)
        )
        command.run_instruments(options, Lines(lambda _: None), {"kind": "simulator"}, traced=True)
        again = parser.parse_args(["verify", *passed])
        assert all(getattr(again, name) == getattr(options, name) for name in ("checkpoint", *command.SUBJECT))
        assert again.repeats is None


def test_stock_is_recommended_where_it_helps(subject):
    subject.lines.add(Line("operations", "ours", "fail", "deviation"))
    checks.check_stock(subject)
    assert subject.lines.all[-1].kind == "stock"
    assert "--policy.programs=stock" in ADVICE["stock"].action


def test_a_low_clock_is_no_basis(subject, monkeypatch):
    monkeypatch.setattr(subject.board, "kind", "card")
    clock = {"p150 at 0000:01:00.0": {"before": "1350", "after": "800", "full": 1350}}
    report = {"milliseconds": {"readback": {"count": 1, "p50": 1.0}}, "clock_mhz": clock}
    done = []
    monkeypatch.setattr(subject.policy, "warm_up", lambda: done.append("warm"))
    monkeypatch.setattr(times, "time_chunks", lambda *_: done.append("timed") or (report, None))
    times.check_time(subject, {}, 1)
    assert [(line.status, line.kind) for line in subject.lines.all] == [("ok", ""), ("warn", "low clock")]
    assert done == ["warm", "timed"]
    assert "no basis" in subject.lines.all[-1].detail


class TestKernels:
    """Compiled on the user's machine, when first used: how far that is, and what is wrong where one does not compile."""

    # As ttnn 0.81.1 words it, of a compiler that refuses; the backtrace is shortened.
    ERROR = (
        "TT_THROW @ /project/tt_metal/impl/program/program.cpp:419: tt::exception\ninfo:\n"
        "Failed to generate binaries for split_heads_compute TT_THROW @ /project/tt_metal/jit_build/build.cpp:149: "
        "tt::exception\ninfo:\ntrisc0 build failed. Log: In file included from x.cpp:1:\n"
        "split_heads_compute.cpp:21:5: error: 'mul_init' was not declared in this scope\n\nbacktrace:\n --- error(+0x1)\n"
    )

    def test_one_that_does_not_compile(self, board):
        with pytest.raises(KernelBuildError) as raised, board.in_use("trying it"):
            raise RuntimeError(self.ERROR)
        said = str(raised.value)
        assert (
            "the kernel split_heads_compute does not compile for trisc0: split_heads_compute.cpp:21:5: error:" in said
        )
        assert "'mul_init' was not declared in this scope. This ttnn wants release " in said
        assert f"release {wanted_sfpi(ttnn_folder())['version']} of the kernel compiler sfpi" in said
        assert "--policy.programs=stock" in said
        assert board.failure is None, "the board is as it was"

    def test_it_is_a_line(self, subject):
        def fails(*args, **kwargs):
            raise RuntimeError(self.ERROR)

        sample = subject.model.sample_actions
        subject.model.sample_actions = fails
        try:
            command.compile_kernels(subject.policy, subject.observations[0], subject.lines)
        finally:
            subject.model.sample_actions = sample
        (line,) = subject.lines.failed
        assert (line.section, line.kind) == ("kernels", "kernel")
        assert "split_heads_compute" in line.detail

    def test_progress(self, subject, monkeypatch):
        """In weights: at the end nearly all were read, each counts once."""
        bars = []

        class Bar(compiling.tqdm):
            def __init__(self, *args, **kwargs):
                super().__init__(*args, **kwargs | {"disable": False, "delay": 0, "file": io.StringIO()})
                bars.append(self)

        monkeypatch.setattr(compiling, "tqdm", Bar)
        command.compile_kernels(subject.policy, subject.observations[0], subject.lines)
        (bar,) = bars
        assert bar.total == len(subject.model.chips[0].uploaded)
        assert 0.9 * bar.total < bar.n <= bar.total
        assert [line.status for line in subject.lines.all] == ["ok"]
