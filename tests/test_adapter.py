"""LoRA adapters, with PEFT as the judge: the same files, the same actions; and a clear word for what cannot be merged."""

import gc
import json
import shutil
import weakref
from pathlib import Path

import pytest
import torch
from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig
from lerobot.envs.configs import AlohaEnv
from lerobot.policies.factory import make_policy
from peft import LoraConfig, PeftModel, VeraConfig
from safetensors.torch import load_file, save_file

from lerobot_pi0_ttnn import PI0TTNNPolicy, PI0WeightLoader, load_policy
from lerobot_pi0_ttnn.backend import weight_cache
from lerobot_pi0_ttnn.checkpoint import MergedWeights, open_weights
from lerobot_pi0_ttnn.checkpoint.files import CheckpointSource
from lerobot_pi0_ttnn.checkpoint.writer import write_safetensors
from lerobot_pi0_ttnn.cli import main
from lerobot_pi0_ttnn.config_loading import load_config
from lerobot_pi0_ttnn.model.config import TINY_PI05
from tests.checkpoints import LAYOUTS, edit_json, hub_cache, save_adapter, save_lerobot_checkpoint, write, write_sharded
from tests.models import MODELS
from tests.oracle import make_batch, make_lerobot_policy, make_noise, state_dict

TINY_TORCH = {"architecture": "tiny", "backend": "torch"}
EXPERT_QV = r".*\.gemma_expert\..*\.self_attn\.(q|v)_proj"
EXPERT_Q0 = "paligemma_with_expert.gemma_expert.model.layers.0.self_attn.q_proj"
EVERY_LINEAR = [
    *("q_proj", "k_proj", "v_proj", "o_proj", "out_proj", "gate_proj", "up_proj", "down_proj", "fc1", "fc2", "linear"),
    *("state_proj", "action_in_proj", "action_out_proj", "action_time_mlp_in", "action_time_mlp_out"),
]

CASES = {
    "LeRobot's targets": {"r": 4, "lora_alpha": 12},
    "every linear": {"r": 8, "lora_alpha": 4, "target_modules": EVERY_LINEAR},
    "rslora": {"r": 4, "lora_alpha": 6, "use_rslora": True},
    "patterns": {
        "r": 4,
        "lora_alpha": 12,
        "rank_pattern": {"q_proj": 2, r"layers\.1\.self_attn\.v_proj": 8},
        "alpha_pattern": {r"model\.state_proj": 40, r"layers\.[01]\.self_attn\.q_proj": 3},
    },
    "patterns, rslora": {"r": 4, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 5}, "use_rslora": True},
    "modules_to_save": {"target_modules": EXPERT_QV, "modules_to_save": ["state_proj", "multi_modal_projector"]},
    "target and to save": {"target_modules": ["q_proj", "state_proj"], "modules_to_save": ["state_proj"]},
    "bias all": {"target_modules": EVERY_LINEAR, "bias": "all"},
    "bias lora_only": {"bias": "lora_only"},
    "some layers": {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "layers"},
    "excluded": {"target_modules": ["q_proj", "state_proj"], "exclude_modules": r".*vision_tower.*"},
    "unused heads": {"target_modules": ["lm_head", "q_proj"]},
    "gaussian": {"init_lora_weights": "gaussian", "lora_dropout": 0.1},
}


CASES_OF_PI05 = {
    "LeRobot's targets": CASES["LeRobot's targets"],
    "its own layers": {"r": 4, "lora_alpha": 12, "target_modules": ["dense", "time_mlp_in", "time_mlp_out", "q_proj"]},
    "modules_to_save": {"target_modules": EXPERT_QV, "modules_to_save": ["time_mlp_in", "norm.dense"]},
    "bias all": {"target_modules": ["dense", "action_in_proj"], "bias": "all"},
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folders = {}
    for name, model in MODELS.items():
        policy = make_lerobot_policy(n_action_steps=5, model=model)
        folders[name] = save_lerobot_checkpoint(policy, tmp_path_factory.mktemp("base"))
        edit_json(folders[name] / "config.json", **TINY_TORCH)
    return folders


@pytest.fixture(scope="module")
def base(bases):
    return bases["pi0"]


def train(base: Path, folder: Path, model: str = "pi0", **settings) -> Path:
    return save_adapter(make_lerobot_policy(n_action_steps=5, model=MODELS[model]), base, folder, **settings)


def judge(folder: Path, model: str = "pi0") -> PeftModel:
    return PeftModel.from_pretrained(make_lerobot_policy(n_action_steps=5, model=MODELS[model]), folder).eval()


def predict(policy) -> torch.Tensor:
    with torch.no_grad():
        return policy.predict_action_chunk(make_batch(), noise=make_noise())


def is_equal(got: torch.Tensor, want: torch.Tensor) -> bool:
    return bool((got - want).abs().max() <= 1e-5)


def edit_tensors(folder: Path, change) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    """LeRobot's own targets, r and alpha unlike: what most tests below are about."""
    return train(base, tmp_path_factory.mktemp("lora") / "adapter", **CASES["LeRobot's targets"])


@pytest.fixture
def copy(adapter, tmp_path):
    return shutil.copytree(adapter, tmp_path / "copy")


@pytest.fixture(scope="module")
def want(adapter):
    return predict(judge(adapter))


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        pytest.param(model, settings, id=f"{model}: {case}")
        for model, cases in {"pi0": CASES, "pi05": CASES_OF_PI05}.items()
        for case, settings in cases.items()
    ],
)
def test_it_is_pefts_model(bases, tmp_path, model, settings):
    folder = train(bases[model], tmp_path / "adapter", model, **settings)
    got, want = predict(load_policy(folder)), predict(judge(folder, model))
    assert is_equal(got, want)
    assert (want - predict(load_policy(bases[model]))).abs().max() > 1e-2


def test_what_pi05s_adapter_changes(bases, tmp_path):
    """LeRobot's own default targets name two of pi0's layers, which pi0.5 has not."""
    folder = train(bases["pi05"], tmp_path / "adapter", "pi05")
    changed = open_weights(CheckpointSource(folder)).changes.added
    heads = {name for name in changed if "gemma_expert" not in name}
    assert heads == {"action_in_proj.weight", "action_out_proj.weight"}
    assert len(changed) == 2 + 2 * TINY_PI05.expert.depth
    assert main(["convert", str(folder), str(tmp_path / "merged")]) == 0
    assert is_equal(predict(load_policy(tmp_path / "merged")), predict(judge(folder, "pi05")))


def test_weights_are_those_of_merge_and_unload(adapter):
    want = state_dict(judge(adapter).merge_and_unload())
    got = open_weights(CheckpointSource(adapter))
    assert got.keys() == want.keys()
    assert all((got[name] - tensor).abs().max() <= 1e-6 for name, tensor in want.items())
    assert got.shapes() == {name: tuple(tensor.shape) for name, tensor in want.items()}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("writer", [write, write_sharded], ids=["single", "sharded"])
def test_every_layout_of_the_base(base, copy, tmp_path, layout, writer):
    old = writer(tmp_path / "old", LAYOUTS[layout](load_file(base / "model.safetensors")))
    edit_json(copy / "adapter_config.json", base_model_name_or_path=str(old))
    want = state_dict(judge(copy).merge_and_unload())
    got = open_weights(CheckpointSource(copy))
    assert got.keys() == want.keys()
    assert all((got[name] - tensor).abs().max() <= 1e-6 for name, tensor in want.items() if "embed_tokens" not in name)


@pytest.mark.parametrize("case", ["LeRobot's targets", "modules_to_save"])
def test_a_base_in_bfloat16_is_not_rounded_again(base, tmp_path, case):
    """LeRobot computes in float32 on a base that was saved in bfloat16, and so do we; nor is it rounded when saved."""
    copy = train(base, tmp_path / "adapter", **CASES[case])
    rounded = {name: tensor.bfloat16() for name, tensor in load_file(base / "model.safetensors").items()}
    write(tmp_path / "bf16", rounded)
    edit_json(copy / "adapter_config.json", base_model_name_or_path=str(tmp_path / "bf16"))
    policy = make_lerobot_policy()
    policy.load_state_dict({name: tensor.float() for name, tensor in rounded.items()})
    want = predict(PeftModel.from_pretrained(policy, copy).eval())
    ours = PI0TTNNPolicy.from_pretrained(copy)
    assert is_equal(predict(ours), want)
    assert ours.weights.dtypes()["state_proj.weight"] == "F32"
    assert ours.weights.dtypes()["action_in_proj.bias"] == "BF16"
    assert {n: t.dtype for n, t in ours.weights.items()} == {
        name: torch.float32 if dtype == "F32" else torch.bfloat16 for name, dtype in ours.weights.dtypes().items()
    }
    ours.save_pretrained(tmp_path / "saved")
    saved = PI0TTNNPolicy.from_pretrained(tmp_path / "saved")
    assert saved.weights.dtypes() == ours.weights.dtypes()
    assert torch.equal(predict(saved), predict(ours))


def test_an_adapter_in_bfloat16(copy):
    edit_tensors(copy, lambda tensors: tensors.update({name: t.bfloat16() for name, t in tensors.items()}))
    assert is_equal(predict(PI0TTNNPolicy.from_pretrained(copy)), predict(judge(copy)))


def test_a_config_without_rank_and_alpha_means_pefts_defaults(base, tmp_path):
    folder = train(base, tmp_path / "adapter", r=8, lora_alpha=8)
    path = folder / "adapter_config.json"
    saved = json.loads(path.read_text())
    assert (saved.pop("r"), saved.pop("lora_alpha")) == (8, 8)
    path.write_text(json.dumps(saved))
    assert is_equal(predict(PI0TTNNPolicy.from_pretrained(folder)), predict(judge(folder)))


def test_fan_in_fan_out_does_not_transpose_a_linear_layer(copy, want):
    """It is of GPT-2's Conv1D; PEFT takes it as False where the layer is Linear, as all of pi0's are."""
    edit_json(copy / "adapter_config.json", fan_in_fan_out=True)
    with pytest.warns(UserWarning, match="Setting fan_in_fan_out to False"):
        assert is_equal(predict(judge(copy)), want)
    assert is_equal(predict(PI0TTNNPolicy.from_pretrained(copy)), want)


def test_the_files_are_not_written_to(base, adapter):
    before = (base / "model.safetensors").read_bytes()
    weights = open_weights(CheckpointSource(adapter))
    first, second = (weights[f"{EXPERT_Q0}.weight"].clone() for _ in range(2))
    assert torch.equal(first, second)
    assert (base / "model.safetensors").read_bytes() == before


class TestLeRobot:
    def test_make_policy_takes_the_plain_branch(self, copy, want):
        edit_json(copy / "config.json", type="pi0_ttnn")
        config = PreTrainedConfig.from_pretrained(copy)
        config.pretrained_path = copy
        environment = AlohaEnv()
        environment.features["action"] = PolicyFeature(FeatureType.ACTION, (7,))
        policy = make_policy(
            config, env_cfg=environment, rename_map={"observation.images.top": "observation.images.front"}
        )
        assert type(policy) is PI0TTNNPolicy
        assert is_equal(predict(policy), want)

    def test_its_peft_branch_would_not_do(self, adapter):
        """Why: there is no module that PEFT could wrap."""
        with pytest.raises(Exception, match=r"[Nn]o modules were targeted|No matching|Target modules"):
            PeftModel.from_pretrained(PI0TTNNPolicy.from_pretrained(adapter), adapter)

    def test_a_saved_policy_is_a_whole_model(self, adapter, want, tmp_path):
        PI0TTNNPolicy.from_pretrained(adapter).save_pretrained(tmp_path / "saved")
        assert not json.loads((tmp_path / "saved" / "config.json").read_text())["use_peft"]
        again = PI0TTNNPolicy.from_pretrained(tmp_path / "saved")
        assert isinstance(again.weights, PI0WeightLoader)
        assert is_equal(predict(again), want)


class TestHub:
    """The Hub's cache stands in for the Hub: the real loading code, offline."""

    @pytest.fixture
    def cache(self, base, copy, tmp_path):
        edit_json(copy / "adapter_config.json", base_model_name_or_path="me/base", revision="v2")
        cache = hub_cache(tmp_path / "hub", "me/lora", copy, revision="v1")
        return hub_cache(cache, "me/base", base, revision="v2")

    def test_both_at_their_revisions(self, cache, want):
        policy = PI0TTNNPolicy.from_pretrained("me/lora", revision="v1", cache_dir=cache, local_files_only=True)
        assert is_equal(predict(policy), want)
        assert str(policy.weights) == "me/lora@v1 on me/base@v2"

    def test_a_whole_model_needs_no_word_about_adapters(self, cache):
        source = CheckpointSource("me/base", revision="v2", cache_dir=cache, local_files_only=True)
        assert isinstance(open_weights(source), PI0WeightLoader)

    def test_a_subfolder_is_the_adapters_alone(self, cache, copy, tmp_path):
        shutil.copytree(copy, tmp_path / "run" / "step_7")
        hub_cache(cache, "me/run", tmp_path / "run")
        source = CheckpointSource("me/run", subfolder="step_7", cache_dir=cache, local_files_only=True)
        assert isinstance(open_weights(source), MergedWeights)

    def test_the_base_is_not_in_the_cache(self, cache, copy):
        edit_json(copy / "adapter_config.json", revision="v3")
        with pytest.raises(ConnectionError, match=r"base model cannot be loaded\. me/base@v3: .*--policy\.base_model"):
            open_weights(CheckpointSource(copy, cache_dir=cache, local_files_only=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, r"has DoRA \(use_dora\)"),
        ({"use_qalora": True}, "QA-LoRA"),
        ({"peft_type": "VERA"}, "peft_type=VERA"),
        ({"peft_type": "adalora"}, "peft_type=ADALORA"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4', which changes the base"),
        ({"init_lora_weights": "olora"}, "init_lora_weights='olora'"),
        ({"layer_replication": [[0, 2], [1, 3]]}, r"replicated layers \(layer_replication\)"),
        ({"target_parameters": ["x"]}, "LoRA on bare parameters"),
        ({"trainable_token_indices": [1]}, "trainable tokens"),
        ({"alora_invocation_tokens": [1]}, "activated LoRA"),
        ({"megatron_config": {"a": 1}}, r"megatron_config=\{'a': 1\}"),
        ({"invented_next_year": 3}, "invented_next_year=3"),
        ({"lora_bias": True}, r"biases on B \(lora_bias\)"),
        ({"use_dora": True, "use_qalora": True}, r"DoRA \(use_dora\), QA-LoRA"),
        ({"base_model_name_or_path": None}, r"does not say which model it adapts; give .*--policy\.base_model"),
        ({"base_model_name_or_path": ""}, r"does not say which model it adapts; give .*--policy\.base_model"),
        ({"peft_type": None}, "peft_type=NONE"),
        ({"r": 0}, "expected ranks"),
        ({"rank_pattern": {"q_proj": -1}}, "expected ranks"),
    ],
    ids=str,
)
def test_kinds_that_are_refused_by_name(copy, changes, message):
    edit_json(copy / "adapter_config.json", **changes)
    with pytest.raises(ValueError, match=message) as error:
        PI0TTNNPolicy.from_pretrained(copy)
    assert str(copy / "adapter_config.json") in str(error.value)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (LoraConfig(use_dora=True, target_modules=EXPERT_QV), "DoRA"),
        (LoraConfig(init_lora_weights="pissa", target_modules=EXPERT_QV), "pissa"),
        (VeraConfig(r=4, target_modules=r".*\.gemma_expert\..*\.self_attn\.q_proj"), "VERA"),
    ],
    ids=["dora", "pissa", "vera"],
)
def test_kinds_as_peft_writes_them(base, tmp_path, kind, message):
    folder = train(base, tmp_path / "adapter", config=kind)
    with pytest.raises(ValueError, match=f"only plain LoRA is merged at load.*{message}"):
        PI0TTNNPolicy.from_pretrained(folder)


@pytest.mark.parametrize("text", ["{", "[]", "{}", "null"])
def test_a_config_that_is_none(copy, text):
    (copy / "adapter_config.json").write_text(text)
    with pytest.raises(ValueError, match="not a PEFT adapter's config"):
        PI0TTNNPolicy.from_pretrained(copy)


PREFIX = "base_model.model.model."
Q0 = f"{PREFIX}{EXPERT_Q0}"


class TestKeys:
    @pytest.mark.parametrize(
        ("target", "message"),
        [
            ("embed_tokens", "lora_embedding_A: not of plain LoRA on a linear layer"),
            ("patch_embedding", r"rank 8 and weight \(96, 3, 14, 14\) do not fit"),
        ],
    )
    def test_layers_that_are_not_linear(self, base, tmp_path, target, message):
        """No public adapter of pi0 has any."""
        folder = train(base, tmp_path / "adapter", r=8, target_modules=[target])
        with pytest.raises(ValueError, match=message):
            PI0TTNNPolicy.from_pretrained(folder)

    def test_all_that_is_wrong_is_in_one_error(self, copy):
        def change(tensors):
            tensors[f"{PREFIX}vqvae.lora_A.weight"] = torch.zeros(4, 8)
            tensors[f"{PREFIX}vqvae.lora_B.weight"] = torch.zeros(8, 4)
            tensors[f"{PREFIX}head.weight"] = torch.zeros(3)
            tensors[f"{PREFIX}action_out_proj.base_layer.bias"] = torch.zeros(31)
            tensors[f"{PREFIX}state_proj.lora_A.weight"] = torch.zeros(5, 32)
            tensors[f"{PREFIX}action_time_mlp_in.lora_magnitude_vector"] = torch.zeros(64)
            del tensors[f"{PREFIX}action_time_mlp_out.lora_B.weight"]

        edit_tensors(copy, change)
        with pytest.raises(ValueError, match="so nothing is loaded") as error:
            PI0TTNNPolicy.from_pretrained(copy)
        assert sorted(str(error.value).splitlines()[1:-1]) == sorted(
            [
                f"  {PREFIX}vqvae.lora_A.weight: pi0 has no module model.vqvae",
                f"  {PREFIX}vqvae.lora_B.weight: pi0 has no module model.vqvae",
                f"  {PREFIX}head.weight: pi0 has no such tensor",
                f"  {PREFIX}action_out_proj.base_layer.bias: expected (32,), got (31,)",
                "  model.state_proj: rank 4 and weight (64, 32) do not fit A (5, 32) and B (64, 4)",
                f"  {PREFIX}action_time_mlp_in.lora_magnitude_vector: not of plain LoRA on a linear layer",
                f"  {PREFIX}action_time_mlp_out.lora_A.weight: the other of lora_A and lora_B is absent",
                "  action_time_mlp_out.weight: the adapter's target_modules name it, but its lora_A and lora_B are absent",
            ]
        )

    @pytest.mark.parametrize("targets", [None, ["q_proj", "v_proj"]], ids=["pattern", "list"])
    def test_a_target_that_is_absent(self, copy, targets):
        edit_json(copy / "adapter_config.json", **({"target_modules": targets} if targets else {}))
        edit_tensors(copy, lambda tensors: [tensors.pop(f"{Q0}.lora_{side}.weight") for side in "AB"])
        with pytest.raises(ValueError, match=rf"{EXPERT_Q0}\.weight: the adapter's target_modules name it"):
            open_weights(CheckpointSource(copy))

    @pytest.mark.parametrize("module", ["state_proj", "multi_modal_projector"])
    def test_a_module_to_save_that_is_absent(self, base, tmp_path, module):
        folder = train(base, tmp_path / "adapter", **CASES["modules_to_save"])
        edit_tensors(folder, lambda tensors: [tensors.pop(k) for k in list(tensors) if module in k and "bias" in k])
        with pytest.raises(ValueError, match=rf"{module}\S*\.bias: the adapter's modules_to_save names it"):
            open_weights(CheckpointSource(folder))

    def test_a_tensor_twice(self, copy):
        def change(tensors):
            tensors[f"{PREFIX}action_out_proj.bias"] = torch.zeros(32)
            tensors[f"{PREFIX}action_out_proj.base_layer.bias"] = torch.zeros(32)
            tensors |= {
                k.replace(PREFIX, "base_model.model."): t.clone() for k, t in tensors.items() if "state_proj" in k
            }

        edit_tensors(copy, change)
        with pytest.raises(ValueError, match="so nothing is loaded") as error:
            open_weights(CheckpointSource(copy))
        assert "is action_out_proj.bias too" in str(error.value)
        assert "is state_proj.weight too" in str(error.value)

    def test_a_base_of_another_size(self, copy, tmp_path, base):
        tensors = load_file(base / "model.safetensors")
        tensors["model.state_proj.weight"] = torch.zeros(64, 48)
        edit_json(copy / "adapter_config.json", base_model_name_or_path=str(write(tmp_path / "other", tensors)))
        with pytest.raises(ValueError, match=r"state_proj: rank 4 and weight \(64, 48\) do not fit"):
            open_weights(CheckpointSource(copy))


class TestFiles:
    def test_no_weights(self, copy):
        (copy / "adapter_model.safetensors").rename(copy / "adapter_model.bin")
        with pytest.raises(FileNotFoundError, match=r"but no adapter_model\.safetensors; fetch the whole folder"):
            PI0TTNNPolicy.from_pretrained(copy)

    def test_weights_cut_short(self, copy):
        file = copy / "adapter_model.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
        with pytest.raises(ValueError, match=r"cut short at .* delete it and fetch it again"):
            PI0TTNNPolicy.from_pretrained(copy)

    def test_the_base_is_gone(self, copy):
        edit_json(copy / "adapter_config.json", base_model_name_or_path="/gone/base")
        with pytest.raises(
            FileNotFoundError, match=r"base model cannot be loaded\. /gone/base: .*--policy\.base_model"
        ):
            PI0TTNNPolicy.from_pretrained(copy)

    def test_the_base_is_an_adapter(self, adapter, copy):
        edit_json(copy / "adapter_config.json", base_model_name_or_path=str(adapter))
        with pytest.raises(
            FileNotFoundError, match=r"base model cannot be loaded.*`lerobot-pi0-ttnn convert` merges it"
        ):
            PI0TTNNPolicy.from_pretrained(copy)

    def test_a_whole_model_beside_the_adapter(self, copy, base):
        shutil.copy(base / "model.safetensors", copy)
        with pytest.raises(ValueError, match=r"both a whole model \(model\.safetensors\) and an adapter"):
            PI0TTNNPolicy.from_pretrained(copy)
        assert isinstance(open_weights(CheckpointSource(copy / "model.safetensors")), PI0WeightLoader)


class TestBaseModel:
    """The adapter's config names a folder of the machine that it was trained on; `base_model` says where that is now."""

    @pytest.fixture
    def moved(self, copy):
        edit_json(copy / "adapter_config.json", base_model_name_or_path="/gone/base", revision="v3")
        return copy

    @pytest.mark.parametrize("named", ["/gone/base", None], ids=["elsewhere", "nowhere"])
    def test_a_folder(self, moved, base, want, named):
        edit_json(moved / "adapter_config.json", base_model_name_or_path=named)
        assert is_equal(predict(PI0TTNNPolicy.from_pretrained(moved, base_model=str(base))), want)

    def test_on_the_hub_the_revision_of_the_other_is_not_meant(self, moved, base, want, tmp_path):
        cache = hub_cache(tmp_path / "hub", "me/base", base)
        hub = {"cache_dir": cache, "local_files_only": True}
        policy = PI0TTNNPolicy.from_pretrained(moved, base_model="me/base", **hub)
        assert is_equal(predict(policy), want)
        assert str(policy.weights) == f"{moved} on me/base"

    def test_it_counts_though_the_named_one_is_there(self, base, copy, want, tmp_path):
        other = write(tmp_path / "other", state_dict(make_lerobot_policy(seed=9)))
        got = predict(PI0TTNNPolicy.from_pretrained(copy, base_model=str(other)))
        edit_json(copy / "adapter_config.json", base_model_name_or_path=str(other))
        assert torch.equal(got, predict(PI0TTNNPolicy.from_pretrained(copy)))
        assert not is_equal(got, want)

    def test_it_is_not_there_either(self, moved):
        with pytest.raises(FileNotFoundError, match=r"base model cannot be loaded\. /gone/too: "):
            PI0TTNNPolicy.from_pretrained(moved, base_model="/gone/too")

    def test_a_whole_model_has_none(self, base):
        for checkpoint in (base, base / "model.safetensors"):
            with pytest.raises(
                ValueError, match="is no LoRA adapter, so me/base would not be used; leave base_model out"
            ):
                open_weights(CheckpointSource(checkpoint), "me/base")

    def test_what_is_saved_needs_it_no_more(self, moved, base, want, tmp_path):
        policy = PI0TTNNPolicy.from_pretrained(moved, base_model=str(base))
        policy.save_pretrained(tmp_path / "saved")
        assert policy.config.base_model == str(base)
        assert is_equal(predict(PI0TTNNPolicy.from_pretrained(tmp_path / "saved")), want)

    def test_convert(self, moved, base, want, tmp_path):
        assert main(["convert", str(moved), str(tmp_path / "merged"), "--base-model", str(base)]) == 0
        assert is_equal(predict(PI0TTNNPolicy.from_pretrained(tmp_path / "merged")), want)

    def test_info(self, moved, base, capsys):
        assert main(["info", str(moved)]) == 1
        assert "give that folder or Hub id as base_model" in capsys.readouterr().err
        assert main(["info", str(moved), "--base-model", str(base), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["adapter"]["base"] == str(base)

    def test_doctor(self, moved, base, capsys):
        found = []
        for named in ([], ["--base-model", str(base)]):
            main(["doctor", "--backend", "torch", "--json", "--checkpoint", str(moved), *named])
            findings = json.loads(capsys.readouterr().out)
            found += [finding for finding in findings if finding["check"] == "checkpoint"]
        assert [finding["status"] for finding in found] == ["fail", "ok"]
        assert "give that folder or Hub id as base_model" in found[0]["found"]

    def test_bench(self, moved, base, capsys):
        timed = ["--backends", "torch", "--chunks", "1", "--steps", "1", "--base-model", str(base)]
        assert main(["bench", str(moved), *timed]) == 0
        assert "| torch" in capsys.readouterr().out


class TestFingerprint:
    @pytest.fixture
    def weights(self, base, copy, tmp_path):
        """Opens the adapter on a base of its own."""
        shutil.copytree(base, tmp_path / "base")
        edit_json(copy / "adapter_config.json", base_model_name_or_path=str(tmp_path / "base"))
        return lambda: open_weights(CheckpointSource(copy))

    def test_it_covers_base_and_adapter(self, weights, copy, tmp_path):
        seen = [weights().fingerprint()]
        assert weights().fingerprint() == seen[0]
        (tmp_path / "base" / "model.safetensors").touch()
        seen.append(weights().fingerprint())
        (copy / "adapter_model.safetensors").touch()
        seen.append(weights().fingerprint())
        edit_json(copy / "adapter_config.json", lora_alpha=13)
        seen.append(weights().fingerprint())
        seen.append(weights().base.fingerprint())
        assert len(set(seen)) == 5

    def test_merged_weights_are_cached(self, weights, copy, tmp_path):
        pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

        class Board:
            describe = staticmethod(lambda: {"arch": "wormhole_b0"})

        config = load_config(CheckpointSource(copy), [f"--weight_cache_dir={tmp_path / 'cache'}"])
        of_adapter, of_base = (weight_cache(config, w, Board()).folder for w in (weights(), weights().base))
        assert of_adapter != of_base


class TestCommands:
    @pytest.fixture(autouse=True)
    def _offline(self, monkeypatch):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def test_convert_writes_the_merged_model(self, adapter, want, tmp_path):
        assert main(["convert", str(adapter), str(tmp_path / "merged")]) == 0
        policy = PI0TTNNPolicy.from_pretrained(tmp_path / "merged")
        assert isinstance(policy.weights, PI0WeightLoader)
        assert is_equal(predict(policy), want)
        names = {file.name for file in (tmp_path / "merged").iterdir()}
        assert {"config.json", "model.safetensors", "policy_preprocessor.json"} <= names
        assert not any("adapter" in name or name.startswith(".") for name in names)

    def test_lerobot_itself_loads_the_merged_model(self, adapter, want, tmp_path):
        main(["convert", str(adapter), str(tmp_path / "merged")])
        policy = make_lerobot_policy(seed=9)
        policy.load_state_dict(load_file(tmp_path / "merged" / "model.safetensors"), strict=True)
        assert is_equal(predict(policy), want)

    def test_a_full_disk_leaves_nothing(self, adapter, tmp_path, monkeypatch, capsys):
        def full(self, name):
            if name == "state_proj.bias":
                raise OSError(28, "No space left on device")
            return original(self, name)

        original = MergedWeights.__getitem__
        monkeypatch.setattr(MergedWeights, "__getitem__", full)
        assert main(["convert", str(adapter), str(tmp_path / "merged")]) == 1
        assert "No space left on device" in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []

    def test_info(self, base, tmp_path, capsys):
        folder = train(base, tmp_path / "adapter", **CASES["patterns"] | {"modules_to_save": ["action_out_proj"]})
        assert main(["info", str(folder), "--json"]) == 0
        adapter = json.loads(capsys.readouterr().out)["adapter"]
        assert (adapter["base"], adapter["rank"], adapter["alpha"]) == (str(base), 4, 12)
        assert adapter["targets"][f"{EXPERT_Q0}".replace(".0.", ".*.")] == 3
        assert adapter["replaced"] == {"action_out_proj.bias": 1, "action_out_proj.weight": 1}
        assert main(["info", str(folder)]) == 0
        text = capsys.readouterr().out
        assert f"adapter        LoRA on {base}: rank 4, alpha 12, rank_pattern" in text
        assert "LoRA       3 x paligemma_with_expert.gemma_expert.model.layers.*.self_attn.q_proj" in text

    def test_info_of_a_whole_model(self, base, capsys):
        main(["info", str(base), "--json"])
        assert json.loads(capsys.readouterr().out)["adapter"] is None

    def test_info_says_what_is_wrong(self, copy, capsys):
        edit_json(copy / "adapter_config.json", use_dora=True)
        assert main(["info", str(copy)]) == 1
        assert "DoRA" in capsys.readouterr().err


class TestWriter:
    def test_mixed_dtypes_and_shapes(self, tmp_path):
        tensors = {
            "odd": torch.arange(3, dtype=torch.bfloat16),
            "scalar": torch.tensor(2.5),
            "empty": torch.zeros(0, 4),
            "wide": torch.randn(5, 3).T,
            "bytes": torch.arange(7, dtype=torch.uint8),
            "numbers": torch.arange(4),
        }
        kinds = {"bfloat16": "BF16", "float32": "F32", "uint8": "U8", "int64": "I64"}
        headers = {n: (kinds[str(t.dtype).removeprefix("torch.")], tuple(t.shape)) for n, t in tensors.items()}
        write_safetensors(tmp_path / "a.safetensors", headers, tensors.__getitem__)
        got = load_file(tmp_path / "a.safetensors")
        assert got.keys() == tensors.keys()
        assert all(torch.equal(got[name], tensor) for name, tensor in tensors.items())

    def test_one_tensor_at_a_time(self, tmp_path):
        alive, most = weakref.WeakSet(), 0

        def take(_):
            nonlocal most
            gc.collect()
            most = max(most, len(alive))
            tensor = torch.zeros(8)
            alive.add(tensor)
            return tensor

        write_safetensors(tmp_path / "a.safetensors", {str(n): ("F32", (8,)) for n in range(9)}, take)
        assert most <= 1

    @pytest.mark.parametrize(
        ("header", "message"), [(("F8_E4M3", (2,)), "cannot write F8_E4M3"), (("F32", (3,)), r"expected \(3,\) F32")]
    )
    def test_what_it_does_not_write(self, tmp_path, header, message):
        (tmp_path / "a.safetensors").write_text("precious")
        with pytest.raises(ValueError, match=message):
            write_safetensors(tmp_path / "a.safetensors", {"a": header}, lambda _: torch.zeros(2))
        assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.safetensors", "precious")]
