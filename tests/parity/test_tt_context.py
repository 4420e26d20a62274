"""What stays on the board between calls follows the prompt and the cameras: as if there were nothing else on it.

Emulated boards have no traces, so theirs are emulated here: a replay computes on the same tensors what was captured. With
`--board auto` on real kernels in fast dispatch they are ttnn's own.
"""

import pytest
import torch

ttnn = pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

from lerobot_pi0_ttnn.analysis.graph import captured  # noqa: E402
from lerobot_pi0_ttnn.device.executor import PI0ModelTTNN  # noqa: E402
from lerobot_pi0_ttnn.device.trace import Traces  # noqa: E402
from lerobot_pi0_ttnn.model.config import TINY  # noqa: E402
from tests.oracle import CAMERAS, make_batch, make_noise, model_inputs, state_dict  # noqa: E402

from ..quality import assert_quality  # noqa: E402

NOISE = make_noise(1)


class EmulatedTraces(Traces):
    """Traces whose replay runs once more what was captured, on the inputs and constants of then, into the same output."""

    def __init__(self, device, monkeypatch):
        super().__init__(device, 1 << 30)
        self.replays = 0
        monkeypatch.setattr(ttnn, "execute_trace", self.execute)
        monkeypatch.setattr(ttnn, "release_trace", lambda device, trace: None)

    def _capture(self, entry, compute):
        entry.trace, entry.output = (lambda: compute(entry.inputs)), compute(entry.inputs)

    def execute(self, device, trace, cq_id, blocking):
        (output,) = (entry.output for entry in self._entries.values() if entry.trace is trace)
        ttnn.copy(trace(), output)
        self.replays += 1


@pytest.fixture(params=["eager", "traced"])
def traces(request, board, monkeypatch):
    if request.param == "eager":
        return None
    if board.kind == "emulated":
        return EmulatedTraces(board.device, monkeypatch)
    if board.traces is None:
        pytest.skip(f"{board.name}: {board.why_no_trace}")
    return board.traces[0]


@pytest.fixture
def make_model(board, policy, traces):
    return lambda: PI0ModelTTNN(
        TINY, state_dict(policy), board.device, precision="accurate", traces=traces and [traces]
    )


def observation(policy, seed, tokens, cameras=1):
    """One row; another seed is another prompt, other pixels and another state."""
    return model_inputs(policy, make_batch(batch=1, cameras=CAMERAS[:cameras], lengths=[tokens], seed=seed))


def actions(model, inputs):
    return model.sample_actions(**inputs, noise=NOISE, num_steps=1)


@pytest.fixture
def cases(policy):
    """Prompts of one tile: short, long, of the same length and other tokens. The last has another camera."""
    return [
        observation(policy, seed, tokens, cameras)
        for seed, tokens, cameras in ((1, 3, 1), (2, 31, 1), (3, 31, 1), (4, 31, 2))
    ]


def test_prompts_in_turn(make_model, twin, cases, board):
    """Each is answered as by a model that was asked nothing else, and nothing is compiled for the next prompt."""
    want = [actions(make_model(), case) for case in cases]
    for got, case in zip(want, cases, strict=True):
        exact = twin.sample_actions(**case, noise=NOISE, num_steps=1)
        assert_quality(got, exact, pcc=0.9999, rel_rmse=0.01)
    assert not torch.equal(want[1], want[2])
    model = make_model()
    for case in (cases[0], cases[3], cases[0], cases[3]):
        actions(model, case)
    programs = board.device.num_program_cache_entries()
    for turn in (1, 2, 0, 3, 1, 1, 2, 3, 0, 0):
        assert torch.equal(actions(model, cases[turn]), want[turn])
    assert board.device.num_program_cache_entries() == programs


def test_replays_happen(make_model, traces, cases):
    """So that the test above is about them."""
    if not isinstance(traces, EmulatedTraces):
        pytest.skip("only emulated traces count their replays")
    model = make_model()
    for turn in (0, 0, 1, 2, 0):
        actions(model, cases[turn])
    assert traces.captured == 1
    assert traces.replays == 4


def test_unlike_prompts_in_one_batch(make_model, policy):
    batch = model_inputs(policy, make_batch(batch=3, cameras=CAMERAS[:1], lengths=(3, 31)))
    rows = [
        {
            name: [x[row : row + 1] for x in value] if isinstance(value, list) else value[row : row + 1]
            for name, value in batch.items()
        }
        for row in range(3)
    ]
    want = torch.cat([actions(make_model(), row) for row in rows])
    model = make_model()
    answers = [model.sample_actions(**batch, noise=NOISE.expand(3, -1, -1), num_steps=1) for _ in range(3)]
    # Three rows are not few: other programs, other roundings.
    assert_quality(answers[0], want, pcc=0.99999, rel_rmse=0.004)
    assert all(torch.equal(answer, answers[0]) for answer in answers)


def test_another_prompt_allocates_nothing(make_model, cases, board):
    """What is allocated while a trace is captured may lie where the trace computes."""
    model = make_model()
    for _ in range(2):
        actions(model, cases[0])
    with board.record() as counts, captured() as graph:
        context = model.chips[0].contexts.load(1, [torch.arange(1, 32)])
    assert counts.uploads.count == 4
    assert [operation.name for operation in graph.operations] == ["Embeddings", *["BinaryNg"] * 3]
    written = [place for operation in graph.operations for place in operation.outputs]
    there = [context.language, context.language, *context.masks]
    assert written == [("DRAM", tensor.buffer_address()) for tensor in there]


def test_the_same_prompt_is_not_loaded_again(make_model, cases, board):
    model = make_model()
    actions(model, cases[0])
    actions(model, cases[3])
    with board.record() as counts:
        model.chips[0].contexts.load(1, [cases[0]["lang_tokens"][cases[0]["lang_masks"]]])
    assert counts.uploads.count == counts.operations.total() == 0


def test_an_interrupted_load_is_not_taken_for_a_whole_one(make_model, cases, monkeypatch):
    model = make_model()
    want = [actions(make_model(), case) for case in cases[:2]]
    actions(model, cases[0])
    copy, left = ttnn.copy_host_to_device_tensor, [1] * 2

    def interrupted(*arguments):
        left.pop()
        copy(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ttnn, "copy_host_to_device_tensor", interrupted)
        with pytest.raises(IndexError):
            actions(model, cases[1])
    for turn in (0, 1):
        assert torch.equal(actions(model, cases[turn]), want[turn])
