"""An error that someone holds keeps nothing on the board: it may be dropped in any thread, beside one that computes."""

import pytest

pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

import ttnn

from lerobot_pi0_ttnn.ttnn_api.hook import add_layer, remove_layer
from tests.oracle import make_batch, make_noise

CALLS = 12


class CallError(Exception):
    pass


class FailsAt:
    """Counts ttnn's calls, and fails at one of them."""

    def __init__(self, number=None):
        self.number, self.calls = number, 0

    def __call__(self, call, proceed):
        self.calls += 1
        if self.calls == self.number:
            raise CallError(call.name)
        return proceed(*call.args, **call.kwargs)


@pytest.fixture(scope="module")
def predict(checkpoint, board):
    """Predicts a chunk that is guided, with a layer around ttnn's calls."""
    from lerobot.configs.types import RTCAttentionSchedule
    from lerobot.policies.rtc.configuration_rtc import RTCConfig

    from lerobot_pi0_ttnn import PI0TTNNPolicy

    policy = PI0TTNNPolicy.from_pretrained(checkpoint, board=board.name, cache_weights=False, warm_up=False)
    policy.config.rtc_config = RTCConfig(enabled=True, prefix_attention_schedule=RTCAttentionSchedule.EXP)
    policy.init_rtc_processor()

    def predict(layer):
        left_over = make_noise(1)[:, :25, : policy.config.output_features["action"].shape[0]]
        add_layer(layer)
        try:
            return policy.predict_action_chunk(
                make_batch(1), num_steps=2, prev_chunk_left_over=left_over, inference_delay=2
            )
        finally:
            remove_layer(layer)

    predict(FailsAt())  # what is kept for a prompt is there
    yield predict
    policy.close()


def in_use(board):
    views = [ttnn.get_memory_view(board.device, memory) for memory in (ttnn.BufferType.DRAM, ttnn.BufferType.L1)]
    return [view.total_bytes_allocated_per_bank for view in views]


def test_an_error_keeps_no_tensor(predict, board):
    counter, before = FailsAt(), in_use(board)
    predict(counter)
    assert counter.calls > 2 * CALLS
    for number in range(1, counter.calls + 1, counter.calls // CALLS):
        with pytest.raises(CallError) as held:
            predict(FailsAt(number))
        assert in_use(board) == before, f"held: the error of call {number} of {counter.calls}, {held.value}"
