"""A checkpoint of pi0 given as one of pi0.5, and the reverse: rejected by name on every way in, before its weights are read."""

import json
import re
import shutil
import sys

import pytest
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import AlohaEnv
from lerobot.policies.factory import make_policy

from lerobot_pi0_ttnn import PI0TTNNPolicy, PI05TTNNPolicy, load_policy
from lerobot_pi0_ttnn.checkpoint import open_weights
from lerobot_pi0_ttnn.checkpoint.files import CheckpointSource
from lerobot_pi0_ttnn.cli import main
from tests.broken_checkpoints import copy_of
from tests.checkpoints import edit_json, save_adapter
from tests.models import MODELS
from tests.oracle import make_lerobot_policy
from tests.robots import CAMERAS, JOINTS, save_robot_checkpoints
from tests.servers import Client, ToldError

CLASSES = {"pi0": PI0TTNNPolicy, "pi05": PI05TTNNPolicy}
NAMES = {"pi0": "pi0", "pi05": "pi0.5"}
OTHER = {"pi0": "pi05", "pi05": "pi0"}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return save_robot_checkpoints(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(params=["LeRobot's", "ours"])
def saved(request):
    """Who wrote config.json, by the type in it."""
    return {"LeRobot's": lambda model: model, "ours": lambda model: f"{model}_ttnn"}[request.param]


@pytest.mark.parametrize("asked", MODELS)
class TestByItsType:
    @pytest.fixture
    def folder(self, checkpoints, asked, saved, tmp_path):
        """Of the other model; its weights could not be read."""
        folder = copy_of(checkpoints[OTHER[asked]], tmp_path / "other")
        edit_json(folder / "config.json", type=saved(OTHER[asked]))
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors").write_bytes(b"not read" * 100)
        return folder

    @pytest.fixture
    def refusal(self, folder, asked, saved):
        other = OTHER[asked]
        return re.escape(
            f"{folder}: this is a checkpoint of {NAMES[other]} (type {saved(other)!r}), and was to be loaded as one of "
            f"{NAMES[asked]}; name the type {other}_ttnn, or none"
        )

    def test_from_pretrained(self, folder, asked, refusal):
        with pytest.raises(ValueError, match=refusal):
            CLASSES[asked].from_pretrained(folder)

    def test_a_config_of_the_callers_own(self, folder, asked, refusal):
        config = CLASSES[asked].config_class(architecture="tiny", backend="torch")
        for load in (CLASSES[asked].from_pretrained, load_policy):
            with pytest.raises(ValueError, match=refusal):
                load(folder, config=config)

    def test_policy_type_and_pretrained_path(self, folder, asked, refusal, monkeypatch):
        monkeypatch.setattr(sys, "argv", ["eval", f"--policy.type={asked}_ttnn", f"--policy.pretrained_path={folder}"])
        environment = AlohaEnv()
        environment.features["action"] = PolicyFeature(FeatureType.ACTION, (JOINTS,))
        config = CLASSES[asked].config_class(architecture="tiny", backend="torch", pretrained_path=folder)
        with pytest.raises(ValueError, match=refusal):
            make_policy(config, env_cfg=environment)

    @pytest.mark.parametrize("named", ["{}", "{}_ttnn"])
    def test_serve(self, folder, asked, refusal, servicer, named):
        with pytest.raises(ToldError, match=refusal):
            Client(servicer, folder, policy_type=named.format(asked))


def test_serve_takes_lerobots_name_for_it(checkpoints, servicer):
    """LeRobot's robot_client knows `pi0` and `pi05`."""
    for model, folder in checkpoints.items():
        for named in (model, f"{model}_ttnn"):
            assert len(Client(servicer, folder, policy_type=named).actions()) == 50
            assert type(servicer.policy) is CLASSES[model]
    with pytest.raises(ToldError, match="runs policies of type pi0, pi0_ttnn, pi05, pi05_ttnn, got 'act'"):
        Client(servicer, checkpoints["pi0"], policy_type="act")


@pytest.mark.parametrize("said", MODELS)
def test_by_the_names_of_its_weights(checkpoints, said, saved, tmp_path, capsys):
    """config.json and processors of one, weights of the other; many of the two models' tensors are alike."""
    folder = copy_of(checkpoints[said], tmp_path / "mixed")
    edit_json(folder / "config.json", type=saved(said))
    (folder / "model.safetensors").unlink()
    shutil.copy(checkpoints[OTHER[said]] / "model.safetensors", folder)
    of = f"{folder} are of {NAMES[OTHER[said]]}, and its config.json is of {NAMES[said]} (type {said}_ttnn)"
    with pytest.raises(ValueError, match=re.escape(of)) as refusal:
        load_policy(folder)
    assert len(str(refusal.value).splitlines()) == 2
    assert main(["convert", str(folder), str(tmp_path / "new"), "--tokenizer", str(folder / "tokenizer")]) == 1
    assert of in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert main(["info", str(folder)]) == 1
    assert f"cannot run: weights: {of}" in capsys.readouterr().out
    assert main(["doctor", "--backend", "torch", "--checkpoint", str(folder), "--json"]) == 1
    findings = json.loads(capsys.readouterr().out)
    assert [f["status"] for f in findings if of in f["found"]] == ["fail"]


@pytest.mark.parametrize("trained", MODELS)
def test_an_adapter_by_its_base(checkpoints, trained, tmp_path):
    """LeRobot's targets are of layers that both have, but for two of pi0's."""
    policy = make_lerobot_policy(CAMERAS, JOINTS, JOINTS, model=MODELS[trained])
    folder = save_adapter(policy, checkpoints[trained], tmp_path / "adapter", r=2)
    assert load_policy(folder, warm_up=False)
    base = str(checkpoints[OTHER[trained]])
    refusal = re.escape(
        f"{folder}: this is an adapter of {NAMES[trained]}, and its base model {base} is {NAMES[OTHER[trained]]}; give the base"
    )
    with pytest.raises(ValueError, match=refusal):
        load_policy(folder, base_model=base)
    edit_json(folder / "adapter_config.json", base_model_name_or_path=base)
    with pytest.raises(ValueError, match=refusal):
        load_policy(folder)


@pytest.mark.parametrize(
    ("trained", "targets"), [("pi0", ["state_proj"]), ("pi05", ["time_mlp_in"]), ("pi05", ["dense"])], ids=str
)
def test_an_adapter_by_its_own_names(checkpoints, trained, targets, tmp_path):
    """As PEFT alone leaves it, without LeRobot's config.json."""
    policy = make_lerobot_policy(CAMERAS, JOINTS, JOINTS, model=MODELS[trained])
    folder = save_adapter(policy, checkpoints[trained], tmp_path / "adapter", r=2, target_modules=targets)
    (folder / "config.json").unlink()
    assert open_weights(CheckpointSource(folder))
    with pytest.raises(ValueError, match=rf"this is an adapter of {re.escape(NAMES[trained])}, and its base model"):
        open_weights(CheckpointSource(folder), str(checkpoints[OTHER[trained]]))
