"""The console script, and LeRobot's own scripts run on what it makes: real processes, real environments, offline."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lerobot_pi0_ttnn import PI0TTNNPolicy, load_policy
from lerobot_pi0_ttnn.cli import main
from lerobot_pi0_ttnn.cli.demo import check_gl
from lerobot_pi0_ttnn.demo.stand_in import make_demo_checkpoint
from lerobot_pi0_ttnn.recording import read_recording
from tests.checkpoints import STATS, lerobot_0_3, save_lerobot_checkpoint, write
from tests.lerobot_eval import make_pusht_policy, run_eval, save_for_pusht
from tests.models import MODELS, of_each
from tests.oracle import make_batch, make_lerobot_policy, make_noise
from tests.quality import assert_quality

TINY = ["--set", "architecture=tiny", "--set", "backend=torch"]


@pytest.fixture(scope="module")
def policies():
    return {name: make_lerobot_policy(n_action_steps=5, model=model) for name, model in MODELS.items()}


@pytest.fixture(scope="module")
def checkpoints(policies, tmp_path_factory):
    return {name: save_lerobot_checkpoint(policy, tmp_path_factory.mktemp(name)) for name, policy in policies.items()}


@pytest.fixture
def model():
    """Which one the checkpoint is of, where a test does not say."""
    return "pi0"


@pytest.fixture
def lerobot_policy(policies, model):
    return policies[model]


@pytest.fixture
def checkpoint(checkpoints, model):
    return checkpoints[model]


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


class TestConvert:
    @pytest.mark.parametrize("model", MODELS)
    def test_gives_the_same_actions_without_copying(self, checkpoint, lerobot_policy, model, tmp_path):
        assert main(["convert", str(checkpoint), str(tmp_path / "ours"), *TINY]) == 0
        assert (tmp_path / "ours" / "model.safetensors").samefile(checkpoint / "model.safetensors")
        policy = load_policy(tmp_path / "ours")
        assert json.loads((tmp_path / "ours" / "config.json").read_text())["type"] == f"{model}_ttnn"
        assert policy.config.n_action_steps == 5
        want = lerobot_policy.predict_action_chunk(make_batch(), noise=make_noise())
        assert (policy.predict_action_chunk(make_batch(), noise=make_noise()) - want).abs().max() <= 1e-5

    def test_keeps_the_statistics_and_names_the_tokenizer(self, checkpoint, tmp_path):
        tokenizer = shutil.copytree(checkpoint / "tokenizer", tmp_path / "tokenizer")
        main(["convert", str(checkpoint), str(tmp_path / "ours"), *TINY, "--tokenizer", str(tokenizer)])
        steps = json.loads((tmp_path / "ours" / "policy_preprocessor.json").read_text())["steps"]
        by_name = {step["registry_name"]: step for step in steps}
        assert by_name["tokenizer_processor"]["config"]["tokenizer_name"] == "tokenizer"
        assert by_name["tokenizer_processor"]["artifacts"] == {"tokenizer_name": "tokenizer"}
        assert by_name["device_processor"]["config"]["device"] == "cpu"
        stats = load_file(tmp_path / "ours" / by_name["normalizer_processor"]["state_file"])
        assert torch.equal(stats["observation.state.std"], STATS["observation.state"]["std"])

    @pytest.mark.parametrize("model", MODELS)
    def test_makes_pipelines_of_which_only_the_tensors_are_there(self, checkpoint, tmp_path):
        bare = shutil.copytree(checkpoint, tmp_path / "bare")
        for name in ("policy_preprocessor.json", "policy_postprocessor.json"):
            (bare / name).unlink()
        assert main(["convert", str(bare), str(tmp_path / "ours"), *TINY, "--tokenizer", str(bare / "tokenizer")]) == 0
        for side in ("pre", "post"):
            got = load_file(next((tmp_path / "ours").glob(f"policy_{side}processor*.safetensors")))
            assert torch.equal(got["action.std"], STATS["action"]["std"])
            assert torch.equal(got["observation.state.mean"], STATS["observation.state"]["mean"])
        made, saved = (
            [step["registry_name"] for step in json.loads((folder / "policy_preprocessor.json").read_text())["steps"]]
            for folder in (tmp_path / "ours", checkpoint)
        )
        assert made == saved

    def test_mends_lerobot_0_3(self, lerobot_policy, tmp_path, caplog):
        """Old names, old config fields, statistics among the weights, no processors."""
        old = write(tmp_path / "old", lerobot_0_3(lerobot_policy.state_dict()))
        lerobot_policy.config.save_pretrained(old)
        config = json.loads((old / "config.json").read_text())
        (old / "config.json").write_text(json.dumps(config | {"adapt_to_pi_aloha": False, "proj_width": 1024}))
        make_demo_checkpoint(tmp_path / "demo", "pusht")
        tokenizer = str(tmp_path / "demo" / "tokenizer")
        assert main(["convert", str(old), str(tmp_path / "new"), *TINY, "--tokenizer", tokenizer]) == 0
        assert "adapt_to_pi_aloha, proj_width" in caplog.text
        post = load_file(next((tmp_path / "new").glob("policy_postprocessor*.safetensors")))
        assert torch.equal(post["action.mean"], STATS["action"]["mean"])
        tied = "model.paligemma_with_expert.paligemma.lm_head.weight"
        embedding = "model.paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
        expected = make_lerobot_policy()
        expected.load_state_dict(lerobot_policy.state_dict() | {embedding: lerobot_policy.state_dict()[tied]})
        got = PI0TTNNPolicy.from_pretrained(tmp_path / "new").predict_action_chunk(make_batch(), noise=make_noise())
        assert (got - expected.predict_action_chunk(make_batch(), noise=make_noise())).abs().max() <= 1e-5

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "wrong shape"),  # a tiny checkpoint is not pi0_base
            (["--set", "backend=cuda"], "expected one of ttnn, torch"),
        ],
    )
    def test_a_failure_leaves_nothing(self, checkpoint, tmp_path, capsys, arguments, message):
        assert main(["convert", str(checkpoint), str(tmp_path / "ours"), *arguments]) == 1
        assert message in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []

    def test_an_existing_folder_is_not_touched(self, checkpoint, tmp_path, capsys):
        (tmp_path / "mine").write_text("precious")
        assert main(["convert", str(checkpoint), str(tmp_path), *TINY]) == 1
        assert "exists already" in capsys.readouterr().err
        assert (tmp_path / "mine").read_text() == "precious"


class TestInfo:
    @pytest.mark.parametrize("model", MODELS)
    def test_a_complete_checkpoint(self, checkpoint, model, tmp_path, capsys):
        main(["convert", str(checkpoint), str(tmp_path / "ours"), *TINY])
        capsys.readouterr()
        assert main(["info", str(tmp_path / "ours"), "--json"]) == 0
        info = json.loads(capsys.readouterr().out)
        assert info["layout"] == {"pi0": "prefix `model.`", "pi05": "pi0.5, prefix `model.`"}[model]
        assert info["policy_type"] == f"{model}_ttnn"
        assert info["dtypes"] == {"F32": {"pi0": 106, "pi05": 111}[model]}
        assert info["cameras"] == [f"observation.images.{camera}" for camera in ("front", "wrist", "side")]
        assert (info["state_dim"], info["action_dim"], info["n_action_steps"]) == (14, 7, 5)
        assert sorted(info["stats"]["observation.state"])[:2] == ["mean", "q01" if model == "pi05" else "std"]
        assert len(info["ignored"]) == 2
        assert info["warnings"] == info["problems"] == []

    def test_what_cannot_run(self, checkpoint, capsys):
        assert main(["info", str(checkpoint)]) == 1
        assert "cannot run: " in capsys.readouterr().out

    def test_no_processors(self, lerobot_policy, tmp_path, capsys):
        lerobot_policy.save_pretrained(tmp_path)
        main(["info", str(tmp_path), "--json"])
        warnings = json.loads(capsys.readouterr().out)["warnings"]
        assert any("no saved processors" in warning for warning in warnings)
        assert any(
            "google/paligemma-3b-pt-224: it is not, or not whole, in the Hub's cache" in warning for warning in warnings
        )

    def test_no_such_checkpoint(self, capsys):
        assert main(["info", "./absent"]) == 1
        assert capsys.readouterr().err.startswith("error: ./absent: there is no such folder")


@pytest.mark.parametrize("arguments", [[], ["fly"], ["demo", "--env", "moon"], ["convert", "a"]])
def test_a_wrong_command_line(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: lerobot-pi0-ttnn" in capsys.readouterr().err


def test_demo_on_pusht_from_the_shell(tmp_path):
    """One command from nothing, without GL, to a video, the metrics and the plot."""
    program = Path(sys.executable).parent / "lerobot-pi0-ttnn"
    # A card, where there is one, is not this test's.
    command = [
        program,
        "demo",
        "--env",
        "pusht",
        "--steps",
        "25",
        "--output",
        tmp_path / "out",
        "--board",
        "emulated:n150",
    ]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 0, result.stderr
    video, evaluation, plot = (Path(line) for line in result.stdout.splitlines()[-3:])
    metrics = evaluation / "eval_info.json"
    assert video.suffix == ".mp4"
    assert video.stat().st_size > 1000
    assert "avg_sum_reward" in json.loads(metrics.read_text())["overall"]
    assert plot.read_bytes().startswith(b"\x89PNG")
    recording = read_recording(tmp_path / "out" / "recording.jsonl")
    assert len(recording.actions) == 25
    assert [tick for _, tick, _ in recording.chunks] == [0, 10, 20]
    for _, tick, action in recording.actions:
        assert torch.equal(action, recording.chunks[tick // 10][2][:, tick % 10])


def test_demo_without_gl_names_the_package():
    with pytest.raises(OSError, match=r"MUJOCO_GL=nothing .*libegl1 .*demo --env pusht") as error:
        check_gl(dict(os.environ) | {"MUJOCO_GL": "nothing"})
    assert "invalid value for environment variable" in str(error.value)  # MuJoCo's own words


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "fly-v3"], r"--task: unknown to MetaWorld: fly-v3; it has assembly-v3, "),
        (["--steps", "10"], r"--steps: LeRobot's MetaWorld ends an episode when the task is done, or after 500"),
        (["--checkpoint", "nowhere"], r"--checkpoint: expected a folder with config.json, got nowhere"),
        (["--episodes", "0"], r"--episodes: expected at least 1, got 0"),
    ],
)
def test_demo_rejects(arguments, message, capsys):
    assert main(["demo", *arguments, "--prepare-only"]) == 1
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize("model", MODELS)
def test_demo_on_aloha_is_prepared(model, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)  # of a machine, or of another test's simulation
    assert main(["demo", "--model", model, "--env", "aloha", "--prepare-only", "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "MUJOCO_GL=egl" in printed
    stats = load_file(next((tmp_path / "checkpoint").glob("policy_postprocessor*.safetensors")))
    assert stats["action.mean"].tolist()[:3] == pytest.approx([0, -0.96, 1.16])
    assert main(["info", str(tmp_path / "checkpoint"), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert (info["policy_type"], info["problems"], info["warnings"]) == (f"{model}_ttnn", [], [])


@pytest.mark.parametrize("model", MODELS)
def test_unmodified_lerobot_policy_under_lerobot_eval(tmp_path, model):
    recording = run_eval(
        tmp_path,
        f"--discover_packages_path=lerobot_pi0_ttnn.plugins.as_{model}",
        f"--policy.path={save_for_pusht(make_pusht_policy(model), tmp_path / 'saved')}",
        "--policy.backend=torch",
        "--policy.architecture=tiny",
    )
    assert len(recording.actions) == 12
    assert [tick for _, tick, _ in recording.chunks] == [0, 4, 8]


@pytest.mark.parametrize("model", MODELS)
def test_policy_type_and_pretrained_path(tmp_path, model):
    """LeRobot ignores the checkpoint's config here; ours takes its 4 action steps from it all the same."""
    recording = run_eval(
        tmp_path,
        f"--policy.type={model}_ttnn",
        f"--policy.pretrained_path={save_for_pusht(make_pusht_policy(model), tmp_path / 'saved')}",
        "--policy.backend=torch",
        "--policy.architecture=tiny",
    )
    assert [tick for _, tick, _ in recording.chunks] == [0, 4, 8]


@pytest.mark.parametrize("model", of_each("ttnn"))
def test_lerobot_eval_on_both_backends(tmp_path, model):
    """The same checkpoint, seed and so noise: the executed actions agree, as closely as bfloat16 and bfloat8_b allow.

    After the first chunk the two robots stand apart by as much, so the second is of slightly other observations.
    """
    make_demo_checkpoint(tmp_path / "checkpoint", "pusht", model)
    path = f"--policy.path={tmp_path / 'checkpoint'}"
    on_torch = run_eval(tmp_path, path, "--policy.backend=torch")
    on_ttnn = run_eval(
        tmp_path, path, "--policy.board=emulated:n150", f"--policy.weight_cache_dir={tmp_path / 'cache'}"
    )
    assert [tick for _, tick, _ in on_ttnn.chunks] == [tick for _, tick, _ in on_torch.chunks] == [0, 10]
    got, want = (torch.cat([action for _, _, action in run.actions]) for run in (on_ttnn, on_torch))
    assert not torch.equal(got, want)
    assert_quality(got, want, pcc=0.995, rel_rmse=0.1)
