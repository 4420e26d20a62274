"""The processors made anew are LeRobot's own for pi0 and pi0.5, step by step, but for the tokenizer that the user may name."""

import logging

import pytest
import torch
from lerobot.policies.factory import make_pre_post_processors

from lerobot_pi0_ttnn.config_loading import CONFIGS
from lerobot_pi0_ttnn.demo.tokenizer import make_tokenizer
from tests.checkpoints import STATS, lerobots_processors
from tests.models import MODELS
from tests.oracle import make_lerobot_policy

QUANTILES = {
    feature: {**of, "q01": of["mean"] - 2 * of["std"], "q99": of["mean"] + 3 * of["std"]}
    for feature, of in STATS.items()
}


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return request.param


@pytest.fixture
def config(tmp_path, model):
    make_tokenizer(tmp_path / "tokenizer")
    features = make_lerobot_policy(model=MODELS[model]).config
    return CONFIGS[model](
        tokenizer_name=str(tmp_path / "tokenizer"),
        input_features=features.input_features,
        output_features=features.output_features,
    )


def raw(task, state=1.0):
    return {
        "observation.state": torch.as_tensor(state) * torch.ones(14),
        "observation.images.front": torch.rand(3, 8, 8),
        "task": task,
    }


AWKWARD = {
    "plain": raw("pick up the cube"),
    "underscores, line breaks, spaces": raw(" pick_up\nthe__cube \n"),
    "empty": raw(""),
    "letters of elsewhere": raw("ramasse le dé, été"),
    "longer than it may be": raw("a" * 300),
    "state out of the statistics": raw("go", torch.linspace(-50, 50, 14)),
    "state on the edges of bins": raw("go", torch.linspace(-1, 1, 14) + torch.linspace(0.5, 2, 14) * -2),
    "two rows": {
        "observation.state": torch.randn(2, 14, generator=torch.Generator().manual_seed(3)),
        "observation.images.front": torch.rand(2, 3, 8, 8),
        "task": ["one_thing", "another"],
    },
}


@pytest.mark.parametrize("relative", [False, True], ids=["absolute", "relative"])
def test_same_steps_as_lerobots(config, relative):
    config.use_relative_actions = relative
    want = lerobots_processors(config, QUANTILES, config.tokenizer_name)
    got = make_pre_post_processors(config, dataset_stats=QUANTILES)
    for ours, theirs in zip(got, want, strict=True):
        assert [type(s) for s in ours.steps] == [type(s) for s in theirs.steps]
        assert [s.get_config() for s in ours.steps] == [s.get_config() for s in theirs.steps]
    for name, batch in AWKWARD.items():
        ours, theirs = got[0](dict(batch)), want[0](dict(batch))
        assert ours.keys() == theirs.keys()
        assert ours["task"] == theirs["task"]
        for key, value in theirs.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(ours[key], value), (name, key)
        action = torch.randn(len(ours["observation.state"]), 7)
        assert torch.equal(got[1](action), want[1](action)), name


@pytest.mark.parametrize("mode", ["MEAN_STD", "QUANTILES", "MIN_MAX"])
def test_normalised_as_the_config_says(config, mode):
    """LeRobot's pi05_libero_finetuned, for one, is a pi0.5 of MEAN_STD."""
    from lerobot.configs import NormalizationMode

    config.normalization_mapping |= {"STATE": NormalizationMode(mode), "ACTION": NormalizationMode(mode)}
    stats = {feature: {**of, "min": of["q01"] - 1, "max": of["q99"] + 1} for feature, of in QUANTILES.items()}
    want = lerobots_processors(config, stats, config.tokenizer_name)
    got = make_pre_post_processors(config, dataset_stats=stats)
    batch = raw("go", torch.linspace(-1, 1, 14))
    ours, theirs = got[0](dict(batch)), want[0](dict(batch))
    assert torch.equal(ours["observation.state"], theirs["observation.state"])
    assert torch.equal(ours["observation.language.tokens"], theirs["observation.language.tokens"])
    assert torch.equal(got[1](torch.ones(1, 7)), want[1](torch.ones(1, 7)))


@pytest.mark.parametrize("model", ["pi0"], indirect=True)
def test_literals_of_pi0(config):
    pre, post = make_pre_post_processors(config, dataset_stats=STATS)
    batch = pre(raw("go"))
    tokens = batch["observation.language.tokens"][0].tolist()
    assert tokens[0] == 2
    assert tokens[3] == 108
    assert tokens[4:] == [0] * 44
    assert batch["observation.language.attention_mask"][0].tolist() == [True] * 4 + [False] * 44
    assert batch["observation.state"][0, 0] == pytest.approx((1 - -1) / 0.5)
    assert post(torch.ones(1, 7))[0, -1] == pytest.approx(1 * 3 + 2)


@pytest.mark.parametrize("model", ["pi05"], indirect=True)
def test_literals_of_pi05(config):
    """256 bins of [-1, 1]; what lies below is -1, what lies above 255; of the robot's 14 values, not of 32."""
    pre, post = make_pre_post_processors(config, dataset_stats=QUANTILES)
    q01, q99 = (QUANTILES["observation.state"][name] for name in ("q01", "q99"))
    at = torch.tensor([0, 1, 0.5, 0.25, -0.01, 1.5, 1 / 256 + 1e-4, 1 / 256 - 1e-4, 0, 0, 0, 0, 0, 1.0])
    batch = pre(raw(" pick_up\nit ", q01 + at * (q99 - q01)))
    assert batch["task"] == [
        "Task: pick up it, State: 0 255 128 64 -1 255 1 0 0 0 0 0 0 255;\nAction: ",
    ]
    tokens, mask = (batch[f"observation.language.{name}"][0] for name in ("tokens", "attention_mask"))
    length = 1 + len(batch["task"][0])
    assert (len(tokens), int(mask.sum()), tokens[0], tokens[length - 1 - len("Action: ")]) == (200, length, 2, 108)
    assert not tokens[length:].any()
    assert post(torch.ones(1, 7))[0, -1] == pytest.approx(2 + 3 * 3)


def test_without_statistics_there_is_a_warning(config, model, caplog):
    with caplog.at_level(logging.WARNING):
        make_pre_post_processors(config, dataset_stats={"action": QUANTILES["action"]})
    by = {"pi0": "mean and std", "pi05": "q01 and q99"}[model]
    assert f"observation.state: normalised by {by} in training" in caplog.text
    assert "dataset_stats" in caplog.text
