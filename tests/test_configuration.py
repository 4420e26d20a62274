"""The config: what is accepted, what is refused with the valid choices, and what a checkpoint's config.json becomes."""

import copy
import dataclasses
import json
import logging
import re

import draccus
import pytest
from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature, PreTrainedConfig
from lerobot.policies.pi0.configuration_pi0 import PI0Config
from lerobot.policies.pi05.configuration_pi05 import PI05Config

from lerobot_pi0_ttnn import PI0TTNNConfig, PI05TTNNConfig
from lerobot_pi0_ttnn.checkpoint.files import CheckpointSource
from lerobot_pi0_ttnn.config_loading import adopt_checkpoint_config, load_config
from lerobot_pi0_ttnn.model.config import PI0_BASE, TINY
from tests.checkpoints import edit_json
from tests.models import MODELS
from tests.oracle import make_lerobot_policy

LEGACY_FIELDS = {
    "resize_imgs_with_padding": [224, 224],
    "adapt_to_pi_aloha": False,
    "proj_width": 1024,
    "use_cache": True,
}


def test_default_is_pi0_base_on_ttnn():
    config = PI0TTNNConfig()
    assert config.type == "pi0_ttnn"
    assert config.backend == "ttnn"
    assert config.model_config() == PI0_BASE


def test_sizes_follow_the_fields():
    config = PI0TTNNConfig(
        architecture="tiny", chunk_size=20, n_action_steps=10, num_inference_steps=5, max_state_dim=40
    )
    assert config.model_config() == dataclasses.replace(TINY, horizon=20, num_steps=5, state_dim=40)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"backend": "cuda"}, "backend: expected one of ttnn, torch, got 'cuda'"),
        ({"architecture": "pi05"}, "architecture: expected one of pi0, tiny"),
        ({"image_resolution": (224, 320)}, "image_resolution: expected a square"),
        ({"n_action_steps": 51}, "n_action_steps"),
        ({"trace_region_mb": 0}, "trace_region_mb: expected 1 to 4096, got 0"),
        ({"trace_region_mb": 1 << 20}, "trace_region_mb: expected 1 to 4096"),
        ({"operation_timeout_s": -1}, "operation_timeout_s: expected at least 0, got -1"),
        ({"throttle": 6}, "throttle: expected 0 to 5, got 6"),
    ],
)
def test_impossible_choices(fields, message):
    with pytest.raises(ValueError, match=message):
        PI0TTNNConfig(**fields)


@pytest.mark.parametrize(
    ("device", "board"), [("cuda", "auto"), ("ttnn", "auto"), ("ttnn:1", "1"), (None, "auto"), ("cpu", "auto")]
)
def test_batches_stay_on_the_cpu(device, board):
    config = PI0TTNNConfig(device=device)
    assert (config.device, config.board) == ("cpu", board)


@pytest.mark.parametrize(("device", "warned"), [("cuda", True), ("mps", True), ("cpu", False), ("tt:1", False)])
def test_a_device_that_is_not_used_is_named(caplog, device, warned):
    PI0TTNNConfig(device=device)
    assert (f"device={device} is not used" in caplog.text) is warned


def test_training_switches_are_switched_off_aloud(caplog):
    with caplog.at_level(logging.WARNING):
        config = PI0TTNNConfig(use_amp=True, compile_model=True)
    assert not config.use_amp
    assert not config.compile_model
    assert "use_amp has no effect" in caplog.text
    assert "compile_model has no effect" in caplog.text


def test_lerobot_is_not_asked_to_wrap_the_policy():
    """`make_policy` would hand a policy without modules to PEFT; the loader merges adapters itself."""
    assert not PI0TTNNConfig(use_peft=True).use_peft


def test_round_trip(tmp_path):
    config = PI0TTNNConfig(backend="torch", n_action_steps=7, dtype="bfloat16", recording_path=tmp_path / "r.jsonl")
    config.save_pretrained(tmp_path)
    assert PreTrainedConfig.from_pretrained(tmp_path) == config
    assert load_config(CheckpointSource(tmp_path)) == config


@pytest.fixture
def model():
    """Which one the folder is of, where a test does not say."""
    return "pi0"


@pytest.fixture
def pi0_folder(tmp_path, model):
    policy = make_lerobot_policy(n_action_steps=10, num_inference_steps=5, dtype="bfloat16", model=MODELS[model])
    policy.config.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("model", "theirs", "ours", "length"),
    [("pi0", PI0Config, PI0TTNNConfig, 48), ("pi05", PI05Config, PI05TTNNConfig, 200)],
)
def test_lerobots_config_becomes_ours(pi0_folder, theirs, ours, length, tmp_path):
    config = load_config(CheckpointSource(pi0_folder))
    original = PreTrainedConfig.from_pretrained(pi0_folder)
    assert (type(original), type(config)) == (theirs, ours)
    for field in dataclasses.fields(theirs):
        assert getattr(config, field.name) == getattr(original, field.name), field.name
    assert config.tokenizer_max_length == ours().tokenizer_max_length == length
    assert ours().normalization_mapping == theirs().normalization_mapping
    config.save_pretrained(tmp_path)
    assert PreTrainedConfig.from_pretrained(tmp_path) == config


def test_fields_of_other_releases_are_left_out_aloud(pi0_folder, caplog):
    edit_json(pi0_folder / "config.json", **LEGACY_FIELDS)
    with caplog.at_level(logging.WARNING):
        config = load_config(CheckpointSource(pi0_folder))
    assert config.n_action_steps == 10
    assert ", ".join(sorted(LEGACY_FIELDS)) in caplog.text


class TestFieldsOfOtherReleases:
    """In what this package reads, and in what LeRobot reads of a converted checkpoint or through `plugins.as_pi0`."""

    @pytest.fixture(params=["load_config", "LeRobot"])
    def read(self, request, pi0_folder):
        if request.param == "load_config":
            return lambda: load_config(CheckpointSource(pi0_folder))
        edit_json(pi0_folder / "config.json", type="pi0_ttnn")
        return lambda: PreTrainedConfig.from_pretrained(pi0_folder)

    def test_what_changes_nothing_is_left_out(self, read, pi0_folder, caplog):
        """LeRobot's main after 0.6.1, with real-time chunking as 0.6.1 has it."""
        rtc = {"enabled": True, "mode": "guided", "execution_horizon": 12}
        fields = {"rtc_training_max_delay": 0, "use_visual_memory": False, "memory_frames": 6, "memory_stride": 30}
        edit_json(pi0_folder / "config.json", rtc_config=rtc, **fields)
        config = read()
        assert (config.rtc_config.enabled, config.rtc_config.execution_horizon) == (True, 12)
        assert "left out: memory_frames, memory_stride, rtc_training_max_delay, use_visual_memory" in caplog.text
        of_rtc = {field.name for field in dataclasses.fields(config.rtc_config)}  # main's has it
        assert ("use_visual_memory, rtc_config.mode" in caplog.text) == ("mode" not in of_rtc)

    def test_what_is_called_otherwise_now(self, read, pi0_folder):
        path = pi0_folder / "config.json"
        fields = json.loads(path.read_text())
        del fields["num_inference_steps"]
        path.write_text(json.dumps(fields | {"num_steps": 4}))
        assert read().num_inference_steps == 4

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            (
                {"rtc_config": {"mode": "trained"}},
                "rtc_config.mode is 'trained': a prefix that the model was trained to continue",
            ),
            (
                {"rtc_config": {"prefix_len": 3}},
                "rtc_config.prefix_len (3) is a field of no LeRobot release that this package knows",
            ),
            ({"use_visual_memory": True}, "use_visual_memory is True: a model that sees earlier observations"),
            (
                {"adapt_to_pi_aloha": True},
                "adapt_to_pi_aloha is True: ALOHA's joints and grippers converted inside the policy",
            ),
            ({"use_delta_joint_actions_aloha": True}, "set use_relative_actions instead"),
            (
                {"resize_imgs_with_padding": [112, 112]},
                "resize_imgs_with_padding is [112, 112]: pictures of another size",
            ),
            (
                {"rtc_training_max_delay": 4},
                "rtc_training_max_delay is 4: a model trained to continue a prefix of the former chunk",
            ),
            (
                {"image_tower": "dino"},
                "image_tower ('dino') is a field of no LeRobot release that this package knows: use the",
            ),
        ],
        ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
    )
    def test_what_would_change_it_is_refused(self, read, pi0_folder, fields, message):
        edit_json(pi0_folder / "config.json", **fields)
        with pytest.raises(ValueError, match=re.escape(message)):
            read()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"type": "smolvla"}', "expected a policy of type pi0, pi0_ttnn, pi05, pi05_ttnn, got 'smolvla'"),
        ("{}", "got None"),
        ("[1]", "expected a JSON object, got list"),
        ("{", "not JSON"),
    ],
)
def test_other_configs(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_config(CheckpointSource(tmp_path))


def test_no_config(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        load_config(CheckpointSource(tmp_path))


def test_type_alone_takes_the_rest_from_the_checkpoint(pi0_folder):
    """`--policy.type=pi0_ttnn --policy.pretrained_path=...`: LeRobot fills in defaults and the environment's features."""

    @dataclasses.dataclass
    class Script:
        policy: PreTrainedConfig | None = None

    flags = ["--policy.type=pi0_ttnn", f"--policy.pretrained_path={pi0_folder}", "--policy.n_action_steps=50"]
    config = draccus.parse(Script, args=flags).policy
    config.input_features = {"observation.images.other": PolicyFeature(FeatureType.VISUAL, (3, 8, 8))}
    config.output_features = {"action": PolicyFeature(FeatureType.ACTION, (5,))}
    config.clamp_actions = True
    saved = json.loads((pi0_folder / "config.json").read_text())
    adopt_checkpoint_config(config, CheckpointSource(pi0_folder))
    assert config.n_action_steps == 50 != saved["n_action_steps"]  # the user's, though it is the default
    assert config.num_inference_steps == 5  # the checkpoint's
    assert list(config.input_features) == list(saved["input_features"])
    assert config.output_features["action"].shape == (5,)  # LeRobot's
    assert config.clamp_actions  # set since
    assert config.pretrained_path == pi0_folder
    assert config.normalization_mapping["STATE"] is NormalizationMode.MEAN_STD


def test_a_whole_config_is_left_alone(pi0_folder):
    loaded = load_config(CheckpointSource(pi0_folder))
    for config in (loaded, dataclasses.replace(loaded), copy.deepcopy(loaded)):
        config.num_inference_steps = PI0TTNNConfig.num_inference_steps
        adopt_checkpoint_config(config, CheckpointSource(pi0_folder))
        assert config.num_inference_steps == PI0TTNNConfig.num_inference_steps != 5
