"""What ttnn allocates while a trace is live: what the capture of another one computes on the way, its result, and nothing else.

ttnn warns of the first such allocation of a process and of no other. Its graph capture sees each, those inside an operation
included. Board and traces are emulated.
"""

from dataclasses import replace

import pytest
import torch

ttnn = pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

from lerobot_pi0_ttnn.device import trace as trace_module  # noqa: E402
from lerobot_pi0_ttnn.device.executor import PI0ModelTTNN  # noqa: E402
from lerobot_pi0_ttnn.device.trace import Traces  # noqa: E402
from lerobot_pi0_ttnn.device.uploads import Contexts  # noqa: E402
from lerobot_pi0_ttnn.model.observation import Observation  # noqa: E402
from lerobot_pi0_ttnn.model.rtc import Guidance  # noqa: E402
from lerobot_pi0_ttnn.tt.weights import on_host  # noqa: E402
from lerobot_pi0_ttnn.ttnn_api.hook import add_layer, remove_layer  # noqa: E402
from tests.models import MODELS  # noqa: E402
from tests.parity.tt import random_inputs, random_weights  # noqa: E402
from tests.test_trace import Row  # noqa: E402


class Ledger:
    """What a board with traces would do, and each buffer that ttnn allocates meanwhile, by what is live."""

    def __init__(self, device, monkeypatch):
        self.device, self.live, self.capturing, self.unread = device, {}, None, None
        self.replays = self.most = 0
        self.beside, self.left, self.overwritten, self.compiled = [], [], [], []
        for name in ("begin_trace_capture", "end_trace_capture", "execute_trace", "release_trace"):
            monkeypatch.setattr(ttnn, name, getattr(self, name))
        self._programs = 0

    def __enter__(self):
        add_layer(self.reads)
        self._start()
        return self

    def __exit__(self, *_):
        self.settle()
        ttnn._ttnn.graph.end_graph_capture()
        remove_layer(self.reads)

    def _start(self):
        self._programs = self.device.num_program_cache_entries()
        ttnn._ttnn.graph.begin_graph_capture(ttnn.graph.RunMode.NORMAL)

    def settle(self):
        """Notes what was allocated since the last event; its own graph capture goes on."""
        allocated = _allocated(ttnn._ttnn.graph.end_graph_capture())
        if self.live and self.capturing is None:
            self.beside += allocated
        if self.live or self.capturing is not None:
            self.compiled += [self.device.num_program_cache_entries() - self._programs]
        self._start()

    def buffers(self):
        return {(each.buffer_type, each.address) for each in ttnn._ttnn.reports.get_buffers([self.device])}

    def begin_trace_capture(self, device, cq_id):
        self.settle()
        self.capturing, self.before = object(), self.buffers()
        return self.capturing

    def end_trace_capture(self, device, trace, cq_id):
        self.settle()
        self.capturing = None
        inputs, compute, output = self.computed
        result = (output.memory_config().buffer_type, output.buffer_address())
        self.left += self.buffers() - self.before - {result}
        self.live[trace] = (inputs, compute, output)
        self.most = max(self.most, len(self.live))

    def execute_trace(self, device, trace, cq_id, blocking):
        self.settle()
        if self.unread is not None:
            self.overwritten.append(self.unread)
        inputs, compute, output = self.live[trace]
        ttnn.copy(compute(inputs), output)
        self.unread = output.buffer_address()
        self.replays += 1
        # What a replay computes on the way has been allocated for it since its capture.
        ttnn._ttnn.graph.end_graph_capture()
        self._start()

    def release_trace(self, device, trace):
        self.settle()
        del self.live[trace]

    def reads(self, call, proceed):
        if call.name == "ttnn.to_torch" and call.args[0].buffer_address() == self.unread:
            self.unread = None
        return proceed(*call.args, **call.kwargs)


def _allocated(nodes):
    """Returns the function of ttnn's that each buffer was allocated in."""
    inside, found = [], []
    for node in nodes:
        if node["node_type"] == "function_start":
            inside.append(node["params"]["name"])
        elif node["node_type"] == "function_end":
            inside.pop()
        elif node["node_type"] == "buffer_allocate":
            found.append(" in ".join(reversed(inside)) or "no function")
    return found


class LedgerTraces(Traces):
    """Traces that tell the ledger what is captured."""

    def __init__(self, device, ledger):
        super().__init__(device, 1 << 30)
        self._ledger = ledger

    def _capture(self, entry, compute):
        def noted(inputs):
            output = compute(inputs)
            self._ledger.computed = (inputs, compute, output)
            return output

        super()._capture(entry, noted)


CONFIGS = {name: replace(config, num_steps=1) for name, config in MODELS.items()}
WEIGHTS = {name: random_weights(config) for name, config in CONFIGS.items()}


@pytest.fixture
def ledger(board, monkeypatch):
    if board.kind != "emulated":
        pytest.skip(f"{board.name} is not emulated: TT_METAL_TRACE_ALLOC_TRACKING=1 looks for the same there")
    with Ledger(board.device, monkeypatch) as ledger:
        yield ledger


@pytest.fixture(params=CONFIGS)
def make_model(request, board, ledger):
    """Models of one kind that share traces."""
    traces = LedgerTraces(board.device, ledger)
    models = []

    def make():
        config = CONFIGS[request.param]
        models.append(PI0ModelTTNN(config, WEIGHTS[request.param], board.device, traces=[traces]))
        return models[-1]

    yield make
    for model in models:
        model.release()


def ask(model, times=1, *, count=1, cameras=2, tokens=10, guidance=None, num_steps=None):
    """Asks for so many chunks of `count` rows; the first of its shapes is eager, the second captured."""
    observation = Observation(**random_inputs(model.config, cameras, tokens, batch=count))
    noise = torch.zeros(count, model.config.horizon, model.config.action_dim)
    for _ in range(times):
        model.sample_actions(observation, noise=noise, num_steps=num_steps, guidance=guidance)


def guided(model):
    chunk = (1, model.config.horizon, model.config.action_dim)
    return Guidance(torch.zeros(chunk), torch.zeros(1, model.config.horizon, 1), 10.0)


def test_nothing_is_allocated_beside_a_live_trace(make_model, ledger):
    """Whatever is asked: prompts, cameras, guidance, batches, other numbers of steps, eager, of two models."""
    model = make_model()
    ask(model, 3)
    ask(model, tokens=20)
    ask(model, 2, cameras=1)
    ask(model, 2, guidance=guided(model))
    ask(model, 2, count=2)
    for tokens, cameras, count in ((10, 2, 1), (20, 2, 1), (10, 1, 1), (10, 2, 2), (10, 2, 1)):
        ask(model, tokens=tokens, cameras=cameras, count=count)
    assert ledger.most > 2, "several traces are live at a time"
    ask(model, 2, num_steps=2)
    ask(model)
    other = make_model()
    ask(other, 2)
    ask(model)
    other.forget()
    ask(model, tokens=20)
    model.eager = True
    ask(model)
    model.eager = False
    ask(model)
    ledger.settle()
    assert ledger.replays > 12
    assert ledger.beside == []
    assert ledger.left == []
    assert ledger.overwritten == []
    assert not any(ledger.compiled), "the kernels of a new program are allocated, too"


@pytest.mark.parametrize("make_model", ["pi0"], indirect=True)
class TestItIsSeen:
    """Each of these rules, broken."""

    def test_a_context_without_a_release(self, make_model, ledger, monkeypatch):
        model = make_model()
        ask(model, 2)
        monkeypatch.setattr(Contexts, "_release_traces", lambda contexts: None)
        ask(model, tokens=40)
        assert any("to_device" in each for each in ledger.beside)

    def test_steps_without_a_release(self, make_model, ledger):
        model = make_model()
        ask(model, 2)
        model.chips[0].graph.steps((1.0, 0.5))
        ledger.settle()
        assert ledger.beside

    def test_a_tensor_that_a_capture_leaves(self, make_model, ledger, monkeypatch):
        model, kept = make_model(), []
        velocity = type(model.chips[0].graph).velocity

        def keeping(*arguments):
            kept.append(velocity(*arguments))
            return kept[-1]

        monkeypatch.setattr(type(model.chips[0].graph), "velocity", keeping)
        ask(model, 2)
        assert len(ledger.left) == 1

    def test_a_result_that_is_read_too_late(self, make_model, ledger):
        model = make_model()
        ask(model, 2)
        (entry,) = model.chips[0].traces._entries.values()
        for _ in range(2):
            ttnn.execute_trace(model.chips[0].device, entry.trace, cq_id=0, blocking=False)
        assert len(ledger.overwritten) == 1


class TestTtnnsWarning:
    """It comes once in a process: a capture does not use it up."""

    @pytest.fixture
    def log(self, ledger, monkeypatch):
        def noting(name, function):
            def note(*arguments, **options):
                noted.append(name)
                return function(*arguments, **options)

            return note

        noted = []
        monkeypatch.setattr(trace_module, "push_allocation_context", noted.append)
        monkeypatch.setattr(trace_module, "pop_allocation_context", lambda: noted.append("pop"))
        monkeypatch.setattr(ttnn, "end_trace_capture", noting("end", ttnn.end_trace_capture))
        monkeypatch.setattr(ttnn, "add", noting("add", ttnn.add))
        return noted

    def capture(self, board, ledger, compute):
        traces = LedgerTraces(board.device, ledger)
        for _ in range(2):
            traces.run("model", "key", Row(on_host(torch.ones(1, 1, 32, 32), ttnn.bfloat16)), compute)
        traces.forget("model")

    def test_what_a_capture_allocates_is_the_traces_own(self, board, ledger, log):
        self.capture(board, ledger, lambda row: ttnn.add(*row.tensors(), 1.0))
        assert log[:5] == ["add", "trace_storage", "add", "end", "pop"], "ttnn allocates the trace itself at its end"

    def test_also_of_one_that_fails(self, board, ledger, log):
        def compute(row):
            if ledger.capturing is not None:
                ledger.computed = (row, compute, *row.tensors())
                raise KeyboardInterrupt
            return ttnn.add(*row.tensors(), 1.0)

        with pytest.raises(KeyboardInterrupt):
            self.capture(board, ledger, compute)
        assert log == ["add", "trace_storage", "end", "pop"]

    def test_the_tracker_sees_all(self, board, ledger, log, monkeypatch):
        monkeypatch.setattr(trace_module, "trace_allocation_tracking_enabled", lambda: True)
        self.capture(board, ledger, lambda row: ttnn.add(*row.tensors(), 1.0))
        assert log[:3] == ["add", "add", "end"]
        assert "trace_storage" not in log
