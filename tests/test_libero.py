"""LIBERO's observations, from LeRobot's own `LiberoEnv` through LeRobot's `rollout` into our policy and back as actions.

The judge is LeRobot's `PI0Policy`, given what the data sets have: pictures upright, position, axis times angle and fingers. It
gets none of that from LeRobot's processors, so that a mistake there is seen like one of ours.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from lerobot.envs.configs import LiberoEnv
from lerobot.utils.random_utils import set_seed
from torch import Tensor
from transformers import AutoTokenizer

from tests.fake_libero import PROMPTS, WAITED, OffScreenRenderEnv, Scene, install
from tests.libero import N_ACTION_STEPS, STATS, TOKENS, load_for, play, save_libero_checkpoint
from tests.quality import assert_quality

HEIGHT, WIDTH = 120, 160
SEEDS = (1000, 1001)
TICKS = N_ACTION_STEPS + 1
"""One more than the first chunk gives."""

Frame = dict[str, np.ndarray]
IMAGE, WRIST, STATE = "observation.images.image", "observation.images.image2", "observation.state"


def turned(*cameras: str, order: tuple[slice, ...]) -> Callable[[Frame], Frame]:
    return lambda truth: truth | {camera: truth[camera][order].copy() for camera in cameras}


BACK = slice(None, None, -1)
MISTAKES: dict[str, Callable[[Frame], Frame]] = {
    "cameras swapped": lambda truth: truth | {IMAGE: truth[WRIST], WRIST: truth[IMAGE]},
    "picture not turned": turned(IMAGE, order=(BACK, BACK)),
    "wrist's picture not turned": turned(WRIST, order=(BACK, BACK)),
    "pictures mirrored": turned(IMAGE, WRIST, order=(slice(None), BACK)),
    "blue first": turned(IMAGE, WRIST, order=(slice(None), slice(None), BACK)),
    "rotation before position": lambda truth: truth | {STATE: truth[STATE][[3, 4, 5, 0, 1, 2, 6, 7]]},
    "rotation about the opposite axis": lambda truth: truth | {STATE: truth[STATE] * [1, 1, 1, -1, -1, -1, 1, 1]},
    "fingers swapped": lambda truth: truth | {STATE: truth[STATE][[0, 1, 2, 3, 4, 5, 7, 6]]},
    "no state": lambda truth: truth | {STATE: truth[STATE] * 0},
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tmp_path_factory.mktemp("libero")


@pytest.fixture(scope="module")
def judged(checkpoint):
    """What LeRobot's policy gives for the same noise, from what is true or from a mistaken version of it: (2, TICKS, 7)."""
    policy = save_libero_checkpoint(checkpoint, kind="pi0_ttnn")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint / "tokenizer")

    def actions(task: int = 0, mistake: Callable[[Frame], Frame] = dict) -> Tensor:
        prompts = [f"{PROMPTS[task]}\n"] * len(SEEDS)
        language = tokenizer(prompts, padding="max_length", max_length=TOKENS, return_tensors="pt")
        set_seed(SEEDS[0])
        chunks = []
        for tick in range(0, TICKS, N_ACTION_STEPS):
            rows = [mistake(Scene(seed, WAITED + tick, HEIGHT, WIDTH).truth()) for seed in SEEDS]
            batch = {key: torch.from_numpy(np.stack([row[key] for row in rows])).float() for key in rows[0]}
            for camera in (IMAGE, WRIST):
                batch[camera] = batch[camera].permute(0, 3, 1, 2) / 255
            batch[STATE] = (batch[STATE] - STATS[STATE]["mean"]) / STATS[STATE]["std"]
            batch["observation.language.tokens"] = language.input_ids
            batch["observation.language.attention_mask"] = language.attention_mask.bool()
            with torch.inference_mode():
                chunks.append(policy.predict_action_chunk(batch)[:, :N_ACTION_STEPS])
        return torch.cat(chunks, dim=1)[:, :TICKS] * STATS["action"]["std"] + STATS["action"]["mean"]

    return actions


@pytest.fixture(scope="module")
def mistaken(judged):
    """What it gives for each mistake."""
    made = {name: judged(mistake=mistake) for name, mistake in MISTAKES.items()}
    return made | {"another task's prompt": judged(task=1)}


def leaning(got: Tensor, right: Tensor, wrong: Tensor) -> float:
    """How far the actions are on the way from the right ones, 0, to the wrong ones, 1. Rounding has no such direction."""
    way = wrong - right
    return (torch.sum((got - right) * way) / torch.sum(way**2)).item()


@pytest.fixture
def drive(checkpoint, monkeypatch):
    """Lets two environments run with these flags of the policy and fields of the environment; returns what they were given."""
    install(monkeypatch)

    def drive(*flags: str, task: int = 0, **fields) -> Tensor:
        size = {"observation_height": HEIGHT, "observation_width": WIDTH}
        # Initial states are files of hf-libero.
        env = LiberoEnv(task="libero_spatial", episode_length=TICKS, init_states=False, **size, **fields)
        policy = load_for(env, checkpoint, *flags)
        play(env, policy, checkpoint, SEEDS, task)
        policy.close()
        return torch.from_numpy(np.stack([env.actions[WAITED:] for env in OffScreenRenderEnv.opened]))

    return drive


@pytest.mark.parametrize(("task", "control_mode"), [(0, "relative"), (1, "absolute")])
def test_torch(judged, drive, task, control_mode):
    got, want = drive("--backend=torch", task=task, control_mode=control_mode), judged(task)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    for env in OffScreenRenderEnv.opened:
        assert env.robots[0].controller.use_delta is (control_mode == "relative")
        assert np.array_equal(env.actions[:WAITED], [[0, 0, 0, 0, 0, 0, -1]] * WAITED)


def test_mistakes_would_be_seen(judged, mistaken):
    """Of which each moves the actions a hundred times as far as `test_torch` allows."""
    right = judged()
    assert all((wrong - right).abs().max() > 1e-3 for wrong in mistaken.values())


def test_on_a_board(judged, mistaken, drive, board, tmp_path):
    got, want = drive(f"--board={board.name}", "--precision=accurate", f"--weight_cache_dir={tmp_path}"), judged()
    assert_quality(got, want, pcc=0.9999, rel_rmse=0.01)
    leanings = {name: leaning(got, want, wrong) for name, wrong in mistaken.items()}
    assert max(leanings.values()) < 0.5, leanings
