"""The first part, layer and operation that is wrong, where a fault is injected into one."""

from contextlib import contextmanager

import pytest
import torch

ttnn = pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

from lerobot_pi0_ttnn import PI05TTNNConfig, PI05TTNNPolicy  # noqa: E402
from lerobot_pi0_ttnn.analysis.behaviour import make_cases  # noqa: E402
from lerobot_pi0_ttnn.analysis.operations import compare  # noqa: E402
from lerobot_pi0_ttnn.analysis.parts import layers  # noqa: E402
from lerobot_pi0_ttnn.cli.verify import checks  # noqa: E402
from lerobot_pi0_ttnn.cli.verify.findings import Lines  # noqa: E402
from lerobot_pi0_ttnn.model.config import TINY_PI05  # noqa: E402
from lerobot_pi0_ttnn.ttnn_api.hook import add_layer, remove_layer  # noqa: E402
from tests.oracle import CAMERAS, make_batch, make_lerobot_policy, state_dict  # noqa: E402
from tests.quality import assert_quality  # noqa: E402


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
        assert len(found) == 2 + 2 + 3
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
        want = ["expert, layer 0", "expert, layer 1"]
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
        assert len([line for line in subject.lines.all if line.what.startswith("expert")]) == 3

    def test_a_modulation_of_another_layer(self, subject):
        (step,) = subject.model.chips[0].steps([1.0])
        step.modulations.layers.insert(0, step.modulations.layers.pop())
        checks.check_parts(subject)
        layers = [line.what for line in subject.lines.failed if line.section == "layers"]
        assert layers == [f"expert, layer {layer}" for layer in range(3)]
