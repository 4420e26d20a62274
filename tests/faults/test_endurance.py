"""Thousands of resets and actions in constant memory, on the host and on the board."""

import ctypes
import gc
import os
from pathlib import Path

import pytest
import torch

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


class _MallocInfo(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _names = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    _fields_ = [(name, ctypes.c_size_t) for name in _names]


def in_use() -> int:
    """Bytes that somebody has of `malloc` and did not free."""
    gc.collect()
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _MallocInfo
    info = mallinfo2()
    return int(info.uordblks + info.hblkhd)


def test_contexts_that_lie_elsewhere_every_time(board):
    """As after reloads: whatever is kept by address (the descriptors of our own programs) is kept for a few."""
    if board.kind != "emulated":
        pytest.skip(f"{board.name} is not emulated: its chunks take seconds")
    ttnn = pytest.importorskip("ttnn")
    from lerobot_pi0_ttnn.device.executor import PI0ModelTTNN
    from lerobot_pi0_ttnn.latency import untimed
    from lerobot_pi0_ttnn.model.config import TINY
    from lerobot_pi0_ttnn.model.observation import Observation
    from tests.parity.tt import random_inputs, random_weights

    model = PI0ModelTTNN(TINY, random_weights(TINY), board.device)
    observation = Observation(**random_inputs(TINY, 1, 10))
    noise = torch.zeros(1, TINY.horizon, TINY.action_dim)

    def chunks(sizes):
        for size in sizes:
            model.forget()
            beside = ttnn.empty((size, 32, 32), ttnn.float32, ttnn.TILE_LAYOUT, board.device, ttnn.DRAM_MEMORY_CONFIG)
            chip = model.chips[0]
            chip.upload(observation, noise, (1.0,), None, eager=True, stage=untimed).enqueue(untimed)
            ttnn.deallocate(beside)

    try:
        with board._emulator.shapes_only():
            chunks(range(100, 4000, 100))
            before = in_use()
            chunks(range(4000, 8000, 100))
            assert in_use() - before < 4 << 20
    finally:
        model.release()
