"""The recipe of the learned checkpoint, at a thousandth of its length."""

import gc

import numpy as np
import pytest
import torch

from lerobot_pi0_ttnn import PI0TTNNPolicy
from lerobot_pi0_ttnn.checkpoint.loader import PI0WeightLoader
from tests.quality import assert_quality

pytest.importorskip("metaworld")

from training import data
from training.collect import collect
from training.model import ACTION_DIM, CHUNK, IMAGE_SIZE, make_policy
from training.simulation import OBJECT
from training.tokenizer import make_word_tokenizer
from training.train import train
from training.vision import pretrain, shift

from .learned import TASK


@pytest.fixture(scope="module")
def frames(simulation, tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames")
    collect(TASK, folder / f"{TASK}.npz", episodes=2, seed=5)
    return data.load(folder, [TASK])


def test_branching_leaves_no_trace(simulation):
    simulation.reset(3)
    for _ in range(10):
        simulation.step(simulation.expert_action())
    before, picture = simulation.observation.copy(), simulation.look()["pixels"]
    with simulation.branch():
        for _ in range(30):
            simulation.step(simulation.expert_action())
        assert np.abs(simulation.observation[:3] - before[:3]).max() > 0.02
    assert np.array_equal(simulation.observation, before)
    # MuJoCo's step leaves what is drawn a millisecond behind the state; to undo is to bring it up.
    assert np.abs(simulation.look()["pixels"].astype(int) - picture).mean() < 0.5
    action = simulation.expert_action()
    simulation.step(action)
    after = simulation.observation.copy()
    simulation.reset(3)
    for _ in range(10):
        simulation.step(simulation.expert_action())
    simulation.step(action)
    np.testing.assert_allclose(simulation.observation, after, rtol=0, atol=1e-9)


def test_two_scenes_draw_their_own(simulation):
    """And one goes on drawing when the other is gone."""
    from training.simulation import Simulation

    simulation.reset(3)
    first = simulation.look()["pixels"]
    other = Simulation("window-open-v3")
    other.reset(3)
    window = other.look()["pixels"]
    assert np.abs(window.astype(int) - first).mean() > 2
    assert np.array_equal(simulation.look()["pixels"], first)
    assert np.array_equal(other.look()["pixels"], window)
    other.close()
    del other
    gc.collect()
    assert np.array_equal(simulation.look()["pixels"], first)


def test_places_are_where_they_are_drawn(simulation):
    """The faucet's handle is red, on a table that is not; the arm is red, too, but stands on the left."""
    simulation.reset(3)
    x, y = (simulation.project(simulation.observation[OBJECT]) * 480).astype(int)
    near = simulation.look()["pixels"][y - 12 : y + 12, x - 12 : x + 12].astype(int)
    reddish = (near[..., 0] > 90) & (near[..., 1] < 60) & (near[..., 2] < 60)
    assert reddish.any()


def test_frames(frames):
    assert frames.image.shape[1:] == (3, IMAGE_SIZE, IMAGE_SIZE)
    assert frames.action.shape[1:] == (CHUNK, ACTION_DIM)
    assert frames.action.abs().max() <= 1
    assert len(frames.rows(held_out=True)) + len(frames.rows(held_out=False)) == len(frames.task) > 8
    assert not frames.held_out[0]
    assert frames.held_out[-1]


def test_a_shift_says_how_far():
    images = torch.zeros(8, 3, IMAGE_SIZE, IMAGE_SIZE)
    images[:, :, 50, 60] = 1.0
    moved_images, moved = shift(images, torch.Generator().manual_seed(0))
    for image, by in zip(moved_images, moved * IMAGE_SIZE, strict=True):
        y, x = (image[0] == 1).nonzero()[0].tolist()
        assert [x - 60, y - 50] == by.round().int().tolist()
    assert moved.unique().numel() > 8


def test_a_checkpoint_comes_out(frames, tmp_path, caplog):
    """LeRobot's own loss falls on the few frames; what is saved loads strictly, and its actions are the trained policy's."""
    policy = make_policy(0)
    pretrain(policy, frames, steps=3, seed=0)
    train(policy, frames, tmp_path, steps=4, seed=0, vocabulary=frames.prompts)
    ours = PI0TTNNPolicy.from_pretrained(tmp_path, backend="torch")
    assert len(PI0WeightLoader(tmp_path)) > 100
    batch = {
        "observation.image": torch.rand(1, 3, 480, 480),
        "observation.state": torch.randn(1, 4),
        "observation.language.tokens": torch.tensor([[2, 5, 6, 108] + [0] * 12]),
        "observation.language.attention_mask": torch.arange(16)[None] < 4,
    }
    noise = torch.randn(1, CHUNK, 32)
    with torch.no_grad():
        want = policy.predict_action_chunk(batch, noise=noise)[..., :ACTION_DIM]
    assert_quality(ours.predict_action_chunk(batch, noise=noise), want, pcc=0.9999999, rel_rmse=1e-5)


def test_words(tmp_path):
    from transformers import AutoTokenizer

    make_word_tokenizer(["Rotate the faucet counter-clockwise", "Push a button"], tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer("Push the Zebra, a faucet\n").input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["<bos>", "push", "the", "<unk>", "<unk>", "a", "faucet", "\n"]
    assert tokenizer("\n").input_ids == [2, 108]  # PaliGemma's
    assert sorted(tokenizer.get_vocab().values()) == list(range(109))
