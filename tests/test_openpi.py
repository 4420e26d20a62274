"""openpi's converted folders: `convert` makes policies of them that normalise as openpi does, or says what is missing."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot.policies.factory import make_pre_post_processors
from safetensors.torch import load_file

from lerobot_pi0_ttnn import PI0TTNNPolicy, load_policy
from lerobot_pi0_ttnn.checkpoint.files import CheckpointSource
from lerobot_pi0_ttnn.cli import main
from lerobot_pi0_ttnn.config_loading import load_config
from lerobot_pi0_ttnn.demo.tokenizer import make_tokenizer
from tests.checkpoints import edit_json, hub_cache, openpi_names, write
from tests.models import MODELS
from tests.oracle import make_batch, make_lerobot_policy, make_noise

TINY = ["--set", "architecture=tiny", "--set", "backend=torch"]
CAMERAS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
CONFIG = {
    "action_dim": 32,
    "action_horizon": 50,
    "paligemma_variant": "gemma_2b",
    "action_expert_variant": "gemma_300m",
    "precision": "float32",
}
"""As openpi's examples/convert_jax_model_to_pytorch.py writes it."""


def random_stats(width: int, padded: int, seed: int) -> dict[str, list[float]]:
    """One feature's, as openpi's compute_norm_stats.py writes them; the last value never moved."""
    random = np.random.default_rng(seed)
    mean, std = random.normal(size=width), random.uniform(0.01, 2, size=width)
    std[-1] = 0
    stats = {"mean": mean, "std": std, "q01": mean - 2 * std, "q99": mean + 2.5 * std}
    return {name: np.pad(value, (0, padded - width)).tolist() for name, value in stats.items()}


def save_stats(path: Path, *, state=(14, 14), action=(7, 7), seed=0) -> dict:
    stats = {"state": random_stats(*state, seed), "actions": random_stats(*action, seed + 1)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"norm_stats": stats}))
    return stats


@pytest.fixture(autouse=True)
def hub(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture(scope="module")
def policies():
    policies = {name: make_lerobot_policy(CAMERAS, model=model) for name, model in MODELS.items()}
    for policy in policies.values():
        paligemma = policy.model.paligemma_with_expert.paligemma  # openpi's ties the two, and saves one
        paligemma.model.language_model.embed_tokens.weight.data.copy_(paligemma.lm_head.weight.data)
    return policies


@pytest.fixture(scope="module")
def trained(policies, tmp_path_factory):
    folders = {}
    for name, policy in policies.items():
        folders[name] = write(tmp_path_factory.mktemp("openpi"), openpi_names(policy.state_dict()))
        (folders[name] / "config.json").write_text(json.dumps(CONFIG))
    return folders


@pytest.fixture
def model():
    """Which one the folder is of, where a test does not say: nothing but the names of its tensors says so."""
    return "pi0"


@pytest.fixture
def lerobot_policy(policies, model):
    return policies[model]


@pytest.fixture
def openpi(trained, model, tmp_path):
    """A folder of openpi's, with the statistics of one robot."""
    folder = shutil.copytree(trained[model], tmp_path / "openpi")
    save_stats(folder / "assets" / "trossen" / "norm_stats.json")
    return folder


@pytest.fixture
def convert(tmp_path, openpi, capsys):
    """Converts the folder to `ours`; returns what went wrong."""
    make_tokenizer(tmp_path / "tokenizer")

    def run(*arguments, source=openpi, tokenizer=tmp_path / "tokenizer") -> str:
        named = ["--tokenizer", str(tokenizer)] if tokenizer else []
        capsys.readouterr()
        status = main(["convert", str(source), str(tmp_path / "ours"), *TINY, *named, *arguments])
        _, _, error = f"\n{capsys.readouterr().err}".partition("\nerror: ")
        assert (status == 0) == (tmp_path / "ours").exists()
        assert (status == 0) == (error == "")
        return error

    return run


def openpis(stats: dict[str, list[float]], values: np.ndarray, *, quantiles: bool, inverse: bool = False) -> np.ndarray:
    """Source: openpi `transforms.py`, `Normalize._normalize(_quantile)` and `Unnormalize._unnormalize(_quantile)`."""
    mean, std, q01, q99 = (np.array(stats[name])[: values.shape[-1]] for name in ("mean", "std", "q01", "q99"))
    if quantiles:
        if inverse:
            return (values + 1.0) / 2.0 * (q99 - q01 + 1e-6) + q01
        return (values - q01) / (q99 - q01 + 1e-6) * 2.0 - 1.0
    return values * (std + 1e-6) + mean if inverse else (values - mean) / (std + 1e-6)


def openpis_prompt(task: str, state: np.ndarray) -> str:
    """Source: openpi `models/tokenizer.py::PaligemmaTokenizer.tokenize`, of a normalised state."""
    bins = np.digitize(state, bins=np.linspace(-1, 1, 256 + 1)[:-1]) - 1
    return f"Task: {task.strip().replace('_', ' ')}, State: {' '.join(map(str, bins))};\nAction: "


@pytest.mark.parametrize(
    ("model", "arguments", "quantiles"),
    [
        pytest.param("pi0", [], False, id="pi0"),
        pytest.param("pi0", ["--quantiles"], True, id="pi0, quantiles"),
        pytest.param("pi05", [], True, id="pi0.5"),
        pytest.param("pi05", ["--no-quantiles"], False, id="pi0.5, mean and std"),
    ],
)
@pytest.mark.parametrize("padded", [False, True], ids=["as wide as the robot", "padded"])
def test_the_policy_normalises_as_openpi(convert, openpi, tmp_path, model, arguments, quantiles, padded, caplog):
    widths = {"state": (14, 32), "action": (7, 32)} if padded else {}
    stats = save_stats(openpi / "assets" / "trossen" / "norm_stats.json", **widths)
    assert convert(*arguments) == ""
    assert ("observation.state: the last 18 of 32 values are 0 throughout, openpi's padding" in caplog.text) == padded
    assert "value(s) 13 never moved in training" in caplog.text
    assert "delta actions, `--set use_relative_actions=true`" in caplog.text
    assert ("discrete_state_input=False" in caplog.text) == (model == "pi05")

    config = load_config(CheckpointSource(tmp_path / "ours"))
    assert config.type == f"{model}_ttnn"
    assert config.tokenizer_max_length == {"pi0": 48, "pi05": 200}[model]
    assert list(config.image_features) == [f"observation.images.{camera}" for camera in CAMERAS]
    assert (config.robot_state_feature.shape, config.action_feature.shape) == ((14,), (7,))
    assert (config.chunk_size, config.max_state_dim, config.max_action_dim) == (50, 32, 32)
    preprocess, postprocess = make_pre_post_processors(config, str(tmp_path / "ours"))
    state = np.random.default_rng(5).normal(size=14)
    state[-1] = stats["state"]["mean"][13]  # the joint that never moved stays where it was
    batch = preprocess({"observation.state": torch.from_numpy(state).float(), "task": "go_on"})
    got, want = batch["observation.state"], openpis(stats["state"], state, quantiles=quantiles)
    if model == "pi05":
        prompt, still = batch["task"][0], len(" 255;\nAction: ")
        assert prompt[:-still] == openpis_prompt("go_on", want)[:-still]  # but for the joint that never moved
    assert got.shape == (1, 14)
    # A float32 mean is 6e-8 off, which the joint that never moved has multiplied by 1e6.
    assert np.abs(got[0, :13].numpy() - want[:13]).max() < 1e-5
    assert abs(got[0, 13] - want[13]) < 0.2
    action = np.random.default_rng(6).normal(size=7)
    got = postprocess(torch.from_numpy(action).float()[None])
    want = openpis(stats["actions"], action, quantiles=quantiles, inverse=True)
    assert np.abs(got[0].numpy() - want).max() < 1e-6


@pytest.mark.parametrize("model", MODELS)
def test_the_policy_gives_the_models_actions(convert, lerobot_policy, tmp_path):
    convert()
    batch = make_batch(cameras=CAMERAS)
    got = load_policy(tmp_path / "ours").predict_action_chunk(batch, noise=make_noise())
    want = lerobot_policy.predict_action_chunk(batch, noise=make_noise())
    assert (got - want).abs().max() <= 1e-5


def test_sizes_follow_openpis_config(convert, openpi, tmp_path):
    edit_json(openpi / "config.json", action_horizon=16, precision="bfloat16")
    convert()
    config = load_config(CheckpointSource(tmp_path / "ours"))
    assert (config.chunk_size, config.n_action_steps, config.dtype) == (16, 16, "bfloat16")


class TestWhoseStatistics:
    @pytest.fixture
    def several(self, openpi):
        save_stats(openpi / "assets" / "droid" / "norm_stats.json", state=(8, 8), action=(8, 8))
        save_stats(openpi / "assets" / "physical-intelligence" / "libero" / "norm_stats.json", state=(8, 8))
        return openpi

    def test_the_user_chooses(self, convert, several, tmp_path):
        assert "droid, physical-intelligence/libero, trossen; choose that of yours with --norm-stats NAME" in convert()
        assert "nor one of the checkpoint's assets (droid, phys" in convert("--norm-stats", "aloha")
        assert convert("--norm-stats", "physical-intelligence/libero") == ""
        assert load_config(CheckpointSource(tmp_path / "ours")).robot_state_feature.shape == (8,)

    @pytest.mark.parametrize("name", ["mine", "mine/norm_stats.json"])
    def test_from_elsewhere(self, convert, several, tmp_path, name):
        save_stats(tmp_path / "mine" / "norm_stats.json", state=(6, 6), action=(6, 6))
        assert convert("--norm-stats", str(tmp_path / name)) == ""
        assert load_config(CheckpointSource(tmp_path / "ours")).action_feature.shape == (6,)

    def test_from_the_hub(self, convert, openpi, hub, tmp_path):
        hub_cache(hub, "me/openpi", openpi)
        assert convert(source="me/openpi") == ""
        assert load_config(CheckpointSource(tmp_path / "ours")).action_feature.shape == (7,)

    def test_for_another_kind_of_checkpoint(self, convert, openpi, lerobot_policy, tmp_path):
        lerobot_policy.save_pretrained(tmp_path / "lerobots")
        assert "for openpi's checkpoints" in convert("--norm-stats", "trossen", source=tmp_path / "lerobots")


class TestWhatIsMissing:
    @pytest.mark.parametrize(
        ("config", "message"),
        [
            (
                {"paligemma_variant": "gemma_2b_lora"},
                "paligemma_variant is gemma_2b_lora: openpi's converter drops the LoRA",
            ),
            ({"action_expert_variant": "gemma_300m_lora"}, "merge them into the base weights in JAX"),
            ({"paligemma_variant": "dummy"}, "expected one of gemma_2b, gemma_300m, got 'dummy'"),
            ({"action_horizon": None}, "action_horizon: expected a number from 1 on, got None"),
            ({"action_dim": 24}, "wrong shape action_in_proj.weight: expected (64, 24), got (64, 32)"),
        ],
    )
    def test_a_model_that_it_is_not(self, convert, openpi, config, message):
        edit_json(openpi / "config.json", **config)
        assert message in convert()

    @pytest.mark.parametrize("model", ["pi05"])
    def test_a_tensor_of_pi05(self, convert, openpi):
        tensors = load_file(openpi / "model.safetensors")
        del tensors["time_mlp_in.bias"]
        write(openpi, tensors)
        error = convert()
        assert "not a complete pi0.5 model" in error
        assert error.count("missing") == 1
        assert "missing time_mlp_in.bias" in error

    @pytest.mark.parametrize("model", ["pi05"])
    def test_quantiles_of_pi05(self, convert, openpi):
        path = openpi / "assets" / "trossen" / "norm_stats.json"
        path.write_text(
            json.dumps({"norm_stats": {key: {"mean": [0.0], "std": [1.0]} for key in ("state", "actions")}})
        )
        error = convert()
        assert (
            "expected q01 and q99, got no q01 and no q99; make them with openpi's scripts/compute_norm_stats.py"
            in error
        )
        assert "--no-quantiles" in error

    @pytest.mark.parametrize(
        ("stats", "arguments", "message"),
        [
            (None, [], "has no assets/*/norm_stats.json, without which state and actions have no scale"),
            ("{", [], "expected openpi's norm_stats"),
            ({"norm_stats": {"state": random_stats(14, 14, 0)}}, [], "KeyError('actions')"),
            (
                {"norm_stats": {key: {"mean": [0.0], "std": [1.0]} for key in ("state", "actions")}},
                ["--quantiles"],
                "expected q01 and q99, got no q01 and no q99",
            ),
            (
                {"norm_stats": {key: {"mean": [0.0] * 3, "std": [1.0] * 2} for key in ("state", "actions")}},
                [],
                "as many values in each statistic, 1 to 32 (action_dim in config.json), got {'mean': 3, 'std': 2}",
            ),
            ({"norm_stats": {key: random_stats(40, 40, 0) for key in ("state", "actions")}}, [], "1 to 32"),
            (
                {"norm_stats": {key: {"mean": [0.0], "std": [-1.0]} for key in ("state", "actions")}},
                [],
                "observation.state: mean and std cannot be: std below 0",
            ),
            (
                {"norm_stats": {key: {"mean": [float("nan")], "std": [1.0]} for key in ("state", "actions")}},
                [],
                "mean not finite",
            ),
        ],
    )
    def test_statistics(self, convert, openpi, stats, arguments, message):
        path = openpi / "assets" / "trossen" / "norm_stats.json"
        if stats is None:
            path.unlink()
        else:
            path.write_text(stats if isinstance(stats, str) else json.dumps(stats))
        assert message in convert(*arguments)

    def test_the_tokenizer(self, convert):
        """openpi fetches PaliGemma's from a bucket of Google's; LeRobot's processors need one of the Hub, or a folder."""
        assert "tokenizer: google/paligemma-3b-pt-224: it is not, or not whole, in the Hub's cache" in convert(
            tokenizer=None
        )

    def test_a_config(self, openpi, capsys):
        """train_pytorch.py writes weights and assets, but none."""
        (openpi / "config.json").unlink()
        assert main(["info", str(openpi)]) == 1
        assert '"action_horizon": 50, "paligemma_variant": "gemma_2b"' in capsys.readouterr().err

    def test_pytorch_weights(self, tmp_path, capsys):
        (tmp_path / "jax" / "params").mkdir(parents=True)
        assert main(["info", str(tmp_path / "jax")]) == 1
        assert "openpi's JAX checkpoint; run its examples/convert_jax_model_to_pytorch.py" in capsys.readouterr().err


def test_as_it_is_each_way_in_names_convert(openpi, capsys):
    says = f"{openpi}: openpi's converted checkpoint; `lerobot-pi0-ttnn convert {openpi} DST` makes a policy of it"
    with pytest.raises(ValueError, match="makes a policy of it") as refusal:
        PI0TTNNPolicy.from_pretrained(openpi)
    assert str(refusal.value).startswith(says)
    assert main(["info", str(openpi)]) == 1
    assert says in capsys.readouterr().err
    assert main(["doctor", "--backend", "torch", "--checkpoint", str(openpi)]) == 1
    assert f"fail  checkpoint       {says}" in capsys.readouterr().out
