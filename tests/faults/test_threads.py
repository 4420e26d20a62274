"""Threads that use one policy at once, as LeRobot's rollouts, its policy server and its parallel evaluation do."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tests.oracle import make_batch, make_noise


def batches(count):
    return [(make_batch(1, seed=seed, lengths=(5 + 4 * seed,)), make_noise(1, seed)) for seed in range(count)]


@pytest.fixture(params=["torch", "ttnn"])
def policy(request, load):
    if request.param == "torch":
        return load()
    return load(board=request.getfixturevalue("board").name)


def test_chunks_are_as_if_computed_alone(policy):
    work = batches(4) * 2
    alone = [policy.predict_action_chunk(batch, noise=noise) for batch, noise in work]
    assert not torch.equal(alone[0], alone[1])
    with ThreadPoolExecutor(4) as threads:
        together = threads.map(lambda item: policy.predict_action_chunk(item[0], noise=item[1]), work)
        for got, wanted in zip(together, alone, strict=True):
            assert torch.allclose(got, wanted, atol=1e-5)


def test_each_action_goes_to_one_thread(load):
    """Eight threads, forty chunks of five: none twice, none lost, and no chunk predicted that nobody asked for."""
    policy, chunks = load(), []

    def sample_actions(*_, **__):
        chunks.append(torch.arange(50.0).repeat(32, 1).T[None] + 50 * len(chunks))
        time.sleep(0.002)
        return chunks[-1]

    policy.model.sample_actions = sample_actions
    batch, barrier = make_batch(1), threading.Barrier(8)

    def take(_):
        barrier.wait()
        return [policy.select_action(batch)[0, 0].item() for _ in range(25)]

    with ThreadPoolExecutor(8) as threads:
        taken = sorted(number for numbers in threads.map(take, range(8)) for number in numbers)
    assert len(chunks) == 40
    assert taken == [50.0 * chunk + tick for chunk in range(40) for tick in range(5)]


def test_reset_leaves_nothing_of_a_chunk_that_was_under_way(load):
    policy = load(n_action_steps=50)
    entered, sample_actions = threading.Event(), policy.model.sample_actions

    def slowly(*args, **kwargs):
        entered.set()
        time.sleep(0.2)
        return sample_actions(*args, **kwargs)

    policy.model.sample_actions = slowly
    thread = threading.Thread(target=policy.select_action, args=(make_batch(1),))
    thread.start()
    entered.wait()
    policy.reset()
    thread.join()
    assert len(policy._action_queue) == 0


def test_loaded_used_and_closed_by_three_threads(load, board):
    """Who closes waits for the chunk under way; who comes later is told."""
    with ThreadPoolExecutor(3) as threads:
        policy = threads.submit(load, board=board.name).result()
        batch, noise = make_batch(1), make_noise(1)
        expected, users = policy.predict_action_chunk(batch, noise=noise), board._users
        entered, sample_actions = threading.Event(), policy.model.sample_actions

        def announced(*args, **kwargs):
            entered.set()
            return sample_actions(*args, **kwargs)

        policy.model.sample_actions = announced
        first = threads.submit(policy.predict_action_chunk, batch, noise=noise)
        entered.wait()
        later = threads.submit(policy.predict_action_chunk, batch, noise=noise)
        closing = [threads.submit(policy.close), threads.submit(policy.close)]
        assert torch.equal(first.result(), expected)
        for call in closing:
            call.result()
        if error := later.exception():  # whether it or the closing comes first is chance
            assert "this policy is closed" in str(error)
    assert board._users == users - 1
    with pytest.raises(RuntimeError, match="this policy is closed"):
        policy.predict_action_chunk(batch, noise=noise)
