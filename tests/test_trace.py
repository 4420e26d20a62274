"""When traces are captured, replayed and given up. Board and traces are emulated; test_tt_trace.py has real ones."""

from types import SimpleNamespace

import pytest
import torch

ttnn = pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

from lerobot_pi0_ttnn.device.executor import PI0ModelTTNN  # noqa: E402
from lerobot_pi0_ttnn.device.trace import CAPACITY, Traces  # noqa: E402
from lerobot_pi0_ttnn.model.config import TINY  # noqa: E402
from lerobot_pi0_ttnn.tt.movable import Movable  # noqa: E402
from lerobot_pi0_ttnn.tt.weights import on_host  # noqa: E402
from lerobot_pi0_ttnn.ttnn_api.hook import add_layer, remove_layer  # noqa: E402
from tests.oracle import make_batch, make_noise, model_inputs, state_dict  # noqa: E402


class Row(Movable):
    """Two inputs, on the host or on the board."""

    def __init__(self, *tensors):
        self._tensors = tensors

    def moved(self, move):
        return Row(*(move(tensor) for tensor in self._tensors))


def row(value, rows=32):
    first = torch.full((1, 1, rows, 32), float(value))
    return Row(on_host(first, ttnn.bfloat16), on_host(10 * first, ttnn.bfloat16))


class Queue:
    """What a board would do with traces: replaying one runs on its inputs what was captured, into the same output.

    It counts their bytes as ttnn 0.81.1 was seen to on the simulator: one that does not fit is counted for ever.
    """

    def __init__(self, monkeypatch, region):
        self.log, self.programs, self.capturing = [], {}, None
        self.region, self.counted, self.size, self.sizes = region, 0, 10, {}
        self.scattered = False
        for name in ("begin_trace_capture", "end_trace_capture", "execute_trace", "release_trace"):
            monkeypatch.setattr(ttnn, name, getattr(self, name))
        view = ttnn.get_memory_view
        monkeypatch.setattr(
            ttnn,
            "get_memory_view",
            lambda device, memory: self.view() if memory == ttnn.BufferType.TRACE else view(device, memory),
        )

    def view(self):
        return SimpleNamespace(num_banks=1, total_bytes_allocated_per_bank=sum(self.sizes.values()))

    def begin_trace_capture(self, device, cq_id):
        self.capturing = len(self.log)
        self.log.append("begin")
        return self.capturing

    def end_trace_capture(self, device, trace, cq_id):
        assert self.capturing == trace
        self.capturing = None
        self.counted += self.size
        place = "TT_FATAL @ /project/tt_metal/"
        if self.counted > self.region:
            self.log.append("no room")
            raise RuntimeError(
                f"{place}distributed/mesh_trace.cpp:82: size <= trace_region_size\ninfo:\nCreating trace buffers of size "
                f"{self.counted}B on MeshDevice 1, but only {self.region}B is allocated for trace region.\nbacktrace:"
            )
        if self.scattered and self.sizes:
            self.log.append("scattered")
            raise RuntimeError(
                f"{place}impl/allocator/bank_manager.cpp:514: false\ninfo:\nOut of Memory: Not enough space to allocate "
                f"{self.size} B TRACE buffer across 12 banks, where each bank needs to store 1 B"
            )
        self.sizes[trace] = self.size
        self.log.append("end")

    def execute_trace(self, device, trace, cq_id, blocking):
        assert self.capturing is None
        inputs, output = self.programs[trace]
        ttnn.add(*inputs, output_tensor=output)
        self.log.append("execute")

    def release_trace(self, device, trace):
        del self.programs[trace]
        self.counted -= self.sizes.pop(trace, 0)
        self.log.append("release")

    def compute(self, inputs):
        """The sum; which a capture remembers."""
        self.log.append("compute")
        output = ttnn.add(*inputs.tensors())
        if self.capturing is not None:
            self.programs[self.capturing] = (inputs.tensors(), output)
        return output


REGION = 1000


@pytest.fixture
def queue(monkeypatch):
    return Queue(monkeypatch, REGION)


@pytest.fixture
def traces(board, queue):
    return Traces(board.device, REGION)


def result(traces, queue, value, key="free", rows=32, owner="model"):
    return ttnn.to_torch(traces.run(owner, key, row(value, rows), queue.compute))[0, 0, 0, 0].item()


def use(traces, queue, *keys, size=None):
    """Uses the traces of these keys in turn, each value another."""
    for value, key in enumerate(keys):
        queue.size = size or queue.size
        assert result(traces, queue, value, key=key) == 11 * value


def test_first_eager_then_captured_then_replayed(traces, queue):
    assert [result(traces, queue, value) for value in (1, 2, 3, 4)] == [11, 22, 33, 44]
    assert queue.log == ["compute", "begin", "compute", "end", "execute", "execute", "execute"]


@pytest.mark.parametrize("other", [{"rows": 64}, {"key": "guided"}])
def test_another_shape_or_key_has_its_own_trace_and_gives_up_the_others(traces, queue, other):
    for value in (1, 2):
        result(traces, queue, value)
    queue.log.clear()
    assert result(traces, queue, 3, **other) == 33
    assert queue.log == ["release", "compute"]
    assert traces.captured == 0
    assert result(traces, queue, 4) == 44
    assert result(traces, queue, 5, **other) == 55
    assert result(traces, queue, 6) == 66
    assert traces.captured == 2


def test_released_traces_are_captured_anew(traces, queue):
    for value in (1, 2):
        result(traces, queue, value)
    traces.release()
    assert traces.captured == 0
    queue.log.clear()
    assert result(traces, queue, 3) == 33
    assert queue.log == ["begin", "compute", "end", "execute"]


def test_the_least_recently_used_gives_way(traces, queue):
    for key in range(CAPACITY):
        result(traces, queue, key, key=key)
    result(traces, queue, 1, key=0)
    result(traces, queue, 1, key="new")
    queue.log.clear()
    result(traces, queue, 1, key=0)
    assert queue.log[0] == "begin", "still known"
    queue.log.clear()
    result(traces, queue, 1, key=1)
    assert "begin" not in queue.log, "forgotten: it is eager again"


class TestRoom:
    """What does not fit is seen beforehand, since ttnn counts it for ever; the least recently used gives way."""

    @pytest.fixture
    def known(self, queue, board):
        """Traces of which three fit at a time, and four sets of shapes that have run once."""
        queue.region = 35
        traces = Traces(board.device, 35)
        use(traces, queue, *"abcd")
        return traces

    def test_the_least_recently_used_is_evicted(self, known, queue, caplog):
        use(known, queue, *"abcad")
        assert known.captured == 3
        assert "no room" not in queue.log
        queue.log.clear()
        use(known, queue, *"acd")
        assert queue.log == ["execute"] * 3, "b, which was not used for longest, gave way"
        use(known, queue, "b")
        assert queue.log[3:] == ["release", "begin", "compute", "end", "execute"]
        assert caplog.text.count("traces give way to one another") == 1
        assert "Set --policy.trace_region_mb higher" in caplog.text

    def test_after_one_that_did_not_fit_others_are_captured(self, known, queue):
        """It is larger than any before it, and so not seen beforehand: it is captured the second time, and so are others."""
        use(known, queue, *"ab")
        queue.size = 15
        queue.region = known._region = 34
        assert result(known, queue, 5, key="c") == 55
        assert queue.log.count("no room") == 1
        assert (known._lost, known.captured) == (15, 1)
        use(known, queue, "c")
        queue.log.clear()
        use(known, queue, *"aba", size=10)
        assert "no room" not in queue.log
        assert queue.log.count("begin") == 3, "one at a time is what there is room for"

    def test_what_never_fits_is_eager(self, queue, board, caplog):
        queue.region = 9
        traces = Traces(board.device, 9)
        use(traces, queue, *"aaaabbb")
        assert queue.log.count("begin") == 1
        assert traces.captured == 0
        assert caplog.text.count("these calls are eager, which is slower") == 1

    def test_room_in_no_one_piece(self, known, queue):
        use(known, queue, *"ab")
        queue.scattered = True
        assert result(known, queue, 3, key="c") == 33
        assert known.captured == 1, "the others made room"

    def test_a_trace_that_did_not_fit_is_released_all_the_same(self, queue, board):
        """ttnn takes it for a live one, and warns of every allocation."""
        queue.region = 9
        traces = Traces(board.device, 9)
        use(traces, queue, *"aa")
        assert queue.programs == {}


def test_an_owner_is_forgotten_with_its_inputs(traces, queue, board):
    before = board.describe()["dram_bytes_in_use"]
    for owner in ("kept", "gone"):
        for value in (1, 2):
            result(traces, queue, value, owner=owner)
    assert result(traces, queue, 2, owner="kept") == 22
    assert traces.captured == 2
    with_both = board.describe()["dram_bytes_in_use"]
    traces.forget("gone")
    assert traces.captured == 1
    assert before < board.describe()["dram_bytes_in_use"] < with_both
    assert result(traces, queue, 3, owner="kept") == 33
    traces.forget("kept")
    assert board.describe()["dram_bytes_in_use"] == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("TT_FATAL: no legal program")])
def test_a_capture_ends_whatever_happens_inside(traces, queue, error):
    result(traces, queue, 1)

    def fail(inputs):
        raise error

    with pytest.raises(error if isinstance(error, type) else type(error)):
        traces.run("model", "free", row(2), fail)
    assert queue.capturing is None
    assert traces.captured == 0
    assert result(traces, queue, 3) == 33


def test_an_emulated_board_has_none(board):
    if board.kind != "emulated":
        pytest.skip(f"{board.name} is not emulated")
    assert board.traces is None
    assert "emulated" in board.why_no_trace


def test_slow_dispatch_has_none(board, monkeypatch):
    monkeypatch.setattr(board, "kind", "simulator")
    monkeypatch.setenv("TT_METAL_SLOW_DISPATCH_MODE", "1")
    assert board.traces is None
    assert "fast dispatch" in board.why_no_trace
    monkeypatch.delenv("TT_METAL_SLOW_DISPATCH_MODE")
    assert board.traces is board.traces


class OnePlace:
    """As traces are to a model: every result is in the same place, that of the first."""

    def __init__(self, device):
        self.device, self.output = device, None

    def release(self):
        pass

    def run(self, owner, key, inputs, program, stage):
        actions = program(inputs.on(self.device))
        self.output = actions if self.output is None else ttnn.multiply(actions, 1.0, output_tensor=self.output)
        return self.output


def test_rows_of_a_batch_are_read_in_turn_before_the_next_is_written(board, policy):
    inputs = model_inputs(policy, make_batch(batch=3, lengths=(10, 23, 5)))
    noise = make_noise(3)
    eager, traced = (
        PI0ModelTTNN(TINY, state_dict(policy), board.device, traces=traces)
        for traces in (None, [OnePlace(board.device)])
    )
    want = eager.sample_actions(**inputs, noise=noise, num_steps=1)
    assert torch.equal(traced.sample_actions(**inputs, noise=noise, num_steps=1), want)
    assert not torch.equal(want[0], want[1])


class Watched:
    """As traces are to a model: what was asked of the board is noted where it is told to release them."""

    def __init__(self, calls):
        self.calls = calls

    def release(self):
        self.calls.append("release")

    def forget(self, owner):
        self.calls.append("forget")


def test_nothing_that_stays_is_allocated_beside_a_trace(board, policy):
    """A table of times for another number of steps, here; a new context is tests/parity/test_tt_context.py's."""
    calls = []
    model = PI0ModelTTNN(TINY, state_dict(policy), board.device, traces=[Watched(calls)])

    def watch(call, proceed):
        if call.name in ("ttnn.from_torch", "ttnn.to_device", "ttnn.empty", "ttnn.zeros"):
            calls.append("allocate")
        return proceed(*call.args, **call.kwargs)

    add_layer(watch)
    try:
        for times in ((1.0, 0.5), (1.0, 0.5), (1.0,)):
            calls.clear()
            model.chips[0].steps(times)
            assert calls[:2] == ["release", "allocate"] or not calls
        assert calls
    finally:
        remove_layer(watch)


def test_a_model_leaves_nothing_on_the_board(board, policy, queue):
    before = board.describe()["dram_bytes_in_use"]
    traces = Traces(board.device, REGION)
    models = [PI0ModelTTNN(TINY, state_dict(policy), board.device, traces=[traces]) for _ in range(2)]
    inputs, noise = model_inputs(policy, make_batch(batch=1)), make_noise(1)
    for model in models:
        model.sample_actions(**inputs, noise=noise, num_steps=1)
    with_two = board.describe()["dram_bytes_in_use"]
    models[0].release()
    assert before < board.describe()["dram_bytes_in_use"] < with_two
    models[1].sample_actions(**inputs, noise=noise, num_steps=2)
    models[1].release()
    assert board.describe()["dram_bytes_in_use"] == before
