"""Thousands of resets and actions in constant memory, on the host and on the board."""

import os
from pathlib import Path

import pytest

from tests.oracle import make_batch

PAGE = os.sysconf("SC_PAGE_SIZE")
ACTION_BYTES = 50 * 7 * 4


def resident() -> int:
    """Bytes of this process in memory that are its own, without mapped files."""
    _, total, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
    return (total - shared) * PAGE


@pytest.fixture
def batch():
    return make_batch(1, size=(32, 32), max_length=24)


def act(policy, batch, times):
    for _ in range(times):
        policy.select_action(batch)


def test_resets(load, batch):
    policy = load(n_action_steps=50)
    policy.select_action(batch)
    before = resident()
    for _ in range(1000):
        policy.reset()
        assert len(policy._action_queue) == 0
    assert resident() - before < 1 << 20
    act(policy, batch, 2)
    assert len(policy._action_queue) == 48


def test_ten_thousand_actions(load, batch):
    """200 chunks: whoever keeps a prefix's keys and values (2 MB each) or the images is seen."""
    policy = load(n_action_steps=50, num_inference_steps=2)
    act(policy, batch, 2000)
    before = resident()
    act(policy, batch, 10_000)
    assert resident() - before < 8 << 20


def test_thousands_of_actions_on_the_board(load, board, batch):
    policy = load(board=board.name, n_action_steps=50, num_inference_steps=1)
    act(policy, batch, 500)
    before, in_use = resident(), board.describe()["dram_bytes_in_use"]
    for _ in range(10):
        act(policy, batch, 250)
        assert board.describe()["dram_bytes_in_use"] == in_use
    assert resident() - before < 16 << 20
