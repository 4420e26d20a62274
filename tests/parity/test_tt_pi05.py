"""pi0.5 in the TTNN twin: what it has of its own against the float32 twin, the whole against LeRobot's `PI05Policy`."""

from dataclasses import replace

import pytest
import torch

ttnn = pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

from lerobot_pi0_ttnn.analysis.graph import captured  # noqa: E402
from lerobot_pi0_ttnn.device.executor import PI0ModelTTNN  # noqa: E402
from lerobot_pi0_ttnn.device.uploads import uploads_per_pass  # noqa: E402
from lerobot_pi0_ttnn.model.config import TINY_PI05  # noqa: E402
from lerobot_pi0_ttnn.model.flow import schedule  # noqa: E402
from lerobot_pi0_ttnn.model.observation import Observation  # noqa: E402
from lerobot_pi0_ttnn.reference import PI0ModelTorch  # noqa: E402
from lerobot_pi0_ttnn.reference.layers import add_branch as twin_add_branch  # noqa: E402
from lerobot_pi0_ttnn.tt import suffix  # noqa: E402
from lerobot_pi0_ttnn.tt.layers import BranchLinear, Modulation, RMSNorm, add_branch  # noqa: E402
from lerobot_pi0_ttnn.tt.paligemma import Prefix  # noqa: E402

from ..oracle import (  # noqa: E402
    ACTION_DIM,
    CAMERAS,
    make_batch,
    make_lerobot_policy,
    make_noise,
    model_inputs,
    only_row,
    state_dict,
)
from ..quality import assert_quality, measurements  # noqa: E402
from .test_tt_context import EmulatedTraces  # noqa: E402
from .tt import down, random_inputs, store, up, up_to_expert, upload_row  # noqa: E402

WIDTH, HORIZON = TINY_PI05.expert.width, TINY_PI05.horizon
# Those of pi0's parts and of the whole of pi0.
LIMITS = {"accurate": {"pcc": 0.9999, "rel_rmse": 0.008}, "balanced": {"pcc": 0.9995, "rel_rmse": 0.03}}
BLOCK = {"accurate": {"pcc": 0.9999, "rel_rmse": 0.012}, "balanced": {"pcc": 0.9995, "rel_rmse": 0.025}}
NORM = {"pcc": 0.9999, "rel_rmse": 0.004}
TIMES = schedule(10)


@pytest.fixture(scope="module")
def policy():
    return make_lerobot_policy(model=TINY_PI05).requires_grad_(False)


@pytest.fixture(scope="module")
def twin(policy):
    return PI0ModelTorch(TINY_PI05, state_dict(policy))


@pytest.fixture(scope="module")
def inputs(policy):
    """Prompts of 10 and 23 of 48 tokens, the first camera in one row, the last in none."""
    masks = [[True, False], [True, True], [False, False]]
    return {**model_inputs(policy, make_batch(cameras=CAMERAS)), "img_masks": [torch.tensor(mask) for mask in masks]}


@pytest.fixture(scope="module", params=["accurate", "balanced"])
def precision(request):
    return request.param


@pytest.fixture(scope="module")
def tt(board, policy, precision):
    return PI0ModelTTNN(TINY_PI05, state_dict(policy), board.device, precision=precision)


@pytest.fixture(scope="module")
def exact(board, policy):
    return PI0ModelTTNN(TINY_PI05, state_dict(policy), board.device, precision="accurate")


def random(*shape, seed=5):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class TestParts:
    @pytest.mark.parametrize("scale", [1.0, 1e-3])
    def test_adaptive_norm(self, exact, twin, scale):
        x, conditions = random(50, WIDTH) * scale, random(3, WIDTH)
        ours, theirs = exact.backbone.expert_layers[1].input_layernorm, twin.backbone.expert_layers[1].input_layernorm
        stream = up_to_expert(exact, x)
        pairs = zip(ours.modulations(conditions), theirs.modulations(conditions), strict=True)
        for modulation, wanted in pairs:
            assert_quality(down(ours(stream, modulation), 50), theirs(x, wanted), **NORM)

    def test_gate(self, exact):
        x, branch, gate = random(50, WIDTH), random(50, WIDTH, seed=6), random(WIDTH, seed=7)
        ours = Modulation(scale=None, gate=up_row(exact, gate))
        got = down(add_branch(up_to_expert(exact, x), up_to_expert(exact, branch), ours), 50)
        want = twin_add_branch(x, branch, Modulation(scale=None, gate=gate))
        assert_quality(got, want, pcc=1 - 1e-9, rel_rmse=1e-5)

    def test_action_tokens(self, tt, twin):
        x_t = random(HORIZON, TINY_PI05.action_dim)
        got = down(tt.suffix_embedding.embed_actions(up(tt, x_t), None), HORIZON)
        assert_quality(got, twin.suffix_embedding.embed_actions(x_t[None], None)[0], pcc=0.9999, rel_rmse=0.004)

    def test_time_conditions(self, exact, twin):
        got, want = (model.suffix_embedding.time_conditions(TIMES) for model in (exact, twin))
        assert torch.equal(got, want)

    def test_expert_block_and_velocity(self, tt, twin, inputs, precision):
        """At the first, a middle and the last time, beside the float32 twin's own keys and values."""
        one, x_t = Observation(**only_row(inputs, 1)), random(1, HORIZON, TINY_PI05.action_dim)
        row = upload_row(tt, inputs, 1, make_noise())
        want, prefix = twin_prefix(twin, one)
        ours = Prefix(row.context.caches, row.context.blocks[-1])
        for cache, source in zip(ours.caches, want.caches, strict=True):
            store(cache, *(up(tt, x[0, 0, :prefix], ttnn.bfloat16) for x in (source.keys, source.values)), 0)
        stream = random(HORIZON, WIDTH)
        steps, tt_steps = twin.steps(TIMES), tt.chips[0].steps(TIMES)
        for number in (0, 4, 9):
            theirs = steps[number].modulations.layers[1]
            got = tt.backbone.expert_layers[1](
                up_to_expert(tt, stream),
                ours.suffix,
                ours.caches[1],
                tt_steps[number].modulations.layers[1],
            )
            block = twin.backbone.expert_layers[1](stream[None], want.suffix, want.caches[1], theirs)
            assert_quality(down(got, HORIZON), block[0], **BLOCK[precision])
            velocity = tt.chips[0].graph.velocity(up(tt, x_t[0]), tt_steps[number], ours)
            got = down(velocity, HORIZON)[:, : TINY_PI05.action_dim]
            assert_quality(got, twin.velocity(x_t, steps[number], want)[0], **BLOCK[precision])


def twin_prefix(twin, observation):
    from lerobot_pi0_ttnn.reference.paligemma import make_context

    context = make_context(observation, TINY_PI05)
    embeddings = twin.embed_prefix(observation, context)
    return twin.prefill(embeddings, observation, context), embeddings.shape[1]


def up_row(model, row):
    return ttnn.from_torch(row[None], dtype=ttnn.float32, layout=ttnn.TILE_LAYOUT, device=model.chips[0].device)


class TestWhole:
    @pytest.mark.parametrize("lengths", [(10, 23), (48, 1)])
    def test_lerobots_actions(self, tt, policy, precision, lengths):
        """Ten steps, from the batch that LeRobot's preprocessor hands over to its actions."""
        batch, noise = make_batch(lengths=lengths), make_noise()
        got = tt.sample_actions(**model_inputs(policy, batch), noise=noise)[:, :, :ACTION_DIM]
        assert_quality(got, policy.predict_action_chunk(batch, noise=noise), **LIMITS[precision])

    def test_fast(self, board, policy, twin, inputs):
        model = PI0ModelTTNN(TINY_PI05, state_dict(policy), board.device, precision="fast")
        got, want = (each.sample_actions(**inputs, noise=make_noise()) for each in (model, twin))
        assert_quality(got, want, **LIMITS["balanced"])

    def test_many_seeds(self, board, tt, twin, precision):
        """The worst of 32 observations is as near as the mean."""
        if board.kind != "emulated":
            pytest.skip("takes an hour on the simulator")
        for seed in range(32):
            noise = make_noise(1, seed=100 + seed)
            case = random_inputs(TINY_PI05, 1 + seed % 3, 5 + seed, seed=seed)
            got, want = (each.sample_actions(**case, noise=noise, num_steps=10) for each in (tt, twin))
            assert_quality(got, want, **LIMITS[precision])
        found = [each.pcc for each in measurements[-32:]]
        assert sum(found) / 32 - min(found) < 1e-4

    def test_operations_of_a_step(self, exact, inputs):
        """As many as pi0's in a layer, one fewer before: scale, shift and gate take none."""
        row = upload_row(exact, inputs, 1, make_noise())
        graph = exact.chips[0].graph
        prefix = graph.prefill(graph.embed_prefix(row.inputs, row.context), row.inputs, row.context)
        (step,) = exact.chips[0].steps([1.0])
        with captured() as operations:
            graph.velocity(row.inputs.noise, step, prefix)
        assert len(operations.operations) == 8 * TINY_PI05.expert.depth + 3

    def test_transfers(self, board, exact, inputs):
        """Pixels, noise, and of the prompt tokens, padding, and tables for the actions, whatever was said before."""
        one, noise = only_row(inputs, 1), make_noise(1)
        exact.sample_actions(**one, noise=noise, num_steps=2)
        with board.record() as counts:
            exact.sample_actions(**one, noise=noise, num_steps=2)
        assert uploads_per_pass(TINY_PI05) == counts.uploads.count == 6
        pixels = sum(int(mask[0]) for mask in one["img_masks"]) * 256 * 608 * 2
        assert counts.uploads.bytes - pixels < 210_000

    def test_tables_of_few_schedules_are_kept(self, board, exact, inputs):
        one, noise = only_row(inputs, 1), make_noise(1)
        want = exact.sample_actions(**one, noise=noise, num_steps=1)
        in_use = []
        for steps in (2, 3, 4, 3, 4):
            exact.sample_actions(**one, noise=noise, num_steps=steps)
            in_use.append(board.describe()["dram_bytes_in_use"])
        assert in_use[2] == in_use[3] == in_use[4]
        assert torch.equal(exact.sample_actions(**one, noise=noise, num_steps=1), want)


class TestPrompts:
    def test_each_tick_says_another_state(self, board, exact, policy, twin, monkeypatch):
        """Prompts of unlike lengths through one trace, each as the twin has it: lengths are inputs, not the trace's key."""
        traces = board.traces[0] if board.traces else None
        if traces is None and board.kind != "emulated":
            pytest.skip(f"{board.name}: {board.why_no_trace}")
        traces = traces or EmulatedTraces(board.device, monkeypatch)
        model = PI0ModelTTNN(TINY_PI05, state_dict(policy), board.device, precision="accurate", traces=[traces])
        noise = make_noise(1)
        lengths = (10, 31, 1, 32, 17, 31)
        for seed, tokens in enumerate(lengths):
            batch = make_batch(batch=1, cameras=CAMERAS[:1], lengths=[tokens], seed=seed)
            case = model_inputs(policy, batch)
            got = model.sample_actions(**case, noise=noise, num_steps=2)
            assert_quality(got, twin.sample_actions(**case, noise=noise, num_steps=2), **LIMITS["accurate"])
            assert torch.equal(exact.sample_actions(**case, noise=noise, num_steps=2), got)
        assert traces.captured == 1
        if isinstance(traces, EmulatedTraces):
            assert traces.replays == len(lengths) - 2 + 1

    def test_padding_moves_nothing(self, exact, policy):
        """A prompt is answered alike after a longer one of its size."""
        short, long = (model_inputs(policy, make_batch(batch=1, lengths=[tokens], seed=tokens)) for tokens in (3, 30))
        noise = make_noise(1)
        want = exact.sample_actions(**short, noise=noise, num_steps=2)
        exact.sample_actions(**long, noise=noise, num_steps=2)
        assert torch.equal(exact.sample_actions(**short, noise=noise, num_steps=2), want)


def without_gate(self, stream, x, modulation, into=None, right=BranchLinear.add_to):
    return right(self, stream, x, None, into)


def modulations_without(change):
    modulations = RMSNorm.modulations

    def changed(norm, conditions):
        return [change(norm, modulation) for modulation in modulations(norm, conditions)]

    return changed


def without_shift(norm, modulation):
    return replace(modulation, shift=ttnn.multiply(modulation.shift, 0.0))


def scale_without_one(norm, modulation):
    return replace(modulation, scale=ttnn.subtract(modulation.scale, 1.0))


def one_silu(self, times):
    (weight, bias), (weight_out, bias_out) = self.time_mlp
    hidden = torch.nn.functional.silu(torch.nn.functional.linear(self._time_embedding(times), weight, bias))
    return torch.nn.functional.linear(hidden, weight_out, bias_out)


def next_times(self, times, right=suffix.SuffixEmbeddingTTNN.time_conditions):
    return right(self, [*times[1:], 0.0])


MISTAKES = {
    "gate left out": (BranchLinear, "add_to", without_gate),
    "shift left out": (RMSNorm, "modulations", modulations_without(without_shift)),
    "scale without 1": (RMSNorm, "modulations", modulations_without(scale_without_one)),
    "one SiLU": (suffix.SuffixEmbeddingTTNN, "time_conditions", one_silu),
    "table of the next step": (suffix.SuffixEmbeddingTTNN, "time_conditions", next_times),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_would_be_seen(board, policy, inputs, monkeypatch, mistake):
    """Each moves the actions further than twice what is allowed of the default precision."""
    if board.kind != "emulated":
        pytest.skip("of the test, not of the board")
    monkeypatch.setattr(*MISTAKES[mistake])
    one, noise = only_row(inputs, 1), make_noise(1)
    model = PI0ModelTTNN(TINY_PI05, state_dict(policy), board.device, precision="accurate")
    got = model.sample_actions(**one, noise=noise)
    want = PI0ModelTorch(TINY_PI05, state_dict(policy)).sample_actions(**one, noise=noise)
    error = (got - want).square().mean().sqrt() / want.std()
    assert error > 2 * LIMITS["balanced"]["rel_rmse"], error
