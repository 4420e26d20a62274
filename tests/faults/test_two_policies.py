"""Several policies in one process: each is right with its own weights, and closing one leaves the others alone."""

import gc
import threading

import pytest
import torch

pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

from lerobot_pi0_ttnn import PI0TTNNPolicy
from tests.oracle import make_batch, make_noise
from tests.quality import assert_quality


def predict(policy, seed=3):
    return policy.predict_action_chunk(make_batch(1), noise=make_noise(1, seed))


@pytest.fixture
def judges(load, other_checkpoint):
    """The torch backend's chunk of each checkpoint."""
    wanted = [predict(load()), predict(load(other_checkpoint))]
    assert (wanted[0] - wanted[1]).abs().mean() > 0.1
    return wanted


def test_two_checkpoints_on_one_board(load, board, other_checkpoint, judges):
    policies = [load(board=board.name), load(other_checkpoint, board=board.name)]
    assert policies[0].board is policies[1].board
    alone = [predict(policy) for policy in policies]
    for actions, wanted in zip(alone, judges, strict=True):
        assert_quality(actions, wanted, pcc=0.999, rel_rmse=0.05)
    for turn in (0, 1, 1, 0):
        assert torch.equal(predict(policies[turn]), alone[turn])
    policies[0].close()
    policies[0].close()
    assert torch.equal(predict(policies[1]), alone[1])
    with pytest.raises(RuntimeError, match="this policy is closed"):
        predict(policies[0])


def test_queues_do_not_mix(load, board, other_checkpoint):
    policies = [load(board=board.name), load(other_checkpoint, board=board.name)]
    batch, noise = make_batch(1), make_noise(1)
    chunks = [predict(policy) for policy in policies]
    for tick in range(5):
        for policy, chunk in zip(policies, chunks, strict=True):
            assert torch.equal(policy.select_action(batch, noise=noise), chunk[:, tick])
    policies[0].reset()
    assert [len(policy._action_queue) for policy in policies] == [0, 0]


def test_torch_beside_ttnn(load, board, judges):
    reference, policy = load(), load(board=board.name)
    assert_quality(predict(policy), judges[0], pcc=0.999, rel_rmse=0.05)
    policy.close()
    assert torch.equal(predict(reference), judges[0])


def test_another_board_is_refused(load, board):
    policy = load(board=board.name)
    expected = predict(policy)
    with pytest.raises(
        RuntimeError, match="'emulated:p150': this process has board 'emulated:n150' open, and can have one"
    ):
        load(board="emulated:p150")
    assert torch.equal(predict(policy), expected)


@pytest.fixture
def tidy_board(board):
    """The board, without what former tests have dropped and left to be freed at its next use."""
    gc.collect()
    with board.in_use("tidying up"):
        return board


def in_use(board):
    return board.describe()["dram_bytes_in_use"]


def test_a_closed_policy_leaves_its_memory_to_the_other(load, tidy_board, other_checkpoint):
    board = tidy_board
    keeper = load(board=board.name)
    expected, alone = predict(keeper), in_use(board)
    policy = load(other_checkpoint, board=board.name)
    predict(policy)
    assert in_use(board) >= alone + sum(policy.model.describe()["weight_bytes"].values())
    policy.close()
    assert in_use(board) == alone
    policy.close()
    assert policy.latency()["board"]["name"] == board.name
    assert torch.equal(predict(keeper), expected)


def test_a_dropped_policy_is_freed_where_the_board_is_used_next(load, tidy_board, checkpoint):
    """Not where garbage is collected: another thread may be in the middle of a call of ttnn."""
    board = tidy_board
    keeper = load(board=board.name)
    predict(keeper)
    alone = in_use(board)
    dropped = [PI0TTNNPolicy.from_pretrained(checkpoint, board=board.name, cache_weights=False)]
    predict(dropped[0])
    with_both = in_use(board)
    collector = threading.Thread(target=lambda: (dropped.clear(), gc.collect()))
    with board.in_use("something long"):
        collector.start()
        collector.join()
        assert in_use(board) == with_both > alone
    predict(keeper)
    assert in_use(board) == alone
    board.close()  # in place of the policy that is gone


def test_one_that_cannot_be_made_leaves_nothing(load, tidy_board, monkeypatch):
    board = tidy_board

    def fail(policy):
        raise OSError("no such thing")

    before, users = in_use(board), board._users
    with monkeypatch.context() as patch:
        patch.setattr(PI0TTNNPolicy, "init_rtc_processor", fail)
        with pytest.raises(OSError, match="no such thing"):
            load(board=board.name)
    assert (in_use(board), board._users) == (before, users)
