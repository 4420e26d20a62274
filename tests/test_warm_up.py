"""What `from_pretrained` does so that the first tick costs what every tick costs."""

import logging

import pytest
import torch

from lerobot_pi0_ttnn import PI0TTNNPolicy
from lerobot_pi0_ttnn.backend import warm_up
from lerobot_pi0_ttnn.reference import PI0ModelTorch
from lerobot_pi0_ttnn.ttnn_api.hook import add_layer, remove_layer
from lerobot_pi0_ttnn.ttnn_api.record import READBACKS, UPLOADS
from tests.checkpoints import edit_json, save_lerobot_checkpoint
from tests.oracle import CAMERAS, make_batch, make_lerobot_policy, make_noise

TILE = 32


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = save_lerobot_checkpoint(make_lerobot_policy(), tmp_path_factory.mktemp("pi0"))
    edit_json(folder / "config.json", architecture="tiny", backend="torch", num_inference_steps=2)
    return folder


class TestLoading:
    @pytest.fixture
    def calls(self, monkeypatch):
        calls = []
        original = PI0ModelTorch.sample_actions

        def counted(model, *args, **kwargs):
            calls.append(kwargs)
            return original(model, *args, **kwargs)

        monkeypatch.setattr(PI0ModelTorch, "sample_actions", counted)
        return calls

    def test_the_model_has_run_when_the_policy_is_there(self, checkpoint, calls):
        PI0TTNNPolicy.from_pretrained(checkpoint)
        assert len(calls) == 1

    def test_it_can_be_switched_off(self, checkpoint, calls):
        PI0TTNNPolicy.from_pretrained(checkpoint, warm_up=False)
        assert calls == []

    def test_it_leaves_no_trace(self, checkpoint):
        """Same seed, same noise, with and without: the random state, the queue and the recording are as they were."""
        torch.manual_seed(5)
        cold = PI0TTNNPolicy.from_pretrained(checkpoint, warm_up=False).select_action(make_batch())
        torch.manual_seed(5)
        policy = PI0TTNNPolicy.from_pretrained(checkpoint)
        assert not policy._action_queue
        assert torch.equal(policy.select_action(make_batch()), cold)

    def test_an_emulated_board_has_nothing_to_compile(self, checkpoint, board, caplog, monkeypatch):
        monkeypatch.setattr(PI0TTNNPolicy, "warm_up", lambda policy: pytest.fail("warmed up"))
        if board.kind != "emulated":
            pytest.skip(f"{board.name} is not emulated")
        with caplog.at_level(logging.INFO):
            policy = PI0TTNNPolicy.from_pretrained(checkpoint, backend="ttnn", board=board.name, cache_weights=False)
        policy.close()
        assert f"{board.name} has no kernels to compile" in caplog.text

    @pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
    def test_a_failure_gives_the_board_back(self, checkpoint, board, monkeypatch, error):
        def fail(policy):
            raise error

        users = board._users
        monkeypatch.setattr(PI0TTNNPolicy, "warm_up", fail)
        monkeypatch.setattr(board, "kind", "card")
        monkeypatch.setattr(type(board), "why_no_trace", "a test")
        with pytest.raises(error):
            PI0TTNNPolicy.from_pretrained(checkpoint, backend="ttnn", board=board.name, cache_weights=False)
        assert board._users == users


class Programs:
    """What ttnn compiles kernels for: the operation, and of each argument what a kernel may depend on. Transfers need none."""

    def __init__(self):
        self.seen = set()

    def __call__(self, call, proceed):
        if call.name in UPLOADS | READBACKS:
            return proceed(*call.args, **call.kwargs)
        arguments = [*enumerate(call.args), *call.kwargs.items()]
        self.seen.add((call.name, *((name, self.of(value)) for name, value in arguments)))
        return proceed(*call.args, **call.kwargs)

    def of(self, value):
        if hasattr(value, "buffer_address"):
            return (*value.shape, value.dtype.name, value.layout.name)
        if isinstance(value, torch.Tensor):
            return (*value.shape, str(value.dtype))
        if isinstance(value, list | tuple):
            return tuple(self.of(item) for item in value)
        if hasattr(value, "kernels"):
            # A program of our own: what is compiled and on which cores; addresses and offsets are runtime arguments.
            return tuple((k.kernel_source, tuple(k.compile_time_args), str(k.core_ranges)) for k in value.kernels)
        # The value of a number, or where in the cache a token goes, is an argument of a kernel, not part of it.
        if isinstance(value, float | int):
            return type(value).__name__
        fields = [name for name in dir(value) if not name.startswith("_")] if " at 0x" in str(value) else []
        return tuple((name, str(getattr(value, name))) for name in fields) or str(value)


class TestKernels:
    @pytest.fixture(scope="class")
    def policy(self, checkpoint, board):
        policy = PI0TTNNPolicy.from_pretrained(checkpoint, backend="ttnn", board=board.name, cache_weights=False)
        yield policy
        policy.close()

    def record(self, run):
        programs = Programs()
        add_layer(programs)
        try:
            run()
        finally:
            remove_layer(programs)
        return programs.seen

    @pytest.fixture(scope="class")
    def warm(self, policy):
        return self.record(policy.warm_up)

    @pytest.mark.parametrize("cameras", [1, 2, 3])
    @pytest.mark.parametrize("tokens", [1, 31, 32, 33, 48])
    def test_no_call_needs_another(self, policy, warm, cameras, tokens):
        batch = make_batch(batch=1, cameras=CAMERAS[-cameras:], lengths=[tokens])
        cold = self.record(lambda: policy.predict_action_chunk(batch, noise=make_noise(1)))
        assert len(cold) > 30
        assert cold <= warm

    def test_nor_does_real_time_chunking(self, policy, warm):
        from lerobot.policies.rtc.configuration_rtc import RTCConfig

        policy.config.rtc_config = RTCConfig(enabled=True)
        warm = warm | self.record(policy.init_rtc_processor)
        left_over = torch.zeros(30, 7)
        batch = make_batch(batch=1)
        cold = self.record(
            lambda: policy.predict_action_chunk(batch, prev_chunk_left_over=left_over, inference_delay=3)
        )
        policy.config.rtc_config = None
        assert cold <= warm

    def test_caches_and_time_biases_are_there(self, policy, warm, board):
        """A first call that allocates what stays is a first call that costs more."""
        before = board.describe()["dram_bytes_in_use"]
        for cameras in (1, 2, 3):
            policy.predict_action_chunk(make_batch(batch=1, cameras=CAMERAS[:cameras], lengths=[40]))
        assert board.describe()["dram_bytes_in_use"] == before


class TestPrograms:
    """On real kernels, where ttnn itself counts what it has compiled."""

    def test_the_first_tick_compiles_nothing(self, checkpoint, board):
        if board.kind == "emulated":
            pytest.skip(f"{board.name} has no kernels")
        policy = PI0TTNNPolicy.from_pretrained(checkpoint, backend="ttnn", cache_weights=False, warm_up=False)
        warm_up(policy.model, cameras=1, tokens=TILE, max_gain=None)
        warm = board.device.num_program_cache_entries()
        assert warm > 20
        policy.predict_action_chunk(make_batch(batch=1, cameras=CAMERAS[:1], lengths=[7], max_length=TILE))
        policy.close()
        assert board.device.num_program_cache_entries() == warm
