"""What never reaches the robot: NaN and infinity; and, if asked, actions beyond the data set's range."""

import pytest
import torch
from lerobot.configs import NormalizationMode
from lerobot.policies.factory import make_pre_post_processors
from safetensors.torch import load_file, save_file

from lerobot_pi0_ttnn import PI0TTNNPolicy, load_policy
from lerobot_pi0_ttnn.action_limits import check_finite
from lerobot_pi0_ttnn.recording import read_recording
from tests.checkpoints import edit_json, save_lerobot_checkpoint
from tests.models import MODELS
from tests.oracle import make_batch, make_lerobot_policy, make_noise

LOW, HIGH = torch.linspace(-2.5, 1.0, 7), torch.linspace(-1.5, 2.2, 7)


@pytest.fixture(params=["pi0, MEAN_STD", "pi0, MIN_MAX", "pi05, QUANTILES", "pi05, MEAN_STD"])
def checkpoint(request, tmp_path):
    """A range so narrow that most of what the tiny model says is beyond it."""
    model, _, mode = request.param.partition(", ")
    folder = save_lerobot_checkpoint(make_lerobot_policy(n_action_steps=5, model=MODELS[model]), tmp_path / "saved")
    edit_json(folder / "config.json", architecture="tiny", backend="torch")
    policy = load_policy(folder, warm_up=False)
    policy.config.normalization_mapping["ACTION"] = NormalizationMode(mode)
    policy.config.tokenizer_name = str(folder / "tokenizer")
    policy.config.save_pretrained(folder)
    action = {"mean": (LOW + HIGH) / 2, "std": 0.9 * (HIGH - LOW), "min": LOW, "max": HIGH}
    action |= {"q01": LOW + 0.1 * (HIGH - LOW), "q99": HIGH - 0.2 * (HIGH - LOW)}  # some of the data lies beyond
    state = {"mean": torch.zeros(14), "std": torch.ones(14), "q01": -2 * torch.ones(14), "q99": 2 * torch.ones(14)}
    stats = {"action": action, "observation.state": state}
    for pipeline in make_pre_post_processors(policy.config, dataset_stats=stats):
        pipeline.save_pretrained(folder)
    return folder


def in_the_robots_units(policy, folder, actions):
    overrides = {"device_processor": {"device": "cpu"}}
    _, postprocess = make_pre_post_processors(policy.config, folder, preprocessor_overrides=overrides)
    return postprocess(actions)


class TestClamping:
    def test_actions_stay_in_the_data_sets_range(self, checkpoint):
        free = load_policy(checkpoint)
        kept = load_policy(checkpoint, clamp_actions=True)
        batch, noise = make_batch(), make_noise()
        want = in_the_robots_units(free, checkpoint, free.predict_action_chunk(batch, noise=noise))
        got = in_the_robots_units(kept, checkpoint, kept.predict_action_chunk(batch, noise=noise))
        outside = (want < LOW) | (want > HIGH)
        assert 0.1 < outside.float().mean() < 0.99
        torch.testing.assert_close(got, want.clamp(LOW, HIGH), atol=2e-6, rtol=0)

    def test_nobody_asked(self, checkpoint):
        policy = load_policy(checkpoint)
        assert policy.config.clamp_actions is False

    def test_the_queue_and_the_recording_have_them_too(self, checkpoint, tmp_path):
        recording = tmp_path / "recording.jsonl"
        policy = load_policy(checkpoint, clamp_actions=True, recording_path=recording)
        action = policy.select_action(make_batch(), noise=make_noise())
        chunk = policy.predict_action_chunk(make_batch(), noise=make_noise())
        assert torch.equal(action, chunk[:, 0])
        assert torch.equal(read_recording(recording).chunks[0][2], chunk)

    def test_without_a_range_there_is_an_error_before_the_weights_are_read(self, tmp_path):
        folder = save_lerobot_checkpoint(make_lerobot_policy(), tmp_path / "pi0")
        edit_json(folder / "config.json", architecture="tiny", backend="torch")
        (folder / "model.safetensors").write_bytes(b"not weights")
        with pytest.raises(ValueError, match=r"has no min and max of the actions.*has mean, std.*dataset_stats"):
            PI0TTNNPolicy.from_pretrained(folder, clamp_actions=True)
        (folder / "policy_postprocessor.json").unlink()
        with pytest.raises(ValueError, match=r"policy_preprocessor\.json but no policy_postprocessor\.json"):
            PI0TTNNPolicy.from_pretrained(folder, clamp_actions=True)

    def test_a_range_of_another_robot(self, checkpoint):
        (file,) = checkpoint.glob("policy_postprocessor*.safetensors")
        stats = load_file(file)
        save_file(
            {name: value[:6] if name in ("action.min", "action.max") else value for name, value in stats.items()}, file
        )
        # What the normalisation takes is looked at first, for every policy.
        refused = r"to give 7 values, the statistics are of 6|for each of \(7,\) actions, got \(6,\) and \(6,\)"
        with pytest.raises(ValueError, match=refused):
            load_policy(checkpoint, clamp_actions=True)


class TestNotFinite:
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_one_value_is_enough(self, value):
        actions = torch.zeros(3, 50, 7)
        check_finite(actions)
        actions[1, 49, 6] = value
        with pytest.raises(FloatingPointError, match=r"row\(s\) \[1\].*hold the arm"):
            check_finite(actions)

    @pytest.fixture(params=[3, 20], ids=["used", "padding"])
    def broken(self, request, tmp_path):
        """A checkpoint whose last projection holds a NaN, of an action that the robot uses or that pi0 pads with."""
        folder = save_lerobot_checkpoint(make_lerobot_policy(), tmp_path / "pi0")
        edit_json(folder / "config.json", architecture="tiny", backend="torch")
        weights = load_file(folder / "model.safetensors")
        weights["model.action_out_proj.bias"][request.param] = float("nan")
        save_file(weights, folder / "model.safetensors")
        return folder

    def test_a_broken_model_does_not_load(self, broken):
        with pytest.raises(FloatingPointError, match="hold the arm"):
            PI0TTNNPolicy.from_pretrained(broken)

    @pytest.mark.parametrize("backend", ["torch", "ttnn"])
    def test_nothing_leaves_the_policy(self, broken, backend, board, tmp_path):
        recording = tmp_path / "recording.jsonl"
        policy = PI0TTNNPolicy.from_pretrained(
            broken,
            warm_up=False,
            backend=backend,
            board=board.name,
            cache_weights=False,
            num_inference_steps=1,
            recording_path=recording,
        )
        for predict in (policy.predict_action_chunk, policy.select_action):
            with pytest.raises(FloatingPointError, match="hold the arm"):
                predict(make_batch(batch=1))
        policy.close()
        assert len(policy._action_queue) == 0
        assert recording.read_text() == ""
