"""When traces are captured, replayed and given up. Board and traces are emulated; test_tt_trace.py has real ones."""

import logging

import pytest
import torch

ttnn = pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

from lerobot_pi0_ttnn.model_config import TINY  # noqa: E402
from lerobot_pi0_ttnn.tt.model import PI0ModelTTNN  # noqa: E402
from lerobot_pi0_ttnn.tt.movable import Movable  # noqa: E402
from lerobot_pi0_ttnn.tt.trace import CAPACITY, Traces  # noqa: E402
from lerobot_pi0_ttnn.tt.weights import on_host  # noqa: E402
from tests.oracle import make_batch, make_noise, model_inputs, state_dict  # noqa: E402


class Row(Movable):
    """Two inputs, on the host or on the board."""

    def __init__(self, *tensors):
        self._tensors = tensors

    def moved(self, move):
        return Row(*(move(tensor) for tensor in self._tensors))

    def specs(self):
        return tuple((tuple(tensor.shape), tensor.dtype, tensor.layout) for tensor in self._tensors)


def row(value, rows=32):
    first = torch.full((1, 1, rows, 32), float(value))
    return Row(on_host(first, ttnn.bfloat16), on_host(10 * first, ttnn.bfloat16))


class Queue:
    """What a board would do with traces: replaying one runs on its inputs what was captured, into the same output."""

    def __init__(self, monkeypatch):
        self.log, self.programs, self.capturing = [], {}, None
        for name in ("begin_trace_capture", "end_trace_capture", "execute_trace", "release_trace"):
            monkeypatch.setattr(ttnn, name, getattr(self, name))

    def begin_trace_capture(self, device, cq_id):
        self.capturing = len(self.log)
        self.log.append("begin")
        return self.capturing

    def end_trace_capture(self, device, trace, cq_id):
        assert self.capturing == trace
        self.capturing = None
        self.log.append("end")

    def execute_trace(self, device, trace, cq_id, blocking):
        assert self.capturing is None
        inputs, output = self.programs[trace]
        ttnn.add(*inputs, output_tensor=output)
        self.log.append("execute")

    def release_trace(self, device, trace):
        del self.programs[trace]
        self.log.append("release")

    def compute(self, inputs):
        """The sum; which a capture remembers."""
        self.log.append("compute")
        output = ttnn.add(*inputs.tensors())
        if self.capturing is not None:
            self.programs[self.capturing] = (inputs.tensors(), output)
        return output


@pytest.fixture
def queue(monkeypatch):
    return Queue(monkeypatch)


@pytest.fixture
def traces(board, queue):
    return Traces(board.device)


def result(traces, queue, value, key="model", rows=32):
    return ttnn.to_torch(traces.run(key, row(value, rows), queue.compute))[0, 0, 0, 0].item()


def test_first_one_by_one_then_captured_then_replayed(traces, queue):
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
    assert "begin" not in queue.log, "forgotten: it runs one by one again"


def test_without_room_ops_run_one_by_one(traces, queue, caplog, monkeypatch):
    result(traces, queue, 1)
    end = ttnn.end_trace_capture

    def no_room(*arguments, **options):
        end(*arguments, **options)
        raise RuntimeError("TT_FATAL: Creating trace buffers of size 2B, but only 1B is allocated for trace region.")

    monkeypatch.setattr(ttnn, "end_trace_capture", no_room)
    with caplog.at_level(logging.WARNING):
        assert [result(traces, queue, value) for value in (2, 3)] == [22, 33]
    assert caplog.text.count("ops run one by one") == 1
    assert queue.log.count("begin") == 1
    assert traces.captured == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("TT_FATAL: no legal program")])
def test_a_capture_ends_whatever_happens_inside(traces, queue, error):
    result(traces, queue, 1)

    def fail(inputs):
        raise error

    with pytest.raises(error if isinstance(error, type) else type(error)):
        traces.run("model", row(2), fail)
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

    def run(self, key, inputs, program):
        actions = program(inputs.on(self.device))
        self.output = actions if self.output is None else ttnn.multiply(actions, 1.0, output_tensor=self.output)
        return self.output


def test_rows_of_a_batch_are_read_in_turn_before_the_next_is_written(board, policy):
    inputs = model_inputs(policy, make_batch(batch=3, lengths=(10, 23, 5)))
    noise = make_noise(3)
    one_by_one, traced = (
        PI0ModelTTNN(TINY, state_dict(policy), board.device, traces=traces) for traces in (None, OnePlace(board.device))
    )
    want = one_by_one.sample_actions(**inputs, noise=noise, num_steps=1)
    assert torch.equal(traced.sample_actions(**inputs, noise=noise, num_steps=1), want)
    assert not torch.equal(want[0], want[1])
