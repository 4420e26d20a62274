"""A card that fails while it is in use: the call to ttnn itself raises, as it does for a card that hangs or is gone.

The wordings are those of tt-metal's dispatch timeout (tenstorrent/tt-xla#5789) and of its driver's dead PCIe link
(tenstorrent/tt-umd#2991).
"""

import gc
import re
from contextlib import contextmanager, suppress

import pytest
import torch

pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

import ttnn

from lerobot_pi0_ttnn.device.failure import BoardError
from lerobot_pi0_ttnn.recording import read_recording
from lerobot_pi0_ttnn.ttnn_api.hook import add_layer, remove_layer
from tests.oracle import make_batch, make_noise

HANGS = (
    "TT_THROW @ /project/tt_metal/impl/dispatch/system_memory_manager.cpp:765: tt::exception\ninfo:\n"
    "TIMEOUT: device timeout, potential hang detected, the device is unrecoverable\nbacktrace:\n --- libtt_metal.so(+0x1)"
)
GONE = (
    "Read 0xffffffff over PCIe ID 0: the board should be reset.\nLocation: /umd/device/tt_device/tt_device.cpp:367\n"
    " 1. tt::umd::TTDevice::is_pcie_hung(unsigned int, tt::umd::TTDevice::HangAction)"
)


class Card:
    """A layer around ttnn: from the call number `last` on every one raises."""

    def __init__(self, last: int = -1, words: str = "") -> None:
        self.calls, self.last, self.words = [], last, words

    def __call__(self, call, proceed):
        self.calls.append(call.name)
        if 0 <= self.last < len(self.calls):
            raise RuntimeError(self.words)
        return proceed(*call.args, **call.kwargs)


@contextmanager
def behind(card):
    add_layer(card)
    try:
        yield card
    finally:
        remove_layer(card)


@pytest.fixture
def mended(board):
    """The tests' own board, which is in order again afterwards: no card has failed, only the layer around it."""
    yield board
    board.failure = None


@pytest.fixture
def policy(mended, load):
    policy = load(board=mended.name)
    predict(policy)  # what is made once is made
    return policy


def predict(policy):
    return policy.predict_action_chunk(make_batch(1), noise=make_noise(1))


def calls(policy, steps):
    """How often ttnn is called for a chunk, once what is made once is made."""
    for _ in range(2):
        with behind(Card()) as healthy:
            policy.predict_action_chunk(make_batch(1), noise=make_noise(1), num_steps=steps)
    return len(healthy.calls)


@pytest.mark.parametrize("words", [HANGS, GONE], ids=["hangs", "gone"])
@pytest.mark.parametrize(
    ("place", "moment"),
    [
        pytest.param(lambda calls, step: 0, "upload", id="first-call"),
        # Half a step before the end of the third of ten; what follows the last one is less than that.
        pytest.param(lambda calls, step: calls - 7 * step - step // 2, "step 3", id="in-the-loop"),
        pytest.param(lambda calls, step: calls - 1, "readback", id="last-call"),
    ],
)
def test_it_fails_once_and_is_not_asked_again(policy, words, place, moment):
    step = calls(policy, steps=4) - calls(policy, steps=3)
    last = place(calls(policy, steps=10), step)  # the last schedule that was asked for, whose tables are kept
    with behind(Card(last, words)) as card:
        with pytest.raises(BoardError) as error:
            predict(policy)
        made = len(card.calls)
        assert made == last + 1
        for _ in range(2):
            with pytest.raises(BoardError, match=r"failed while .* It is not used again\."):
                predict(policy)
        assert len(card.calls) == made
    said = {
        HANGS: "TIMEOUT: device timeout, potential hang detected, the device is unrecoverable",
        GONE: "Read 0xffffffff over PCIe ID 0: the board should be reset",
    }[words]
    beginning = (
        f"board 'emulated:n150' failed while predicting a chunk, {moment}: {said}. Nothing came of it: let the arm"
    )
    assert str(error.value).startswith(beginning)
    assert re.search(r"Close .* `lerobot-pi0-ttnn doctor` .*`tt-smi -r`.* load again", str(error.value))
    assert str(error.value.__cause__) == words


def test_what_was_predicted_before_is_good_and_nothing_else(mended, load, tmp_path):
    policy = load(board=mended.name, recording_path=tmp_path / "run.jsonl")
    batch, noise = make_batch(1), make_noise(1)
    done = [policy.select_action(batch, noise=noise) for _ in range(3)]
    chunk = predict(policy)
    with behind(Card(40, GONE)):
        with pytest.raises(BoardError):
            predict(policy)
        done += [policy.select_action(batch) for _ in range(2)]
        assert torch.equal(torch.stack(done, dim=1), chunk[:, :5])
        for _ in range(2):
            with pytest.raises(BoardError):
                policy.select_action(batch)
    policy.reset()
    with pytest.raises(BoardError):
        policy.select_action(batch)
    run = read_recording(tmp_path / "run.jsonl")
    assert (len(run.chunks), len(run.actions)) == (2, 5)


def test_all_policies_on_the_board_are_told(policy, load, mended):
    other = load(board=mended.name)
    with behind(Card(0, GONE)), pytest.raises(BoardError):
        predict(policy)
    with pytest.raises(BoardError, match="It is not used again"):
        predict(other)
    with pytest.raises(BoardError, match="It is not used again"):
        load(board=mended.name)
    assert predict(load()).isfinite().all()


def test_while_loading(mended, load, tmp_path):
    users = mended._users
    with behind(Card(30, HANGS)), pytest.raises(BoardError, match=r"failed while loading the weights: TIMEOUT"):
        load(board=mended.name, cache_weights=True, weight_cache_dir=tmp_path)
    assert not list(tmp_path.rglob("manifest.json"))
    assert mended._users == users


def test_a_call_that_ttnn_refuses_is_not_a_card_that_fails(policy, board):
    """Memory that does not suffice: ttnn's own allocator says so."""
    expected, hogs = predict(policy), []
    # Tensors in reference cycles of earlier tests would otherwise be freed meanwhile, and leave room.
    gc.collect()
    with board.shapes_only():
        for power in range(22, -1, -1):
            shape = [1, 1, 32, 32 << power]
            with suppress(RuntimeError):
                hogs += [ttnn.empty(shape, ttnn.bfloat16, ttnn.TILE_LAYOUT, board.device) for _ in range(2)]
    with pytest.raises(RuntimeError, match="Out of Memory") as error:
        predict(policy)
    assert type(error.value) is RuntimeError
    hogs.clear()
    assert torch.equal(predict(policy), expected)


CLOSES_AND_COMPLAINS = """
import sys, torch
from pathlib import Path
from lerobot_pi0_ttnn import PI0TTNNPolicy
from lerobot_pi0_ttnn.device.cards import CardLock
from tests.faults.test_vanishing_card import GONE, BoardError, Card, behind, predict, ttnn

def load():
    return PI0TTNNPolicy.from_pretrained(sys.argv[1], board="emulated:n150", cache_weights=False)

policy = load()
policy.board._cards = CardLock([Path(sys.argv[2])])  # an emulated board locks no card
expected = predict(policy)
with behind(Card(100, GONE)):
    try:
        predict(policy)
    except BoardError:
        print("failed")
close_device = ttnn.close_device

def close_but_complain(device):
    close_device(device)
    raise RuntimeError(GONE)

ttnn.close_device = close_but_complain
policy.close()
policy.close()
ttnn.close_device = close_device
CardLock([Path(sys.argv[2])]).release()
print("free")
again = load()
assert again.board is not policy.board
assert torch.equal(predict(again), expected)
print("again")
"""


def test_given_back_and_opened_again(forker, checkpoint, tmp_path):
    """Closing the dead card raises, its lock is free all the same, and a new policy runs."""
    (tmp_path / "0").touch()
    child = forker.run(CLOSES_AND_COMPLAINS, checkpoint, tmp_path / "0")
    assert child.end() == 0, child.errors.read_text()
    assert child.output.read_text().split() == ["failed", "free", "again"]
    complaint = "given back, but did not close cleanly: Read 0xffffffff over PCIe ID 0: the board should be reset"
    assert complaint in child.errors.read_text()
