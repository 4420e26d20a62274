"""The learned checkpoint in a closed loop: the one judge of cameras, prompt, state, statistics, queue and units together."""

import itertools

import numpy as np
import pytest
import torch

from lerobot_pi0_ttnn.checkpoint.files import CheckpointSource
from lerobot_pi0_ttnn.config_loading import load_config, saved_type
from lerobot_pi0_ttnn.demo import LEARNED_CHECKPOINTS
from lerobot_pi0_ttnn.review import review
from tests.quality import assert_quality

from .learned import OTHER_PROMPT

SEEDS = (1000, 1003, 1004)
"""Of episodes that every policy solves in the table of docs/success.md."""


@pytest.fixture(scope="module")
def players(simulation, board):
    from training.closed_loop import Player

    players = {who: Player(who, board=board.name) for who in ("lerobot", "torch", "accurate", "balanced")}
    yield players
    for player in players.values():
        player.close()


@pytest.fixture(scope="module")
def episodes(players, simulation):
    """LeRobot's own policy's, by seed."""
    from training.closed_loop import play

    return {seed: play(players["lerobot"], simulation, seed) for seed in SEEDS}


@pytest.mark.parametrize("model", LEARNED_CHECKPOINTS)
def test_it_is_a_checkpoint_as_any_other(model):
    folder = LEARNED_CHECKPOINTS[model]
    source = CheckpointSource(folder)
    assert saved_type(source) == model
    assert review(load_config(source), source) == []
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 10e6
    assert (folder / "README.md").read_text().startswith("---\n")  # the Hub's model card


def test_lerobot_solves_it(episodes):
    assert all(episode.solved for episode in episodes.values())


def test_torch_does_what_lerobot_does(players, simulation, episodes):
    """Two chunks long to the last bits. Later, pixels at the edge of a shadow flip, and contacts enlarge the difference."""
    from training.closed_loop import play

    every = players["torch"].policy.config.n_action_steps
    for seed, want in episodes.items():
        got = play(players["torch"], simulation, seed)
        assert got.solved
        torch.testing.assert_close(got.actions[: 2 * every], want.actions[: 2 * every], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("who", "limit"), [("accurate", 0.02), ("balanced", 0.05)])
def test_on_a_board(players, simulation, episodes, who, limit):
    from training.closed_loop import play

    every = players[who].policy.config.n_action_steps
    for seed, want in episodes.items():
        got = play(players[who], simulation, seed)
        assert got.solved
        assert not torch.equal(got.actions[:every], want.actions[:every])
        # The second chunk is of slightly other observations.
        assert_quality(got.actions[: 2 * every], want.actions[: 2 * every], pcc=1 - limit**2, rel_rmse=limit)


def double(player, chunk):
    return player.postprocess(torch.from_numpy(player.postprocess(chunk).numpy())).numpy()


def image(change):
    return lambda batch: batch | {"observation.image": change(batch["observation.image"])}


def state(change):
    return lambda batch: batch | {"observation.state": change(batch["observation.state"])}


MUTATIONS = {
    "channels swapped": {"change": image(lambda x: x.flip(1))},
    "upside down": {"change": image(lambda x: x.flip(2))},
    "mirrored": {"change": image(lambda x: x.flip(3))},
    "the picture divided by 255 twice": {"change": image(lambda x: x / 255)},
    "another camera": {"change": image(lambda x: x[..., 100:300, 100:300])},
    "no picture": {"change": image(torch.zeros_like)},
    "state zeroed": {"change": state(torch.zeros_like)},
    "state not normalised": {"raw_state": True},
    "prompt ignored": {"prompt": OTHER_PROMPT},
    "actions not unnormalised": {"actions": lambda player, chunk: chunk.numpy()},
    "actions unnormalised twice": {"actions": double},
}


@pytest.mark.parametrize("mutation", MUTATIONS.values(), ids=MUTATIONS)
def test_a_mistake_shows(players, simulation, episodes, monkeypatch, mutation):
    """The tests above would see it: the task is not done, or the first eight actions are others."""
    from training.closed_loop import Player, play

    mutation, player = dict(mutation), players["torch"]
    if mutation.pop("raw_state", False):
        raw = state(lambda _: torch.from_numpy(simulation.observation[None, :4]).float())
        mutation["change"] = raw
    if "actions" in mutation:
        actions = mutation.pop("actions")
        monkeypatch.setattr(Player, "actions", lambda self, chunk: np.asarray(actions(self, chunk)))
    seed = SEEDS[0]
    played = play(player, simulation, seed, **mutation)
    got, want = (episode.actions[: player.policy.config.n_action_steps] for episode in (played, episodes[seed]))
    error = ((got - want).square().mean().sqrt() / want.std()).item()
    assert not played.solved or error > 0.1


def test_part_by_part(board, monkeypatch, capsys):
    """The benchmark of docs/success.md, on one observation: its rows are there, and as near as they say."""
    from benchmarks import learned_parity

    monkeypatch.setattr("sys.argv", ["x", "--board", board.name, "--observations", "1", "--precisions", "accurate"])
    learned_parity.main()
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][2:]
    assert [row[0].strip() for row in rows][-1] == "whole chunk"
    assert len(rows) == 2 + 2 * 3 + 3 + 1
    assert all(0 < float(cell.split()[0]) < 0.02 for _, *cells in rows for cell in cells)


PI05_SEED = 1000


@pytest.fixture(scope="module")
def pi05_players(simulation, board):
    from training.closed_loop import Player

    players = {
        who: Player(who, LEARNED_CHECKPOINTS["pi05"], board=board.name) for who in ("lerobot", "torch", "balanced")
    }
    yield players
    for player in players.values():
        player.close()


@pytest.fixture(scope="module")
def pi05_episode(pi05_players, simulation):
    from training.closed_loop import play

    return play(pi05_players["lerobot"], simulation, PI05_SEED)


@pytest.mark.parametrize(("who", "limit"), [("torch", 1e-4), ("balanced", 0.05)])
def test_pi05_solves_it(pi05_players, pi05_episode, simulation, who, limit):
    """As LeRobot's own `PI05Policy`; the state is in the prompt, by LeRobot's own step."""
    from training.closed_loop import play

    assert pi05_episode.solved
    got = play(pi05_players[who], simulation, PI05_SEED)
    assert got.solved
    every = pi05_players[who].policy.config.n_action_steps
    assert_quality(got.actions[:every], pi05_episode.actions[:every], pcc=1 - limit**2, rel_rmse=limit)


def off_by_one_bin(player):
    """Of the words of the prompt that are numbers."""
    (tokenizer,) = (step.input_tokenizer for step in player.preprocess.steps if hasattr(step, "input_tokenizer"))
    ids = tokenizer.convert_tokens_to_ids([str(number) for number in range(256)])
    following = dict(itertools.pairwise(ids))

    def change(batch):
        tokens = batch["observation.language.tokens"]
        return batch | {"observation.language.tokens": tokens.clone().apply_(lambda token: following.get(token, token))}

    return change


@pytest.mark.parametrize("mistake", ["bins off by one", "state fixed", "prompt of the opposite task"])
def test_a_mistake_with_pi05s_prompt_shows(pi05_players, pi05_episode, simulation, mistake):
    """The test above would see it in the first eight actions, or the task is not done."""
    from training.closed_loop import play

    player = pi05_players["torch"]
    options = {
        "bins off by one": {"change": off_by_one_bin(player)},
        "state fixed": {"state": player.mean_state},
        "prompt of the opposite task": {"prompt": OTHER_PROMPT},
    }[mistake]
    played = play(player, simulation, PI05_SEED, **options)
    got, want = (each.actions[: player.policy.config.n_action_steps] for each in (played, pi05_episode))
    error = ((got - want).square().mean().sqrt() / want.std()).item()
    assert not played.solved or error > 0.005, error
