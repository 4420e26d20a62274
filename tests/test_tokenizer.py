"""Tokenizers: what is said to be here loads, what will not is said before weights are read, and a checkpoint can be moved."""

import json
import pickle
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lerobot.policies.factory import make_pre_post_processors
from lerobot.processor import PolicyProcessorPipeline

from lerobot_pi0_ttnn import PI0TTNNConfig, PI0TTNNPolicy
from lerobot_pi0_ttnn.checkpoint.tokenizer import FETCH, PALIGEMMA, inspect_tokenizer
from lerobot_pi0_ttnn.cli import main
from lerobot_pi0_ttnn.demo.stand_in import make_demo_checkpoint
from lerobot_pi0_ttnn.demo.tokenizer import make_tokenizer
from lerobot_pi0_ttnn.processor_pi0_ttnn import tokenizer_of
from tests.checkpoints import edit_json, hub_cache, save_lerobot_checkpoint
from tests.oracle import make_lerobot_policy

TINY = ["--set", "architecture=tiny", "--set", "backend=torch"]
PREPROCESSOR = "policy_preprocessor.json"
CPU = {"preprocessor_overrides": {"device_processor": {"device": "cpu"}}}


@pytest.fixture(autouse=True)
def hub(monkeypatch, tmp_path):
    """An empty Hub cache, and no network."""
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    return cache


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What `lerobot-train` leaves: the tokenizer's folder is named by its absolute path."""
    return save_lerobot_checkpoint(make_lerobot_policy(), tmp_path_factory.mktemp("trained"))


@pytest.fixture
def tokenizer(tmp_path):
    make_tokenizer(tmp_path / "some tokenizer")
    return tmp_path / "some tokenizer"


def name_tokenizer(checkpoint: Path, name: str, **artifacts) -> Path:
    """Lets a checkpoint's preprocessor name another tokenizer."""
    path = checkpoint / PREPROCESSOR
    pipeline = json.loads(path.read_text())
    step = next(step for step in pipeline["steps"] if step["registry_name"] == "tokenizer_processor")
    step["config"]["tokenizer_name"] = name
    step.pop("artifacts", None)
    step |= artifacts
    path.write_text(json.dumps(pipeline))
    return checkpoint


def tokens(checkpoint, **settings) -> list[int]:
    """The ids of a prompt, through LeRobot's own function."""
    config = PI0TTNNConfig.from_pretrained(checkpoint)
    preprocess, _ = make_pre_post_processors(config, str(checkpoint), **CPU, **settings)
    batch = preprocess({"observation.state": torch.zeros(14), "task": "go"})
    return batch["observation.language.tokens"][0, :5].tolist()


PROMPT = [2, 74, 82, 108, 0]
"""<bos>, g, o, the newline and padding, by the tokenizer of the demo."""


class TestHubCache:
    def test_tokenizer_files_alone_are_enough(self, trained, tokenizer, hub, tmp_path):
        """transformers 5 asks for config.json before it looks for a tokenizer, and a tokenizer's files have none."""
        hub_cache(hub, PALIGEMMA, tokenizer)
        checkpoint = name_tokenizer(shutil.copytree(trained, tmp_path / "copy"), PALIGEMMA)
        state = inspect_tokenizer(PALIGEMMA, vocab_size=512, is_paligemma=True)
        assert (state.is_here, state.problem) == (True, "")
        assert tokens(checkpoint) == PROMPT

    @pytest.mark.parametrize(
        "files",
        [[], ["tokenizer_config.json"], ["config.json"], ["config.json", "tokenizer_config.json"]],
        ids=lambda files: "+".join(files) or "nothing",
    )
    def test_what_does_not_load_is_not_here(self, trained, tokenizer, hub, tmp_path, files):
        (tokenizer / "config.json").write_text(json.dumps({"model_type": "paligemma"}))
        part = tmp_path / "part"
        part.mkdir()
        for file in files:
            shutil.copy(tokenizer / file, part)
        hub_cache(hub, PALIGEMMA, part)
        state = inspect_tokenizer(PALIGEMMA)
        assert not state.is_here
        assert state.problem.startswith(f"{PALIGEMMA}: it is not, or not whole, in the Hub's cache")
        checkpoint = name_tokenizer(shutil.copytree(trained, tmp_path / "copy"), PALIGEMMA)
        with pytest.raises(ValueError, match="tokenizer: google/paligemma-3b-pt-224: it is not, or not whole"):
            tokens(checkpoint)

    @pytest.mark.parametrize(
        ("files", "problem"),
        [(["tokenizer.json"], ""), (["model.safetensors"], "me/model: this repository holds no tokenizer")],
    )
    def test_one_that_could_be_fetched(self, monkeypatch, files, problem):
        """The Hub's two answers are made up."""
        from huggingface_hub import HfApi

        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr(HfApi, "auth_check", lambda self, name: None)
        monkeypatch.setattr(HfApi, "list_repo_files", lambda self, name: files)
        state = inspect_tokenizer("me/model")
        assert (state.is_here, state.problem) == (False, problem)

    def test_the_advised_download_fetches_what_is_needed(self, monkeypatch, tokenizer, hub):
        """The command is run by huggingface_hub's own command line, with the download replaced."""
        from click.testing import CliRunner
        from huggingface_hub.cli import download
        from huggingface_hub.cli.hf import app

        wanted = []
        monkeypatch.setattr(download, "snapshot_download", lambda **named: wanted.append(named) or str(hub))
        command = next(part for part in inspect_tokenizer(PALIGEMMA).fix.split("`") if part.startswith("hf download"))
        assert CliRunner().invoke(app, shlex.split(command)[1:]).exit_code == 0
        assert wanted[0]["repo_id"] == PALIGEMMA
        assert {"config.json", "tokenizer.json", "tokenizer_config.json"} <= set(wanted[0]["allow_patterns"])
        assert FETCH in command


class TestMoving:
    """A checkpoint that is copied elsewhere, its former place gone."""

    @pytest.fixture
    def bare(self, trained, tokenizer, tmp_path):
        """As `lerobot-train` leaves it, its tokenizer outside of it, in a folder with other things."""
        folder = shutil.copytree(trained, tmp_path / "bare")
        shutil.rmtree(folder / "tokenizer")
        (tokenizer / "model-00001-of-00003.safetensors").write_bytes(b"11 GB")
        return name_tokenizer(folder, str(tokenizer))

    def moved(self, *folders: Path) -> Path:
        """The last folder under another name, and no other one."""
        elsewhere = folders[-1].rename(folders[-1].parent / "another machine")
        for folder in folders[:-1]:
            shutil.rmtree(folder)
        return elsewhere

    @pytest.mark.parametrize("named", [[], ["--tokenizer", "TOKENIZER"]], ids=["its own", "another"])
    def test_a_converted_checkpoint(self, bare, tokenizer, tmp_path, monkeypatch, named):
        monkeypatch.chdir(tmp_path)
        arguments = [tokenizer.name if argument == "TOKENIZER" else argument for argument in named]
        assert main(["convert", str(bare), "ours", *TINY, *arguments]) == 0
        ours = self.moved(bare, tokenizer, tmp_path / "ours")
        assert sorted(file.name for file in (ours / "tokenizer").iterdir()) == [
            "tokenizer.json",
            "tokenizer_config.json",
        ]
        for file in ours.rglob("*.json"):
            assert str(tmp_path) not in file.read_text(), file
        assert tokens(ours) == PROMPT
        assert tokens(ours.name) == PROMPT  # as a relative path
        assert main(["info", str(ours)]) == 0

    def test_a_converted_checkpoint_without_processors(self, bare, tokenizer, tmp_path):
        for file in bare.glob("policy_*"):
            file.unlink()
        assert main(["convert", str(bare), str(tmp_path / "ours"), *TINY, "--tokenizer", str(tokenizer)]) == 0
        assert tokens(self.moved(bare, tokenizer, tmp_path / "ours")) == PROMPT

    def test_the_demo(self, tmp_path):
        make_demo_checkpoint(tmp_path / "demo", "pusht")
        demo = self.moved(tmp_path / "demo")
        for file in demo.rglob("*.json"):
            assert str(tmp_path) not in file.read_text(), file
        config = PI0TTNNConfig.from_pretrained(demo)
        preprocess, _ = make_pre_post_processors(config, str(demo))
        batch = preprocess({"observation.state": torch.zeros(2), "task": "go"})
        assert batch["observation.language.tokens"][0, :5].tolist() == PROMPT

    def test_from_the_hub(self, bare, tmp_path, hub):
        main(["convert", str(bare), str(tmp_path / "ours"), *TINY])
        hub_cache(hub, "me/pi0", tmp_path / "ours")
        assert tokens("me/pi0") == PROMPT

    def test_what_was_loaded_is_saved_whole(self, bare, tokenizer, tmp_path):
        """Policy and processors, saved and made anew from the policy's config, saved elsewhere and moved."""
        main(["convert", str(bare), str(tmp_path / "ours"), *TINY])
        policy = PI0TTNNPolicy.from_pretrained(tmp_path / "ours")
        pipelines = make_pre_post_processors(policy.config, str(tmp_path / "ours"), **CPU)
        anew = make_pre_post_processors(policy.config)
        for name, saved in (("again", pipelines), ("anew", anew)):
            policy.save_pretrained(tmp_path / name)
            for pipeline in saved:
                pipeline.save_pretrained(tmp_path / name)
        shutil.rmtree(tokenizer)
        shutil.rmtree(tmp_path / "ours")
        for name in ("again", "anew"):
            assert str(tmp_path) not in (tmp_path / name / PREPROCESSOR).read_text()
            assert tokens(self.moved(tmp_path / name)) == PROMPT
            shutil.rmtree(tmp_path / "another machine")


class TestArtifacts:
    """Checkpoints of LeRobot's main after 0.6.1, whose step names its tokenizer as one of its artifacts."""

    @pytest.fixture
    def checkpoint(self, trained, tmp_path):
        folder = shutil.copytree(trained, tmp_path / "main")
        return name_tokenizer(folder, "tokenizer", artifacts={"tokenizer_name": "tokenizer"})

    def test_it_is_the_checkpoints_own(self, checkpoint, tmp_path, monkeypatch):
        """Not that of the working directory, which has the same name."""
        monkeypatch.chdir(tmp_path)
        make_tokenizer(tmp_path / "tokenizer")
        (tmp_path / "tokenizer" / "tokenizer.json").write_text("another's")
        assert tokens(checkpoint) == PROMPT
        assert tokens(name_tokenizer(checkpoint, "./tokenizer")) == PROMPT  # written by hand

    def test_every_way_in_reads_it(self, checkpoint, capsys):
        """With what else main writes; through this package's commands and through `plugins.as_pi0`."""
        edit_json(checkpoint / "config.json", rtc_config={"enabled": False, "mode": "guided"})
        policy = PI0TTNNPolicy.from_pretrained(checkpoint, architecture="tiny", backend="torch")
        assert tokenizer_of(policy.config) == PALIGEMMA  # the processors name their own
        assert main(["convert", str(checkpoint), str(checkpoint / "ours"), *TINY]) == 0
        for command in (
            ["info", str(checkpoint / "ours")],
            ["doctor", "--backend=torch", "--checkpoint", str(checkpoint / "ours")],
        ):
            assert main(command) == 0
        program = (
            "import sys, lerobot_pi0_ttnn.plugins.as_pi0; from lerobot.configs import PreTrainedConfig; "
            "config = PreTrainedConfig.from_pretrained(sys.argv[1]); print(type(config).__name__, config.rtc_config.enabled)"
        )
        result = subprocess.run(
            [sys.executable, "-c", program, str(checkpoint)], capture_output=True, text=True, check=False
        )
        assert result.stdout.split() == ["PI0TTNNConfig", "False"], result.stderr

    def test_the_declared_folder_counts(self, checkpoint):
        """As in main, where the step's settings name another."""
        name_tokenizer(checkpoint, "/elsewhere", artifacts={"tokenizer_name": "tokenizer"})
        assert tokens(checkpoint) == PROMPT

    def test_through_lerobots_pi0_type(self, checkpoint):
        """`plugins.as_pi0`, and LeRobot's own policy where this package is installed, load the same pipeline."""
        pipeline = PolicyProcessorPipeline.from_pretrained(
            checkpoint, PREPROCESSOR, overrides=CPU["preprocessor_overrides"]
        )
        batch = pipeline({"observation.state": torch.zeros(14), "task": "go"})
        assert batch["observation.language.tokens"][0, :5].tolist() == PROMPT

    def test_an_override_wins(self, checkpoint, tokenizer):
        overrides = {"device_processor": {"device": "cpu"}, "tokenizer_processor": {"tokenizer_name": str(tokenizer)}}
        shutil.rmtree(checkpoint / "tokenizer")
        pipeline = PolicyProcessorPipeline.from_pretrained(checkpoint, PREPROCESSOR, overrides=overrides)
        assert pipeline.get_config()["steps"][3]["config"]["tokenizer_name"] == str(tokenizer)
        assert overrides["tokenizer_processor"] == {"tokenizer_name": str(tokenizer)}

    @pytest.mark.parametrize("where", ["../tokenizer", "/tokenizer"])
    def test_it_does_not_leave_the_checkpoint(self, checkpoint, where):
        name_tokenizer(checkpoint, where, artifacts={"tokenizer_name": where})
        with pytest.raises(FileNotFoundError, match="expected its tokenizer in a folder of the checkpoint"):
            tokens(checkpoint)

    def test_one_that_is_absent(self, checkpoint):
        shutil.rmtree(checkpoint / "tokenizer")
        with pytest.raises(FileNotFoundError, match="folder tokenizer, which is absent: the checkpoint is not whole"):
            tokens(checkpoint)

    def test_is_downloaded_with_a_hub_checkpoint(self, checkpoint, hub, monkeypatch, tmp_path):
        """What is asked of the Hub; the network is played by the copy that it makes."""
        rest = shutil.copytree(checkpoint, tmp_path / "rest", ignore=shutil.ignore_patterns("tokenizer"))
        hub_cache(hub, "me/pi0", rest, revision="v1")
        asked = []

        def snapshot_download(repo, *, revision, allow_patterns, **named):
            asked.append((repo, revision, allow_patterns))
            snapshot = next((hub / "models--me--pi0" / "snapshots").iterdir())
            shutil.copytree(checkpoint / "tokenizer", snapshot / "tokenizer")
            return snapshot

        monkeypatch.setattr("lerobot_pi0_ttnn.checkpoint.files.snapshot_download", snapshot_download)
        pipeline = PolicyProcessorPipeline.from_pretrained(
            "me/pi0", PREPROCESSOR, revision="v1", overrides=CPU["preprocessor_overrides"]
        )
        batch = pipeline({"observation.state": torch.zeros(14), "task": "go"})
        assert batch["observation.language.tokens"][0, :5].tolist() == PROMPT
        assert asked == [("me/pi0", "v1", "tokenizer/*")]


def vocabulary_of(tokenizer: Path, size: int) -> None:
    """Gives a tokenizer tokens up to an id."""
    path = tokenizer / "tokenizer.json"
    saved = json.loads(path.read_text())
    saved["model"]["vocab"] |= {f"token {number}": number for number in range(len(saved["model"]["vocab"]), size)}
    path.write_text(json.dumps(saved))


def added_beyond_the_table(tokenizer: Path) -> None:
    """As PaliGemma's own <image>, which has the id 257152 where the table has 257152 rows."""
    vocabulary_of(tokenizer, 512)
    path = tokenizer / "tokenizer.json"
    saved = json.loads(path.read_text())
    image = {"id": 512, "content": "<image>", "special": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    saved["added_tokens"].append(image | flags)
    path.write_text(json.dumps(saved))


class RefusedError(Exception):
    pass


class Client:
    """The robot's end of `serve`."""

    def peer(self) -> str:
        return "robot"

    def abort(self, code, message) -> None:
        raise RefusedError(message)


def ask_server(checkpoint: Path) -> None:
    from lerobot.async_inference.configs import PolicyServerConfig
    from lerobot.async_inference.helpers import RemotePolicyConfig
    from lerobot.transport import services_pb2

    from lerobot_pi0_ttnn.cli.serve.policy_server import PI0TTNNPolicyServer

    features = {f"observation.images.{camera}": {"shape": (8, 8, 3)} for camera in ("front", "wrist", "side")}
    features["observation.state"] = {"names": [f"joint_{number}" for number in range(14)], "shape": (14,)}
    asked = RemotePolicyConfig("pi0_ttnn", str(checkpoint), features, 50, "cpu")
    server = PI0TTNNPolicyServer(PolicyServerConfig(), ["--architecture=tiny", "--backend=torch"])
    server.SendPolicyInstructions(services_pb2.PolicySetup(data=pickle.dumps(asked)), Client())


class TestWhatWillNotLoad:
    """Each way in says the same, and no tensor has been read."""

    @pytest.fixture
    def checkpoint(self, trained, tmp_path, monkeypatch):
        def read(tensors, name):
            raise AssertionError(f"{name} is read")

        main(["convert", str(trained), str(tmp_path / "ours"), *TINY])
        monkeypatch.setattr("lerobot_pi0_ttnn.checkpoint.files.MappedTensors.tensor", read)
        return tmp_path / "ours"

    def sayings(self, checkpoint, capsys) -> dict[str, str]:
        """What load, info, doctor and serve say of it; the first two and the last do not go on."""
        said = {}
        with pytest.raises(ValueError, match="cannot run") as refusal:
            PI0TTNNPolicy.from_pretrained(checkpoint)
        said["load"] = str(refusal.value)
        for command in (["info", str(checkpoint)], ["doctor", "--backend", "torch", "--checkpoint", str(checkpoint)]):
            capsys.readouterr()
            assert main(command) == 1
            said[command[0]] = capsys.readouterr().out
        with pytest.raises(RefusedError) as refused:
            ask_server(checkpoint)
        said["serve"] = str(refused.value)
        return said

    @pytest.mark.parametrize(
        ("name", "problem"),
        [
            ("/home/trainer/tokenizer", "/home/trainer/tokenizer: there is no such folder on this machine"),
            ("~/no such tokenizer", "~/no such tokenizer: there is no such folder on this machine"),
            ("./gone/tokenizer", "./gone/tokenizer: there is no such folder on this machine"),
            ("runs/42/tokenizer", "runs/42/tokenizer: there is no such folder on this machine"),
            ("C:\\Users\\me\\tokenizer", "C:\\Users\\me\\tokenizer: a path of a Windows machine"),
            ("", "its name is empty"),
        ],
    )
    def test_a_folder_that_is_not_here(self, checkpoint, capsys, name, problem):
        name_tokenizer(checkpoint, name)
        for who, said in self.sayings(checkpoint, capsys).items():
            assert problem in said, who
            assert "lerobot-pi0-ttnn convert CKPT DST --tokenizer FOLDER_OR_HUB_ID" in said, who
        with pytest.raises(FileNotFoundError, match=r"Windows|no such folder|empty"):
            tokens(checkpoint)

    @pytest.mark.parametrize(
        ("damage", "problem"),
        [
            (lambda folder: (folder / "tokenizer.json").unlink(), "transformers loads no tokenizer from this folder"),
            (
                lambda folder: (folder / "tokenizer.json").write_text("{"),
                "transformers loads no tokenizer from this folder",
            ),
            (
                lambda folder: (folder / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\n"),
                "a git-lfs pointer, not the file itself",
            ),
            (lambda folder: (folder / "tokenizer_config.json").unlink(), "this tokenizer has no padding token"),
            (lambda folder: vocabulary_of(folder, 513), "expected a tokenizer with ids from 0 to 511"),
            (shutil.rmtree, "should be in the checkpoint's folder tokenizer, which is absent"),
        ],
    )
    def test_a_tokenizer_that_is_not_pi0s(self, checkpoint, capsys, damage, problem):
        damage(checkpoint / "tokenizer")
        for who, said in self.sayings(checkpoint, capsys).items():
            assert problem in said, who

    def test_a_hub_id_that_is_not_here(self, checkpoint, capsys, caplog):
        """The policy itself needs no tokenizer; the server does, and so does whoever asks about this machine."""
        name_tokenizer(checkpoint, PALIGEMMA)
        problem = f"{PALIGEMMA}: it is not, or not whole, in the Hub's cache, and HF_HUB_OFFLINE forbids the network"
        with pytest.raises(AssertionError, match="is read"):
            PI0TTNNPolicy.from_pretrained(checkpoint)
        assert problem in caplog.text
        assert main(["info", str(checkpoint)]) == 0
        assert f"warning: tokenizer: {problem}" in capsys.readouterr().out
        assert main(["doctor", "--backend", "torch", "--checkpoint", str(checkpoint)]) == 1
        assert f"fail  tokenizer        {problem}" in capsys.readouterr().out
        with pytest.raises(RefusedError, match="HF_HUB_OFFLINE forbids the network; accept its terms"):
            ask_server(checkpoint)

    def test_added_tokens_may_lie_beyond_the_table(self, checkpoint):
        added_beyond_the_table(checkpoint / "tokenizer")
        assert inspect_tokenizer("tokenizer", checkpoint, vocab_size=512).problem == ""

    def test_a_strangers_ids_are_a_warning(self, checkpoint):
        path = checkpoint / "tokenizer" / "tokenizer.json"
        saved = json.loads(path.read_text())
        saved["post_processor"] = None  # no <bos>
        path.write_text(json.dumps(saved))
        state = inspect_tokenizer("tokenizer", checkpoint, vocab_size=512, is_paligemma=True)
        assert (
            "expected PaliGemma's tokenizer, with which pi0 is trained, whose ids for a newline are [2, 108]"
            in state.problem
        )
        assert "got [108]" in state.problem
        assert not state.is_fatal

    def test_convert_refuses_it(self, trained, tokenizer, tmp_path, capsys):
        gone = name_tokenizer(shutil.copytree(trained, tmp_path / "gone"), "/home/trainer/tokenizer")
        assert main(["convert", str(gone), str(tmp_path / "ours"), *TINY]) == 1
        assert "tokenizer: /home/trainer/tokenizer: there is no such folder" in capsys.readouterr().err
        assert not (tmp_path / "ours").exists()
        vocabulary_of(tokenizer, 600)
        assert main(["convert", str(gone), str(tmp_path / "ours"), *TINY, "--tokenizer", str(tokenizer)]) == 1
        assert "got ids up to 599: it is another model's" in capsys.readouterr().err
