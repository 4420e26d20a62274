"""`lerobot-pi0-ttnn verify`: it passes where all is well, and finds each kind of fault where one is injected."""

import argparse
import getpass
import io
import json
import signal
import socket
import subprocess
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

ttnn = pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

from lerobot_pi0_ttnn import PI0TTNNPolicy, PI05TTNNConfig, PI05TTNNPolicy  # noqa: E402
from lerobot_pi0_ttnn.analysis import soak  # noqa: E402
from lerobot_pi0_ttnn.analysis.behaviour import Case, make_cases  # noqa: E402
from lerobot_pi0_ttnn.analysis.operations import compare  # noqa: E402
from lerobot_pi0_ttnn.analysis.parts import layers  # noqa: E402
from lerobot_pi0_ttnn.certificate import check_seal  # noqa: E402
from lerobot_pi0_ttnn.cli import main  # noqa: E402
from lerobot_pi0_ttnn.cli.verify import checks, command, endurance, times  # noqa: E402
from lerobot_pi0_ttnn.cli.verify.findings import ADVICE, Line, Lines  # noqa: E402
from lerobot_pi0_ttnn.cli.verify.report import make_report, without_names  # noqa: E402
from lerobot_pi0_ttnn.device import compiling, uploads  # noqa: E402
from lerobot_pi0_ttnn.device.executor import PI0ModelTTNN  # noqa: E402
from lerobot_pi0_ttnn.device.failure import KernelBuildError  # noqa: E402
from lerobot_pi0_ttnn.device.uploads import Contexts  # noqa: E402
from lerobot_pi0_ttnn.model.config import TINY_PI05  # noqa: E402
from lerobot_pi0_ttnn.ttnn_api.hook import add_layer, remove_layer  # noqa: E402
from lerobot_pi0_ttnn.ttnn_api.installed import ttnn_folder, wanted_sfpi  # noqa: E402
from tests.checkpoints import edit_json, save_lerobot_checkpoint  # noqa: E402
from tests.oracle import CAMERAS, make_batch, make_lerobot_policy, state_dict  # noqa: E402
from tests.parity.test_tt_context import EmulatedTraces  # noqa: E402
from tests.quality import assert_quality  # noqa: E402


@pytest.fixture(autouse=True)
def _emulated(board):
    if board.kind != "emulated":
        pytest.skip("faults are injected into an emulated board")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    policy = make_lerobot_policy(n_action_steps=5, num_inference_steps=1)
    folder = save_lerobot_checkpoint(policy, tmp_path_factory.mktemp("someones") / "secret-project")
    edit_json(folder / "config.json", architecture="tiny")
    return folder


@pytest.fixture(scope="module")
def policy(board, checkpoint):
    policy = PI0TTNNPolicy.from_pretrained(checkpoint, board=board.name, precision="accurate", cache_weights=False)
    yield policy
    policy.close()


@pytest.fixture
def subject(policy, board):
    batch = make_batch(batch=1, cameras=CAMERAS[:2], lengths=[23])
    saved = {}
    subject = checks.Subject(policy, board, [policy._read(batch)], Lines(lambda _: None), saved.__setitem__, 2)
    subject.saved = saved
    yield subject
    policy.model.forget()


def failed(subject):
    return [(line.kind, line.what) for line in subject.lines.failed]


@contextmanager
def broken(name, number, change, board):
    """The output of the so-many-th call of one operation is another: what its kernel would have written wrong."""
    calls = []

    def layer(call, proceed):
        output = proceed(*call.args, **call.kwargs)
        if call.name == name:
            calls.append(name)
            if len(calls) == number:
                memory = board._emulator.memory
                value = memory.read(output).clone()
                change(value)
                memory.write(output, value)
        return output

    add_layer(layer)
    try:
        yield
    finally:
        remove_layer(layer)


class TestWhole:
    def test_a_good_one_passes(self, checkpoint, board, tmp_path, capsys):
        command = [
            "verify",
            str(checkpoint),
            "--board",
            board.name,
            "--repeats",
            "2",
            "--report",
            str(tmp_path / "report"),
        ]
        status = main(command)
        printed = capsys.readouterr().out
        assert status == 0, printed
        assert printed.splitlines()[-1] == "passed"
        report = json.loads((tmp_path / "report" / "verify.json").read_text())
        check_seal(report)
        sections = list(dict.fromkeys(line["section"] for line in report["lines"]))
        want = ["doctor", "parts", "layers", "operations", "behaviour", "stock", "throttle"]
        assert sections == [*want, "time", "rate", "operation times", "instruments"]
        cannot = [line["what"] for line in report["lines"] if line["status"] == "skip"]
        assert cannot == ["kernels", "traces", *3 * ["milliseconds"], "ttnn's watcher, its tracker of allocations"]
        names = [line["what"] for line in report["lines"] if line["section"] == "layers"]
        want = [*(f"SigLIP, layer {n}" for n in range(2)), *(f"prefix, layer {n}" for n in range(2))]
        want += [f"expert, {block}, layer {n}" for block in ("state", "actions") for n in range(3)]
        assert names == want
        errors = [line["numbers"]["rel_rmse"] for line in report["lines"] if line["section"] in ("parts", "layers")]
        assert all(0 < error < 0.04 for error in errors)
        limits = {line["what"]: line["numbers"].get("limit") for line in report["lines"]}
        assert limits["whole chunk"] == limits["given: chunk"] == pytest.approx(3 * 0.03), "the observation is made up"
        page = (tmp_path / "report" / "verify.md").read_text()
        for text in (page, json.dumps(report)):
            for name in (str(checkpoint), "secret-project", str(tmp_path), socket.gethostname(), "/home/"):
                assert name not in text
        assert not list((tmp_path / "report").glob("*.safetensors"))

    def test_a_machine_that_is_not_ready_ends_it(self, checkpoint, board, monkeypatch, capsys):
        monkeypatch.setattr(
            "lerobot_pi0_ttnn.cli.doctor.packages.import_failure", lambda name: "libnuma.so.1 is missing"
        )
        assert main(["verify", str(checkpoint), "--board", board.name]) == 1
        printed = capsys.readouterr().out
        assert "libnuma.so.1" in printed
        assert "parts" not in printed

    def test_an_operation_that_ttnn_refuses_is_a_line(self, checkpoint, board, monkeypatch, capsys):
        """And what comes after it is tried; what the board itself fails at ends it."""
        message = (
            "TT_FATAL @ /project/ttnn/cpp/ttnn/operations/matmul/x.cpp:5: a == b\ninfo:\nwidth 3 is odd\nbacktrace:\n"
        )

        def refused(subject):
            raise RuntimeError(message)

        monkeypatch.setattr("lerobot_pi0_ttnn.cli.verify.command.ask_doctor", lambda lines, options: None)
        for section in ("parts", "operations", "behaviour"):
            monkeypatch.setattr(checks, f"check_{section}", refused if section == "parts" else lambda subject: None)
        command = ["verify", str(checkpoint), "--board", board.name]
        command += ["--only", "parts", "operations", "behaviour", "stock"]
        assert main(command) == 1
        printed = capsys.readouterr().out
        assert "fail  parts       ended early: width 3 is odd\n" in printed
        assert ADVICE["refused"].action in printed
        assert "ok    stock " in printed
        message = "TT_THROW @ /project/tt_metal/impl/dispatch/x.cpp:5: TIMEOUT: device timeout"
        monkeypatch.setattr(checks, "check_operations", refused)
        monkeypatch.setattr(checks, "check_parts", lambda subject: None)
        try:
            assert main(command) == 1
        finally:
            board.failure = None
        printed = capsys.readouterr().out
        assert "device timeout" in printed
        assert ADVICE["board"].action in printed
        assert "stock" not in printed.split("fail  board")[0]

    def test_observations_of_a_file(self, checkpoint, policy, tmp_path):
        from lerobot_pi0_ttnn.checkpoint.files import CheckpointSource
        from lerobot_pi0_ttnn.cli.verify.observations import read_batches

        file = tmp_path / "one.safetensors"
        tensors = {f"observation.images.{camera}": torch.rand(3, 120, 160) for camera in CAMERAS}
        save_file(tensors | {"observation.state": torch.linspace(-1, 1, 14)}, file, {"task": "push"})
        kind, (batch,) = read_batches(file, policy.config, CheckpointSource(checkpoint), 1)
        assert kind == "of a file"
        observation = policy._read(batch)
        assert observation.rows == 1
        assert observation.lang_masks.any()
        # Normalised by the checkpoint's statistics: mean -1 to 1.
        assert observation.state[:, :14].abs().max() < 1e-6
        save_file(tensors, file)
        with pytest.raises(ValueError, match="no task"):
            read_batches(file, policy.config, CheckpointSource(checkpoint), 1)

    def test_observations_of_a_data_set(self, checkpoint, policy, tmp_path):
        """LeRobot writes it; its first and its last frame are taken, with their task."""
        from lerobot.datasets.lerobot_dataset import LeRobotDataset

        from lerobot_pi0_ttnn.checkpoint.files import CheckpointSource
        from lerobot_pi0_ttnn.cli.verify.observations import read_batches

        image = {"dtype": "image", "shape": (60, 80, 3), "names": ["height", "width", "channel"]}
        numbers = {"dtype": "float32", "names": None}
        features = {f"observation.images.{camera}": image for camera in CAMERAS}
        features |= {"observation.state": numbers | {"shape": (14,)}, "action": numbers | {"shape": (7,)}}
        data_set = LeRobotDataset.create("made/up", 10, features, root=tmp_path / "set", use_videos=False)
        for shade in (10, 20, 30):
            frame = {f"observation.images.{camera}": np.full((60, 80, 3), shade, np.uint8) for camera in CAMERAS}
            frame |= {"observation.state": np.ones(14, np.float32), "action": np.ones(7, np.float32), "task": "push"}
            data_set.add_frame(frame)
        data_set.save_episode()
        data_set.finalize()
        kind, batches = read_batches(tmp_path / "set", policy.config, CheckpointSource(checkpoint), 2)
        assert kind == "of a data set"
        shades = [float(policy._read(batch).images[0].max()) for batch in batches]
        assert shades == pytest.approx([10 / 127.5 - 1, 30 / 127.5 - 1], abs=1e-3)
        with pytest.raises(ValueError, match=r"no meta/info\.json"):
            read_batches(tmp_path, policy.config, CheckpointSource(checkpoint), 1)


class TestCompare:
    def test_rounding_is_no_outlier(self):
        """Of bfloat16 values some are a few units in the last place off: powers of two as well, and large where they are."""
        want = torch.randn(64, 256, generator=torch.Generator().manual_seed(0)).bfloat16().float()
        got = want.clone()
        got[::7] *= 1 + 2**-6
        assert (got - want).abs().max() > 4 * 0.012
        assert compare(got, want, 0.012).outliers == 0

    def test_power_of_two(self):
        want = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
        got = want + torch.randn(64, 256, generator=torch.Generator().manual_seed(1)) * 1e-3
        got[5, 40] -= 128
        got[50, 7] += 0.5
        found = compare(got, want, 0.02)
        assert (found.verdict, found.outliers, found.powers, found.first) == ("power of two", 2, 2, (5, 40))
        assert 0.0005 < found.rel_rmse < 0.002
        assert found.spread == (2, 2)

    def test_constants(self):
        assert compare(torch.zeros(4, 4), torch.zeros(4, 4), 0.01).verdict == "ok"
        assert compare(torch.full((4, 4), 1.5), torch.ones(4, 4), 0.01).verdict == "deviation"

    def test_not_finite(self):
        got = torch.ones(4, 4)
        got[1, 2] = torch.nan
        found = compare(got, torch.ones(4, 4), 0.01)
        assert (found.verdict, found.not_finite, found.first) == ("not finite", 1, (1, 2))


class TestOperations:
    def test_good(self, subject):
        checks.check_operations(subject)
        assert failed(subject) == []
        counts = {line.what: line.numbers["operations"] for line in subject.lines.all if line.numbers}
        assert set(counts) == {"upload", "vision", "prefill", "step 1", "step 2"}
        assert counts["step 1"] == counts["step 2"] > 20

    @pytest.mark.parametrize(
        ("change", "kind", "said"),
        [
            (lambda x: x[0, ..., 32:64, 32:64].mul_(-1), "outlier", "within 1 x 1 tiles"),
            (lambda x: x[0, ..., 3, 40].add_(64.0), "power of two", "1 outliers, 1 of them off by a power of two"),
            (lambda x: x[0, ..., 3, 40].fill_(torch.inf), "not finite", "1 elements are not finite"),
            (lambda x: x.mul_(1.05), "deviation", "relative RMSE 0.05"),
        ],
        ids=["tile", "power of two", "infinity", "scale"],
    )
    def test_one_that_is_wrong(self, subject, board, change, kind, said):
        with broken("ttnn.linear", 2, change, board):
            checks.check_operations(subject)
        *_, first = [line for line in subject.lines.failed if line.kind][:1]
        assert first.kind == kind
        assert said in first.detail
        assert "ttnn.linear in vision, at" in first.what
        assert "encoder.layers.0.self_attn.qkv_proj" in first.what
        assert {"got", "want", "input 0", "input 1"} <= set(subject.saved["first of operations"])

    def test_our_own_program(self, subject, board, monkeypatch):
        """Rotated by one position too many."""
        from lerobot_pi0_ttnn.tt.ops.heads import split_heads as module  # noqa: F401

        memory = board._emulator.memory

        def layer(call, proceed):
            result = proceed(*call.args, **call.kwargs)
            if call.name == "ttnn.generic_op" and call.program.name == "split_heads":
                keys = call.args[0][-2]
                memory.write(keys, memory.read(keys).roll(1, dims=-2))
            return result

        add_layer(layer)
        try:
            checks.check_operations(subject)
        finally:
            remove_layer(layer)
        assert any(kind == "deviation" and "heads" in what for kind, what in failed(subject))


class TestParts:
    def test_layers_need_no_walk_of_the_parts_before(self, subject):
        """They find the twin's keys and values in the caches, not those that another check has left there."""
        found = list(layers(subject.twin, subject.model, subject.observations[0], subject.noise()))
        assert len(found) == 2 + 2 + 3 + 3
        for part in found:
            assert_quality(part.got, part.want, pcc=0.9999, rel_rmse=part.limit("accurate"))

    def test_weights_of_two_layers_swapped(self, subject):
        expert = subject.model.backbone.expert_layers
        expert[0], expert[1] = expert[1], expert[0]
        try:
            checks.check_parts(subject)
        finally:
            expert[0], expert[1] = expert[1], expert[0]
        layers = [line.what for line in subject.lines.failed if line.section == "layers"]
        want = [f"expert, {block}, layer {layer}" for block in ("state", "actions") for layer in (0, 1)]
        assert layers == want
        assert not [line for line in subject.lines.failed if line.what.startswith(("vision", "keys", "language"))]
        assert set(subject.saved) == {"first of parts", "first of layers"}

    def test_observations_of_ones_own_are_held_to_the_limit(self, subject):
        subject.made_up = False
        checks.check_parts(subject)
        (limit,) = [line.numbers["limit"] for line in subject.lines.all if line.what == "whole chunk"]
        assert limit == 0.012


class TestPi05:
    """The prompt, which holds the state, is among the inputs; the time is in the expert's norms."""

    @pytest.fixture
    def subject(self, board):
        lerobot = make_lerobot_policy(model=TINY_PI05)
        features = {"input_features": lerobot.config.input_features, "output_features": lerobot.config.output_features}
        config = PI05TTNNConfig(
            architecture="tiny", board=board.name, precision="accurate", num_inference_steps=1, **features
        )
        policy = PI05TTNNPolicy(config, state_dict(lerobot))
        batch = make_batch(batch=1, cameras=CAMERAS[:1], lengths=[23])
        yield checks.Subject(policy, board, [policy._read(batch)], Lines(lambda _: None), lambda *_: None, 2)
        policy.close()

    def test_good(self, subject):
        checks.check_parts(subject)
        checks.check_operations(subject)
        cases = make_cases(subject.observations[0], subject.noise())
        case = cases["given"]
        found = [*checks.padding(subject.model, case, case.ask(subject.model))]
        assert [behaviour.kind for behaviour in found] == ["", "", ""]
        assert failed(subject) == []
        assert len([line for line in subject.lines.all if line.what.startswith("expert, actions")]) == 3

    def test_a_modulation_of_another_layer(self, subject):
        (step,) = subject.model.chips[0].steps([1.0])
        step.modulations.layers.insert(0, step.modulations.layers.pop())
        checks.check_parts(subject)
        layers = [line.what for line in subject.lines.failed if line.section == "layers"]
        assert layers == [f"expert, actions, layer {layer}" for layer in range(3)]


class TestBehaviour:
    def test_cases_differ_in_one_thing(self, subject):
        cases = make_cases(subject.observations[0], subject.noise())
        assert list(cases) == ["given", "other inputs", "another prompt", "an absent camera", "guidance"]
        given, other = cases["given"].observation, cases["another prompt"].observation
        assert not torch.equal(given.lang_tokens, other.lang_tokens)
        assert torch.equal(given.lang_masks, other.lang_masks)
        assert given.state is other.state

    def test_a_stale_context(self, subject, monkeypatch):
        """The first prompt of its size stays."""
        load, first = Contexts.load, {}

        def stale(contexts, cameras, tokens):
            key = (id(contexts), cameras, len(tokens))
            return load(contexts, cameras, first.setdefault(key, tokens))

        monkeypatch.setattr(Contexts, "load", stale)
        checks.check_behaviour(subject)
        kinds = {kind for kind, _ in failed(subject)}
        assert "stale context" in kinds
        line = next(line for line in subject.lines.failed if line.kind == "stale context")
        assert "'another prompt' after" in line.detail
        assert "the answer to 'given'" in line.detail

    @pytest.fixture
    def traced(self, subject, board, monkeypatch):
        traces = EmulatedTraces(board.device, monkeypatch)
        (chip,) = subject.model.chips
        monkeypatch.setattr(type(board), "traces", property(lambda _: [traces]))
        monkeypatch.setattr(chip, "traces", traces)
        monkeypatch.setattr(chip, "contexts", Contexts(subject.model.backbone, traces))
        yield traces
        subject.model.forget()
        chip.traces = None
        subject.model.forget()

    def few(self, subject):
        cases = make_cases(subject.observations[0], subject.noise())
        return {name: cases[name] for name in ("given", "another prompt", "guidance")}

    def test_traces(self, subject, traced):
        """Of three sets of shapes, with a second policy beside them."""
        cases = self.few(subject)
        want = {name: case.ask(subject.model) for name, case in cases.items()}
        assert checks.in_turn(subject.model, cases, want, "traced").kind == ""
        assert checks.repeated(subject.model, list(cases.values()), want["given"], 3, "traced").kind == ""
        checks._check_another(subject, cases, want)
        assert failed(subject) == []
        assert traced.replays > 10

    def test_stages_of_a_traced_chunk(self, subject, traced):
        """Inputs are laid out on the host, copied, and read back apart from what the chip computes."""
        stages = times._traced_stages(subject, 2)
        assert {name: numbers["count"] for name, numbers in stages.items()} == {
            name: 2 for name in ("upload", "copy", "trace", "readback")
        }

    def test_a_trace_over_a_buffer_that_was_overwritten(self, subject, traced, monkeypatch):
        execute = traced.execute

        def overwritten(device, trace, cq_id, blocking):
            for entry in traced._entries.values():
                if entry.trace is trace:
                    noise = entry.inputs.noise
                    ttnn.copy_host_to_device_tensor(
                        ttnn.from_torch(torch.ones(tuple(noise.shape)), dtype=noise.dtype, layout=noise.layout), noise
                    )
            execute(device, trace, cq_id, blocking)

        cases = self.few(subject)
        want = {name: case.ask(subject.model) for name, case in cases.items()}
        monkeypatch.setattr(ttnn, "execute_trace", overwritten)
        assert checks.in_turn(subject.model, cases, want, "traced").kind == "trace"
        found = checks.repeated(subject.model, list(cases.values()), want["given"], 3, "traced")
        assert (found.kind, found.numbers["differing"]) == ("trace", 3)
        subject.model.eager = True
        assert checks.repeated(subject.model, list(cases.values()), want["given"], 2, "eager").kind == ""
        subject.model.eager = False

    def test_a_trace_over_a_buffer_that_was_moved(self, subject, traced, monkeypatch):
        """It replays on the inputs of its capture: each answer is that to the question before."""

        def capture(traces, entry, compute):
            there = entry.inputs
            entry.trace, entry.output = (lambda: compute(there)), compute(there)
            entry.inputs = there.moved(ttnn.clone)

        cases = self.few(subject)
        want = {name: case.ask(subject.model) for name, case in cases.items()}
        monkeypatch.setattr(EmulatedTraces, "_capture", capture)
        cases["other inputs"] = make_cases(subject.observations[0], subject.noise())["other inputs"]
        subject.model.eager = True
        want["other inputs"] = cases["other inputs"].ask(subject.model)
        assert checks.in_turn(subject.model, cases, want, "eager").kind == ""
        subject.model.eager = False
        found = checks.in_turn(subject.model, cases, want, "traced")
        assert found.kind == "trace"

    def test_a_bit_that_differs_between_repetitions(self, subject, board):
        calls = []

        def flip(call, proceed):
            output = proceed(*call.args, **call.kwargs)
            if call.name == "ttnn.addalpha":
                calls.append(1)
                if len(calls) % 5 == 0:
                    value = board._emulator.memory.read(output).clone()
                    value[..., 0, 0] += 2**-12
                    board._emulator.memory.write(output, value)
            return output

        add_layer(flip)
        try:
            cases = make_cases(subject.observations[0], subject.noise())
            want = cases["given"].ask(subject.model)
            found = checks.repeated(subject.model, list(cases.values()), want, 8, "eager")
        finally:
            remove_layer(flip)
        assert found.kind == "repetition"
        assert found.detail.startswith("1 of 8 differ, the first is number 3: ")

    @pytest.mark.parametrize("off", [1, -1], ids=["one too many", "one too few"])
    def test_a_mask_off_by_one(self, subject, monkeypatch, off):
        real_tokens = uploads.real_tokens

        def wrong(layout, length):
            real = real_tokens(layout, length).clone()
            end = int(real[0].int().argmin())
            if off > 0:
                real[0, end] = True
            else:
                real[0, end - 1] = False
            return real

        monkeypatch.setattr(uploads, "real_tokens", wrong)
        subject.model.forget()
        case = make_cases(subject.observations[0], subject.noise())["given"]
        found = list(checks.padding(subject.model, case, case.ask(subject.model)))
        assert [behaviour.kind for behaviour in found] == (["padding", "", ""] if off > 0 else ["", "", "padding"])

    @pytest.mark.parametrize("factor", [1.0, 1.001], ids=["as the first", "otherwise"])
    def test_each_chip_is_asked(self, subject, factor):
        """The second is the first under another name, and may get another noise."""
        (chip,) = subject.model.chips

        class Second:
            def __getattr__(self, name):
                return getattr(chip, name)

            def upload(self, observation, noise, *arguments, **options):
                asked.append(observation.rows)
                return chip.upload(observation, noise * factor, *arguments, **options)

        asked = []
        case = make_cases(subject.observations[0], subject.noise())["given"]
        want = case.ask(subject.model)
        subject.model.chips.append(Second())
        try:
            found = checks.on_every_chip(subject.model, case, want)
        finally:
            subject.model.chips.pop()
        assert asked == [1]
        assert found.kind == ("" if factor == 1.0 else "chip")
        assert found.detail.startswith("" if factor == 1.0 else "chip 2: ")

    def test_a_second_policy_that_disturbs_the_first(self, subject, monkeypatch):
        """Its weights lie where the first one's do."""
        make = checks.make_model

        def disturbing(subject, programs):
            other = make(subject, programs)
            name = next(name for name in subject.model.chips[0].uploaded if "fc2.weight" in name)
            ttnn.copy(subject.model.chips[0].uploaded[name], subject.model.chips[0].uploaded[name])
            memory = subject.board._emulator.memory
            tensor = subject.model.chips[0].uploaded[name]
            kept.append((tensor, memory.read(tensor)))
            memory.write(tensor, memory.read(tensor) * 0.9)
            return other

        kept = []
        monkeypatch.setattr(checks, "make_model", disturbing)
        cases = make_cases(subject.observations[0], subject.noise())
        want = {name: case.ask(subject.model) for name, case in cases.items()}
        try:
            checks._check_another(subject, cases, want)
        finally:
            for tensor, value in kept:
                subject.board._emulator.memory.write(tensor, value)
        assert [kind for kind, _ in failed(subject)] == ["other policy"]


class TestSoak:
    @pytest.fixture
    def ticks(self, monkeypatch):
        """A minute is so many looks at the clock, and the questions are few."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        monkeypatch.setattr(soak, "SEEDS", 3)
        monkeypatch.setattr(soak, "SETTLES", 4)
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


def test_each_kind_of_finding_has_its_own_sentence():
    assert len({advice.meaning for advice in ADVICE.values()}) == len(ADVICE)
    assert len({advice.action for advice in ADVICE.values()}) == len(ADVICE)


class TestReport:
    @pytest.mark.parametrize(
        ("text", "want"),
        [
            ("no such file: /home/jo/pi0/model.safetensors", "no such file: <path>"),
            ("'~/robots/pi0': damaged", "'<path>': damaged"),
            ("read/write at 0000:01:00.0, 8 x 8", "read/write at 0000:01:00.0, 8 x 8"),
            ("TT_FATAL @ /project/tt_metal/impl/x.cpp:5", "TT_FATAL @ <path>:5"),
            (f"run by {getpass.getuser()}x", f"run by {getpass.getuser()}x"),
        ],
    )
    def test_no_path(self, text, want):
        assert without_names(text) == want

    def test_no_user_and_no_host(self, monkeypatch):
        monkeypatch.setattr(getpass, "getuser", lambda: "joanna")
        monkeypatch.setattr(socket, "gethostname", lambda: "labrat")
        assert without_names("joanna@labrat: collaborate") == "<user>@<host>: collaborate"

    def test_an_edited_one_is_found(self):
        lines = Lines(lambda _: None)
        lines.add(Line("parts", "x", "fail", "deviation", numbers={"rel_rmse": float("nan")}))
        about = {
            "board": None,
            "checkpoint": {"type": "pi0", "architecture": "tiny", "fingerprint": "0"},
            "options": {},
        }
        report = make_report(lines, cards=[], about=about)
        check_seal(report)
        assert report["passed"] is False
        with pytest.raises(ValueError, match="edited"):
            check_seal(report | {"passed": True})


def test_saved_tensors_can_be_read(tmp_path):
    from lerobot_pi0_ttnn.cli.verify.command import save_tensors

    save_tensors(tmp_path, "first of parts", {"got": torch.arange(6).view(2, 3).T})
    assert torch.equal(load_file(tmp_path / "first_of_parts.safetensors")["got"], torch.arange(6).view(2, 3).T)


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
