"""Each operation of a chunk on its own, by a clock of ours: what is slow is named, what it would save comes first."""

import json

import pytest

ttnn = pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

from lerobot_pi0_ttnn.analysis.calibration import constants_of, with_constants  # noqa: E402
from lerobot_pi0_ttnn.analysis.cost import cost, machine  # noqa: E402
from lerobot_pi0_ttnn.analysis.graph import captured  # noqa: E402
from lerobot_pi0_ttnn.analysis.report import operations_by_stage  # noqa: E402
from lerobot_pi0_ttnn.analysis.sustained import SLICES, sustain  # noqa: E402
from lerobot_pi0_ttnn.analysis.timing import distinct, time_operations  # noqa: E402
from lerobot_pi0_ttnn.cli.verify import checks, times  # noqa: E402
from lerobot_pi0_ttnn.cli.verify.findings import Lines  # noqa: E402
from lerobot_pi0_ttnn.cli.verify.report import make_report, write_report  # noqa: E402
from lerobot_pi0_ttnn.device.trace import Traces  # noqa: E402
from tests.oracle import CAMERAS, make_batch, make_lerobot_policy, state_dict  # noqa: E402


@pytest.fixture(scope="module")
def policy(board):
    from lerobot_pi0_ttnn import PI0TTNNConfig, PI0TTNNPolicy

    if board.kind != "emulated":
        pytest.skip("a clock of ours takes the place of a card")
    lerobot = make_lerobot_policy(num_inference_steps=4)
    features = {"input_features": lerobot.config.input_features, "output_features": lerobot.config.output_features}
    config = PI0TTNNConfig(
        architecture="tiny", board=board.name, precision="balanced", num_inference_steps=4, **features
    )
    policy = PI0TTNNPolicy(config, state_dict(lerobot))
    yield policy
    policy.close()


@pytest.fixture
def subject(policy, board):
    batch = make_batch(batch=1, cameras=CAMERAS[:2], lengths=[23])
    yield checks.Subject(policy, board, [policy._read(batch)], Lines(lambda _: None), lambda *_: None, 2)
    policy.model.forget()


class Card:
    """Traces as ttnn has them, of which a replay takes what a function says of each of its operations."""

    START, END = 11e-6, 40e-6

    def __init__(self, monkeypatch, takes):
        self.now, self.takes, self.traces, self.live = 0.0, takes, {}, 0
        monkeypatch.setattr(ttnn, "begin_trace_capture", self.begin)
        monkeypatch.setattr(ttnn, "end_trace_capture", self.end)
        monkeypatch.setattr(ttnn, "execute_trace", self.execute)
        monkeypatch.setattr(ttnn, "release_trace", self.release)
        monkeypatch.setattr(ttnn, "synchronize_device", lambda device: self.passes(self.END))

    def passes(self, seconds):
        self.now += seconds

    def clock(self):
        return self.now

    def begin(self, device, cq_id):
        self.capture = captured()
        self.graph, self.live = self.capture.__enter__(), self.live + 1
        return len(self.traces)

    def end(self, device, trace, cq_id):
        self.capture.__exit__(None, None, None)
        self.traces[trace] = list(self.graph.operations)

    def execute(self, device, trace, cq_id, blocking):
        assert not blocking
        self.passes(self.START + sum(self.takes(operation) for operation in self.traces[trace]))

    def release(self, device, trace):
        self.live -= 1


def test_each_is_timed_once_and_counted(subject, board, monkeypatch):
    """Beside its prediction, without what it takes to start a trace; in all what the graph of a chunk has."""
    on = machine(board.describe())
    card = Card(monkeypatch, lambda operation: 1.5 * cost(operation, on).seconds)
    timed = time_operations(subject.model, subject.observations[0], subject.noise(), on, clock=card.clock, repeats=4)
    assert card.live == 0
    assert [each.seconds for each in timed] == pytest.approx([1.5 * each.predicted for each in timed])
    assert [each.saves for each in timed] == sorted((each.saves for each in timed), reverse=True)
    monkeypatch.undo()
    stages = operations_by_stage(subject.model, board, cameras=2, tokens=23)
    once = [each for name in ("vision and language", "prefill") for each in stages[name].operations]
    steps = 4 * stages["denoising step"].operations
    assert sum(each.count * len(each.operations) for each in timed) == len(once) + len(steps)
    assert {distinct(each) for each in once + steps} == {distinct(part) for each in timed for part in each.operations}


def test_memory_is_as_before(subject, board, monkeypatch):
    on = machine(board.describe())
    subject.model.forget()
    before = board.describe()
    time_operations(
        subject.model,
        subject.observations[0],
        subject.noise(),
        on,
        clock=Card(monkeypatch, lambda operation: 1e-6).clock,
        repeats=2,
    )
    after = board.describe()
    for memory in ("dram_bytes_in_use", "l1_bytes_in_use_per_core"):
        assert after[memory] == before[memory]


@pytest.fixture
def on_a_card(subject, board, monkeypatch):
    """Returns what `check_operation_times` says of a card whose operations take what a function says."""

    def check(takes):
        card = Card(monkeypatch, takes)
        monkeypatch.setattr(subject.model.chips[0], "traces", Traces(board.device, 1 << 30))
        found = times.check_operation_times(subject, card.clock, repeats=2)
        monkeypatch.undo()
        return found

    return check


def test_a_slow_operation_is_named(subject, board, on_a_card, tmp_path):
    """The one with the most to save comes first; one that is slow and hardly counts comes later; the rest is fine."""
    on = machine(board.describe())
    slow = {"SDPA": 5.0, "Tilize": 3.0}
    found = on_a_card(lambda operation: slow.get(operation.name, 1.1) * cost(operation, on).seconds)
    warned = [line for line in subject.lines.all if line.kind == "slow"]
    assert {line.status for line in warned} == {"warn"}
    assert {line.what.split()[0] for line in warned} == set(slow)
    assert warned[0].what.startswith("SDPA ")
    assert "in prefill (SDPA" in warned[0].what
    assert not subject.lines.failed, "a slow one is as right as a fast one"
    rows = found["rows"]
    assert [row["saves_ms"] for row in rows] == sorted((row["saves_ms"] for row in rows), reverse=True)
    about = {"board": None, "checkpoint": {"type": "pi0", "architecture": "tiny", "fingerprint": "0"}, "options": {}}
    report = make_report(subject.lines, cards=[], about=about | {"operation_times": found})
    files = {file.name: file for file in write_report(report, tmp_path)}
    assert set(files) == {"verify.json", "verify.md", "calibration.json", "operation_times.png"}
    assert files["operation_times.png"].read_bytes()[:4] == b"\x89PNG"
    page = files["verify.md"].read_text()
    assert page.index(f"| {rows[0]['operation']} | ") < page.index(f"| {rows[1]['operation']} | ")
    assert "![measured against predicted](operation_times.png)" in page
    assert json.loads(files["calibration.json"].read_text()) == found["calibration"]


def test_a_card_with_other_constants_calibrates_the_model(subject, board, on_a_card):
    on = machine(board.describe())
    start = 2.5 * constants_of(on.chip)["start"]
    other = type(on)(with_constants(on.chip, {"start": start}), on.columns, on.rows, on.dram_banks)
    found = on_a_card(lambda operation: cost(operation, other).seconds)["calibration"]
    assert "start" in found["measured"]
    assert found["constants"]["start"] == pytest.approx(start, rel=0.02)
    assert found["median_error_after"] < 0.01 < found["median_error_before"]


def test_without_traces(subject):
    assert times.check_operation_times(subject) is None
    assert [line.status for line in subject.lines.all] == ["skip"]


class Chunks:
    """Take what a function of the time says, and tell a clock."""

    def __init__(self, takes):
        self.now, self.takes, self.asked = 100.0, takes, 0

    def ask(self):
        self.asked += 1
        self.now += self.takes(self.now - 100.0)

    def clock(self):
        return self.now


class TestSustained:
    @pytest.mark.parametrize(
        ("takes", "mhz", "drift", "in_cycles"),
        [
            (lambda t: 0.05, lambda t: 1000, 0.0, 0.0),
            (lambda t: 0.05 * (1 + 0.2 * t / 60), lambda t: 1000, 0.2, 0.2),
            (lambda t: 0.05 * (1 + 0.2 * t / 60), lambda t: 1000 / (1 + 0.2 * t / 60), 0.2, 0.0),
            (lambda t: 0.05, lambda t: None, 0.0, None),
        ],
        ids=["steady", "drift", "heat", "no clock"],
    )
    def test_drift(self, takes, mhz, drift, in_cycles):
        chunks = Chunks(takes)
        result = sustain(
            chunks.ask, seconds=60, clock=chunks.clock, mhz=lambda: (at := mhz(chunks.now - 100)) and round(at)
        )
        assert result.chunks == chunks.asked
        assert len(result.slices) == SLICES
        assert result.seconds == pytest.approx(60, abs=0.07)
        assert result.drift == pytest.approx(drift, abs=0.01)
        assert result.drift_in_cycles == (in_cycles if in_cycles is None else pytest.approx(in_cycles, abs=0.01))

    def test_rate(self):
        chunks = Chunks(lambda t: 0.05)
        result = sustain(chunks.ask, seconds=60, clock=chunks.clock, mhz=lambda: 1000)
        assert result.rate == pytest.approx(20, rel=0.01)

    def test_chunks_that_take_longer_than_a_slice(self):
        chunks = Chunks(lambda t: 7.0)
        result = sustain(chunks.ask, seconds=60, clock=chunks.clock, mhz=lambda: 1000)
        assert result.chunks == chunks.asked == 9
        assert len(result.slices) == 9

    @pytest.mark.parametrize(
        ("growth", "slowed", "kind"), [(0.0, 1.0, ""), (0.2, 1.0, "drift"), (0.2, 0.8, "low clock")]
    )
    def test_what_it_says(self, subject, monkeypatch, growth, slowed, kind):
        from lerobot_pi0_ttnn.cli.doctor.card import CLOCK_MHZ

        chunks = Chunks(lambda t: 0.05 * (1 + growth * t / 60))
        full = CLOCK_MHZ[subject.board.describe()["arch"]]
        cards = [type("Card", (), {"clock": str(round(slowed * full))})]
        monkeypatch.setattr(times, "read_cards", lambda sys: cards)
        monkeypatch.setattr(subject.policy, "predict_action_chunk", lambda batch, noise: chunks.ask())
        times.check_rate(subject, {}, 1, chunks.clock)
        (line,) = subject.lines.all
        assert (line.section, line.kind) == ("rate", kind)
        assert "chunks/s" in line.detail
