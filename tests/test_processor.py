"""The processors made anew are LeRobot's own for pi0, step by step, but for the tokenizer that the user may name."""

import logging

import pytest
import torch
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.pi0 import processor_pi0

from lerobot_pi0_ttnn import PI0TTNNConfig
from lerobot_pi0_ttnn.demo.tokenizer import make_tokenizer
from tests.checkpoints import STATS
from tests.oracle import make_lerobot_policy


@pytest.fixture
def config(tmp_path):
    make_tokenizer(tmp_path / "tokenizer")
    features = make_lerobot_policy().config
    return PI0TTNNConfig(
        tokenizer_name=str(tmp_path / "tokenizer"),
        input_features=features.input_features,
        output_features=features.output_features,
    )


def raw(task):
    return {"observation.state": torch.ones(14), "observation.images.front": torch.rand(3, 8, 8), "task": task}


def test_same_steps_as_lerobots(config, monkeypatch):
    """LeRobot's factory with its tokenizer's name replaced, for that one is gated."""
    step = processor_pi0.TokenizerProcessorStep

    def local_tokenizer(tokenizer_name, **settings):
        assert tokenizer_name == PI0TTNNConfig.tokenizer_name
        return step(tokenizer_name=config.tokenizer_name, **settings)

    monkeypatch.setattr(processor_pi0, "TokenizerProcessorStep", local_tokenizer)
    want = processor_pi0.make_pi0_pre_post_processors(config, STATS)
    got = make_pre_post_processors(config, dataset_stats=STATS)
    for ours, theirs in zip(got, want, strict=True):
        assert [type(s) for s in ours.steps] == [type(s) for s in theirs.steps]
        assert [s.get_config() for s in ours.steps] == [s.get_config() for s in theirs.steps]
    batch = raw("pick up the cube")
    for key, value in want[0](batch).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(got[0](batch)[key], value), key
    action = torch.randn(1, 7)
    assert torch.equal(got[1](action), want[1](action))


def test_literals(config):
    pre, post = make_pre_post_processors(config, dataset_stats=STATS)
    batch = pre(raw("go"))
    tokens = batch["observation.language.tokens"][0].tolist()
    assert tokens[0] == 2
    assert tokens[3] == 108
    assert tokens[4:] == [0] * 44
    assert batch["observation.language.attention_mask"][0].tolist() == [True] * 4 + [False] * 44
    assert batch["observation.state"][0, 0] == pytest.approx((1 - -1) / 0.5)
    assert post(torch.ones(1, 7))[0, -1] == pytest.approx(1 * 3 + 2)


def test_without_statistics_there_is_a_warning(config, caplog):
    with caplog.at_level(logging.WARNING):
        make_pre_post_processors(config, dataset_stats={"action": STATS["action"]})
    assert "observation.state: normalised by mean and std" in caplog.text
    assert "dataset_stats" in caplog.text
