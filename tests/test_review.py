"""What is said of a checkpoint that something is wrong with: by load, `info`, `doctor` and `serve`, in the same words."""

import json
import logging
import pickle
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
import torch
from lerobot.async_inference.configs import PolicyServerConfig
from lerobot.async_inference.helpers import RemotePolicyConfig, TimedObservation
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import AlohaEnv
from lerobot.policies.factory import make_policy, make_pre_post_processors
from lerobot.transport import services_pb2
from lerobot.utils.feature_utils import hw_to_dataset_features

from lerobot_pi0_ttnn import PI0TTNNPolicy, load_policy
from lerobot_pi0_ttnn.checkpoint.files import CheckpointSource
from lerobot_pi0_ttnn.cli import main
from lerobot_pi0_ttnn.cli.plot import unnormalised
from lerobot_pi0_ttnn.config_loading import load_config
from lerobot_pi0_ttnn.recording import read_recording
from lerobot_pi0_ttnn.review import review
from tests.broken_checkpoints import (
    NAMES,
    OF_PI05,
    PROMPT,
    RELATIVE_ACTIONS,
    STATISTICS,
    copy_of,
    of_lerobot_0_3,
    relative,
    rename_map,
    set_widths,
    wide,
    with_stats,
)
from tests.models import MODELS
from tests.oracle import make_batch, make_noise
from tests.robots import CAMERAS, JOINTS, STATS, save_robot_checkpoints

CASES = {
    **{("pi0", name): case for name, case in (STATISTICS | RELATIVE_ACTIONS | NAMES | PROMPT).items()},
    **{("pi05", name): case for name, case in OF_PI05.items()},
}


@pytest.fixture(scope="module")
def goods(tmp_path_factory):
    return save_robot_checkpoints(tmp_path_factory.mktemp("good"))


@pytest.fixture
def model():
    """Which one the checkpoint is of, where a test does not say."""
    return "pi0"


@pytest.fixture
def good(goods, model):
    return goods[model]


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # LeRobot's server keeps a log there
    from lerobot_pi0_ttnn.cli.serve.policy_server import PI0TTNNPolicyServer

    server = PI0TTNNPolicyServer(PolicyServerConfig(obs_queue_timeout=0.01), ["--warm_up=false"])
    yield server
    server.close()


class AbortedError(Exception):
    """What the client gets instead of an answer."""


class Context:
    """What gRPC hands to a servicer."""

    def peer(self) -> str:
        return "client"

    def abort(self, code: grpc.StatusCode, details: str) -> None:
        raise AbortedError(details)


def robots_features(joints: int = JOINTS, cameras=CAMERAS) -> dict:
    features = {f"joint_{number}.pos": float for number in range(joints)} | dict.fromkeys(cameras, (48, 64, 3))
    return hw_to_dataset_features(features, "observation", use_video=False)


def connect(server, folder, features=None) -> list[str]:
    """What the client's user reads before the robot moves: the reason why not, or the warnings."""
    policy_type = json.loads((folder / "config.json").read_text())["type"]
    asked = RemotePolicyConfig(policy_type, str(folder), features or robots_features(), 50)
    try:
        server.SendPolicyInstructions(SimpleNamespace(data=pickle.dumps(asked)), Context())
    except AbortedError as error:
        return [str(error)]
    said = []
    for _ in range(20):
        try:
            server.GetActions(services_pb2.Empty(), Context())
            return said
        except AbortedError as error:
            said.append(str(error))
    raise AssertionError(f"the same again and again: {said}")


def observed(degrees: float = 0.0, task: str = "push") -> TimedObservation:
    """What the client sends: all joints at so many degrees, all pictures black."""
    joints = {f"joint_{number}.pos": degrees for number in range(JOINTS)}
    images = {camera: np.zeros((48, 64, 3), np.uint8) for camera in CAMERAS}
    return TimedObservation(timestamp=0.0, timestep=0, observation={**joints, **images, "task": task})


@pytest.mark.parametrize(("model", "name"), CASES)
def test_all_say_the_same(model, name, good, tmp_path, capsys, caplog, server):
    case = CASES[model, name]
    folder = copy_of(good, tmp_path / "pi0")
    case.change(folder)
    (problem,) = (
        p for p in review(load_config(CheckpointSource(folder)), CheckpointSource(folder)) if case.words in str(p)
    )
    assert problem.severity == case.severity
    assert bool(problem.fix) == (case.severity != "note")

    assert main(["info", str(folder), "--json"]) == (case.severity == "error")
    info = json.loads(capsys.readouterr().out)
    assert str(problem) in info[{"error": "problems", "warning": "warnings", "note": "notes"}[case.severity]]

    assert main(["doctor", "--backend", "torch", "--checkpoint", str(folder), "--json"]) == (case.severity == "error")
    findings = json.loads(capsys.readouterr().out)
    status = {"error": "fail", "warning": "warn", "note": "ok"}[case.severity]
    assert (problem.subject, status, problem.message) in [(f["check"], f["status"], f["found"]) for f in findings]

    with caplog.at_level(logging.INFO):
        if case.severity == "error":
            if name != "lerobot-0.3":  # what it says is in there
                (folder / "model.safetensors").unlink()
                (folder / "model.safetensors").write_bytes(b"not read" * 100)
            with pytest.raises(ValueError, match="this checkpoint cannot run") as refusal:
                load_policy(folder)
            assert str(problem) in str(refusal.value)
        else:
            load_policy(folder, warm_up=False)
            logged = [record for record in caplog.records if str(problem) in record.getMessage()]
            assert [record.levelname for record in logged] == [{"warning": "WARNING", "note": "INFO"}[case.severity]]

    said = connect(server, folder)
    if case.severity == "note":
        assert not any(str(problem) in text for text in said)
    else:
        assert [text for text in said if str(problem) in text], said


@pytest.mark.parametrize("model", MODELS)
def test_a_good_one(good, server, caplog, capsys):
    assert review(load_config(CheckpointSource(good)), CheckpointSource(good)) == []
    assert main(["info", str(good), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["problems"] == info["warnings"] == info["notes"] == []
    with caplog.at_level(logging.WARNING):
        load_policy(good, warm_up=False)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert connect(server, good) == []


@pytest.mark.parametrize("widths", [{"state": 32}, {"state": 32, "action": 32}, {"state": 14, "action": 32}], ids=str)
@pytest.mark.parametrize("model", MODELS)
def test_the_statistics_say_how_many_joints(widths, good, tmp_path, server, capsys):
    """The config of a fine-tune of pi0_base keeps the base's widths; it gives what the one that says 6 gives."""
    folder = copy_of(good, tmp_path / "pi0")
    set_widths(folder, **widths)
    policy = load_policy(folder, warm_up=False)
    batch = make_batch(cameras=CAMERAS, state_dim=JOINTS)
    got = policy.predict_action_chunk(batch, noise=make_noise())
    want = load_policy(good, warm_up=False).predict_action_chunk(batch, noise=make_noise())
    assert got.shape == (2, 50, JOINTS)
    assert torch.equal(got, want)
    _, postprocess = make_pre_post_processors(policy.config, str(folder))
    assert postprocess(got[:, 0]).shape == (2, JOINTS)
    policy.save_pretrained(tmp_path / "saved")
    assert load_config(CheckpointSource(tmp_path / "saved")).action_feature.shape == (JOINTS,)

    main(["info", str(folder), "--json"])
    info = json.loads(capsys.readouterr().out)
    assert (info["state_dim"], info["action_dim"]) == (JOINTS, JOINTS)
    said = connect(server, folder)
    assert len(said) == len(widths)
    assert all("which is what counts" in text for text in said)
    (refusal,) = connect(server, folder, robots_features(joints=7))
    assert "trained with a state of 6 values, the robot has 7" in refusal


def test_an_environment_with_other_joints(good):
    """LeRobot writes the environment's widths into the config; actions of 6 cannot become its 7."""
    environment = AlohaEnv()
    environment.features["action"] = PolicyFeature(FeatureType.ACTION, (7,))
    config = load_config(CheckpointSource(good))
    config.pretrained_path = good
    with pytest.raises(ValueError, match="action: the policy is to give 7 values, the statistics are of 6"):
        make_policy(config, env_cfg=environment, rename_map={"a": "b"})


class TestRenaming:
    """A checkpoint whose preprocessor renames the robot's `top` to its own `front`: the picture must arrive on each path."""

    @pytest.fixture
    def folder(self, good, tmp_path):
        folder = copy_of(good, tmp_path / "pi0")
        rename_map(folder, top="front")
        return folder

    @pytest.fixture
    def raw(self):
        generator = torch.Generator().manual_seed(1)
        images = {
            f"observation.images.{name}": torch.rand(1, 3, 48, 64, generator=generator) for name in ("top", "wrist")
        }
        return {**images, "observation.state": torch.zeros(1, JOINTS), "task": ["push"]}

    @pytest.fixture
    def want(self, good, raw):
        raw = {key.replace("top", "front"): value for key, value in raw.items()}
        policy = PI0TTNNPolicy.from_pretrained(good, warm_up=False)
        return policy.predict_action_chunk(
            make_pre_post_processors(policy.config, str(good))[0](raw), noise=make_noise(1)
        )

    def test_eval(self, folder, raw, want):
        """What lerobot-eval does: its --rename_map, empty by default, replaces the saved one."""
        environment = AlohaEnv()  # its camera is `top`
        environment.features["action"] = PolicyFeature(FeatureType.ACTION, (JOINTS,))
        config = load_config(CheckpointSource(folder))
        config.pretrained_path = folder
        policy = make_policy(config, env_cfg=environment, rename_map={})
        overrides = {"rename_observations_processor": {"rename_map": {}}}
        preprocess, _ = make_pre_post_processors(config, str(folder), preprocessor_overrides=overrides)
        assert torch.equal(policy.predict_action_chunk(preprocess(raw), noise=make_noise(1)), want)

    def test_with_the_saved_pipeline(self, folder, raw, want):
        policy = PI0TTNNPolicy.from_pretrained(folder, warm_up=False)
        preprocess, _ = make_pre_post_processors(policy.config, str(folder))
        assert torch.equal(policy.predict_action_chunk(preprocess(raw), noise=make_noise(1)), want)

    def test_a_robot_with_the_checkpoints_names(self, folder, raw, want):
        policy = PI0TTNNPolicy.from_pretrained(folder, warm_up=False)
        raw = {key.replace("top", "front"): value for key, value in raw.items()}
        preprocess, _ = make_pre_post_processors(policy.config, str(folder))
        assert torch.equal(policy.predict_action_chunk(preprocess(raw), noise=make_noise(1)), want)

    def test_saved_and_loaded_again(self, folder, tmp_path):
        policy = PI0TTNNPolicy.from_pretrained(folder, warm_up=False)
        policy.save_pretrained(tmp_path / "saved")
        again = PI0TTNNPolicy.from_pretrained(tmp_path / "saved", warm_up=False)
        assert again.config.input_features == policy.config.input_features
        assert again.config.camera_aliases == {"observation.images.top": "observation.images.front"}
        assert list(again.config.image_features) == [f"observation.images.{camera}" for camera in CAMERAS]

    def test_serve(self, folder, server):
        assert connect(server, folder, robots_features(cameras=("top", "wrist"))) == []
        renaming = server.preprocessor.steps[0]
        assert renaming.rename_map == {"observation.images.top": "observation.images.front"}

    def test_serve_compares_after_renaming(self, folder, server):
        (refusal,) = connect(server, folder, robots_features(cameras=("up", "wrist")))
        assert "trained with the cameras observation.images.front" in refusal
        (refusal,) = connect(server, folder, robots_features(cameras=("top", "front")))
        assert "observation.images.top, observation.images.front of the robot are all taken for" in refusal

    def test_info(self, folder, capsys):
        assert main(["info", str(folder)]) == 0
        assert "observation.images.top -> observation.images.front" in capsys.readouterr().out


class TestPrompt:
    """The stand-in tokenizer has a token for each byte: 46 letters, the first token and the line break are 48."""

    @pytest.fixture
    def policy(self, good):
        return PI0TTNNPolicy.from_pretrained(good, warm_up=False, num_inference_steps=1)

    @pytest.fixture
    def run(self, good, policy, caplog):
        """Runs prompts through the saved pipeline and the policy, and returns the warnings."""
        preprocess, _ = make_pre_post_processors(policy.config, str(good))

        def run(*tasks: str) -> list[str]:
            batch = {f"observation.images.{camera}": torch.zeros(len(tasks), 3, 48, 64) for camera in CAMERAS}
            caplog.clear()
            policy.predict_action_chunk(
                preprocess({**batch, "observation.state": torch.zeros(len(tasks), JOINTS), "task": list(tasks)})
            )
            return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]

        return run

    def test_cut(self, run):
        (warning,) = run("a" * 47)
        assert f"the prompt '{'a' * 47}' was cut at 48 tokens" in warning

    @pytest.mark.parametrize("task", ["a" * 46, "push", "two\nlines", "a" * 45 + "\n", "a" * 20 + "\n" + "b" * 25])
    def test_whole(self, run, task):
        assert run(task) == []

    def test_cut_at_a_line_break(self, run):
        """The tokens alone look like those of a whole prompt."""
        (warning,) = run("a" * 46 + "\n" + "and then the other")
        assert "was cut at 48 tokens" in warning

    def test_each_once_and_by_row(self, run):
        assert len(run("a" * 60, "push")) == 1
        assert run("a" * 60, "push") == []
        assert len(run("push", "b" * 60)) == 1

    def test_serve_tells_the_client_once(self, good, server):
        assert connect(server, good) == []
        server._predict_action_chunk(observed(task="a" * 60))
        with pytest.raises(AbortedError, match="warning, the robot moves all the same: the prompt 'aaa"):
            server.GetActions(services_pb2.Empty(), Context())
        server._predict_action_chunk(observed(task="a" * 60))
        server.GetActions(services_pb2.Empty(), Context())


def test_convert_says_what_is_left_and_mends_what_it_can(good, tmp_path, caplog):
    """Statistics from the weights of LeRobot 0.3, of a joint that never moved; the base model's widths in the config."""
    folder = copy_of(good, tmp_path / "old")
    STATISTICS["zero-state"].change(folder)
    of_lerobot_0_3(folder)
    set_widths(folder, state=32, action=32)
    tokenizer = str(good / "tokenizer")
    assert main(["convert", str(folder), str(tmp_path / "new"), "--tokenizer", tokenizer]) == 0
    assert "observation.state: std is 0, or next to it, for value 5" in caplog.text
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    assert config["input_features"]["observation.state"]["shape"] == [JOINTS]
    assert config["output_features"]["action"]["shape"] == [JOINTS]


class TestPromptOfPI05:
    """The state in it is another at each tick; with a task of 160 letters 200 bytes do not hold it."""

    @pytest.fixture
    def model(self):
        return "pi05"

    def test_serve_tells_of_the_cut_once(self, good, server, caplog):
        assert connect(server, good) == []
        task, caught = "a" * 160, []
        for degrees in range(3):
            server._predict_action_chunk(observed(degrees / 3, task=task))
            try:
                server.GetActions(services_pb2.Empty(), Context())
            except AbortedError as error:
                caught.append(str(error))
        (told,) = caught
        assert f"the robot moves all the same: the prompt 'Task: {task}' was cut at 200 tokens" in told
        assert caplog.text.count("was cut at") == 1

    def test_whole(self, good, server):
        assert connect(server, good) == []
        server._predict_action_chunk(observed(0.5, task="a" * 100))
        server.GetActions(services_pb2.Empty(), Context())

    def test_a_sensor_that_fails(self, good, server):
        """The bins would hide it: NaN is the last one."""
        assert connect(server, good) == []
        with pytest.raises(ValueError, match=r"observation\.state: holds NaN or infinity in row"):
            server._predict_action_chunk(observed(float("nan")))

    def test_a_robot_of_more_joints_than_pi0_takes(self, good, tmp_path):
        folder = copy_of(good, tmp_path / "pi05")
        wide(40, JOINTS)(folder)  # 2.0 throughout
        with_stats(state_q01=1.0, action_q01=1.0)(folder)
        policy = load_policy(folder, warm_up=False, num_inference_steps=1)
        assert policy.config.robot_state_feature.shape == (40,)
        preprocess, _ = make_pre_post_processors(policy.config, str(folder))
        images = {f"observation.images.{camera}": torch.zeros(1, 3, 48, 64) for camera in CAMERAS}
        batch = preprocess({**images, "observation.state": torch.full((1, 40), 1.5), "task": ["push"]})
        assert batch["task"][0].count(" 128") == 40
        assert policy.predict_action_chunk(batch).shape == (1, 50, JOINTS)


@pytest.mark.parametrize("model", MODELS)
class TestRelativeActions:
    """An arm that has moved by 90 degrees when the second action is due, by LeRobot's own pipelines."""

    @pytest.fixture
    def folder(self, good, tmp_path):
        folder = copy_of(good, tmp_path / "pi0")
        relative(folder)
        return folder

    def test_one_action_per_tick_is_refused(self, folder):
        policy = load_policy(folder, warm_up=False)
        with pytest.raises(RuntimeError, match=r"the arm drifts: run lerobot-rollout --inference\.type=rtc"):
            policy.select_action(make_batch(cameras=CAMERAS, state_dim=JOINTS))

    def test_the_processors_count(self, folder):
        relative(folder, config=False)
        policy = load_policy(folder, warm_up=False)
        with pytest.raises(RuntimeError, match="the arm drifts"):
            policy.select_action(make_batch(cameras=CAMERAS, state_dim=JOINTS))

    def test_a_chunk_for_each_action_does_not_drift(self, folder):
        policy = load_policy(folder, warm_up=False, n_action_steps=1, num_inference_steps=1)
        preprocess, postprocess = make_pre_post_processors(policy.config, str(folder))
        images = {f"observation.images.{camera}": torch.zeros(1, 3, 48, 64) for camera in CAMERAS}
        for degrees in (0.0, 90.0):
            state = torch.full((1, JOINTS), degrees)
            batch = preprocess({**images, "observation.state": state, "task": ["push"]})
            torch.manual_seed(0)
            got = postprocess(policy.select_action(batch))
            torch.manual_seed(0)
            offsets = policy.predict_action_chunk(batch)[:, 0] * STATS["action"]["std"] + STATS["action"]["mean"]
            assert (got - (state + offsets)).abs().max() < 1e-3

    def test_serve_is_right(self, folder, server):
        """Every action of a chunk is relative to the state that the chunk was computed from."""
        assert connect(server, folder) == []
        chunks = {}
        for degrees in (0.0, 90.0):
            torch.manual_seed(0)
            timed = server._predict_action_chunk(observed(degrees))
            chunks[degrees] = torch.stack([action.get_action() for action in timed])
        state = torch.full((JOINTS,), 90.0)
        batch = server.preprocessor(
            {
                "observation.state": state[None],
                **{f"observation.images.{camera}": torch.zeros(1, 3, 48, 64) for camera in CAMERAS},
                "task": "push",
            }
        )
        torch.manual_seed(0)
        offsets = server.policy.predict_action_chunk(batch)[0] * STATS["action"]["std"] + STATS["action"]["mean"]
        assert (chunks[90.0] - (state + offsets)).abs().max() < 1e-2
        assert (chunks[90.0] - chunks[0.0]).abs().max() > 1

    def test_the_other_subcommands(self, folder, tmp_path, capsys):
        assert main(["bench", str(folder), "--backends", "torch", "--chunks", "1", "--steps", "1"]) == 0
        assert main(["convert", str(folder), str(tmp_path / "new"), "--tokenizer", str(folder / "tokenizer")]) == 0
        capsys.readouterr()
        assert main(["info", str(tmp_path / "new")]) == 0
        assert "note: relative actions: " in capsys.readouterr().out

    def test_plot(self, folder, tmp_path):
        recording = tmp_path / "run.jsonl"
        policy = load_policy(folder, warm_up=False, n_action_steps=1, num_inference_steps=1, recording_path=recording)
        policy.select_action(make_batch(batch=1, lengths=(10,), cameras=CAMERAS, state_dim=JOINTS))
        assert main(["plot", str(recording), "--checkpoint", str(folder), "-o", str(tmp_path / "run.png")]) == 0
        assert (tmp_path / "run.png").stat().st_size > 1000
        plotted, unit = unnormalised(read_recording(recording), str(folder))
        raw = read_recording(recording).chunks[0][2]
        assert "relative" in unit
        assert torch.allclose(plotted.chunks[0][2], raw * STATS["action"]["std"] + STATS["action"]["mean"], atol=1e-4)


def test_a_data_sets_statistics_are_looked_at_too(good):
    config = load_config(CheckpointSource(good))
    config.tokenizer_name = str(good / "tokenizer")
    with pytest.raises(ValueError, match=r"these cannot be right\.\n.*action: MEAN_STD needs mean and std, got mean"):
        make_pre_post_processors(config, dataset_stats=STATS | {"action": {"mean": STATS["action"]["mean"]}})
