"""What must not change an answer, and is found where it does: contexts, traces, masks, chips, another policy."""

import pytest
import torch

ttnn = pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

from lerobot_pi0_ttnn.analysis.behaviour import make_cases  # noqa: E402
from lerobot_pi0_ttnn.cli.verify import checks, times  # noqa: E402
from lerobot_pi0_ttnn.device import uploads  # noqa: E402
from lerobot_pi0_ttnn.device.uploads import Contexts  # noqa: E402
from lerobot_pi0_ttnn.ttnn_api.hook import add_layer, remove_layer  # noqa: E402
from tests.parity.test_tt_context import EmulatedTraces  # noqa: E402


def failed(subject):
    return [(line.kind, line.what) for line in subject.lines.failed]


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
                    value[..., 1, 0] += 2**-12  # of the first action
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
