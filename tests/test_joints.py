"""Which joint an entry of the checkpoint moves: by name on a robot that has its joints in another order, and never unsaid."""

import json
import logging
import sys
from types import SimpleNamespace

import pytest
import torch
import yaml
from lerobot.policies import make_pre_post_processors

from lerobot_pi0_ttnn import PI0TTNNPolicy
from lerobot_pi0_ttnn.cli import main
from lerobot_pi0_ttnn.cli.serve.command import parse_flags
from lerobot_pi0_ttnn.joints import match_joints, names_of_actions
from lerobot_pi0_ttnn.rollout_robot import robot_of_command_line
from tests.checkpoints import edit_json
from tests.processes import FAKE_ROBOT, SEED
from tests.robots import CAMERAS, NAMES, robot_flags, save_robot_checkpoint
from tests.servers import Client, ToldError

SHUFFLED = [NAMES[number] for number in (2, 0, 1, 5, 3, 4)]
OLD = [f"main_{name.removesuffix('.pos')}" for name in NAMES]
SO101 = ("shoulder_pan.pos", "shoulder_lift.pos", "elbow_flex.pos", "wrist_flex.pos", "wrist_roll.pos", "gripper.pos")
AT = dict(zip(NAMES, (0.3, -1.2, 0.7, 2.0, -0.4, 1.1), strict=True))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tmp_path_factory.mktemp("pi0")


@pytest.fixture(scope="module")
def lerobot_policy(checkpoint):
    return save_robot_checkpoint(checkpoint)


@pytest.fixture
def names(request, checkpoint, lerobot_policy):
    """Of the checkpoint's actions, for the test's time."""
    edit_json(checkpoint / "config.json", action_feature_names=request.param)
    yield request.param
    edit_json(checkpoint / "config.json", action_feature_names=list(NAMES))


def named(names):
    return pytest.mark.parametrize("names", [names], indirect=True)


class TestMatch:
    @pytest.mark.parametrize(
        ("trained", "robot", "order"),
        [
            (["a.pos", "b.pos", "c.pos"], ["a.pos", "b.pos", "c.pos"], (0, 1, 2)),
            (["a.pos", "b.pos", "c.pos"], ["c.pos", "a.pos", "b.pos"], (1, 2, 0)),
            (["main_a", "main_b"], ["b.pos", "a.pos"], (1, 0)),
            (["left_main_a", "right_main_a"], ["right_a.pos", "left_a.pos"], (1, 0)),
            (["Joint_1", "Joint_2"], ["joint2.pos", "joint1.pos"], (1, 0)),
            (["x.vel", "x.pos"], ["x.pos", "x.vel"], (1, 0)),
        ],
    )
    def test_by_name(self, trained, robot, order):
        joints = match_joints(trained, robot)
        assert joints.by_name
        assert joints.order == order
        assert joints.is_the_robots is (order == tuple(range(len(order))))
        actions = torch.arange(len(order))
        for joint, entry in zip(robot, actions[joints.in_robots_order].tolist(), strict=True):
            assert joints.in_checkpoints_order[entry] == joint

    def test_it_says_what_goes_where(self):
        assert str(match_joints(["main_b", "main_a"], ["a.pos", "b.pos"])) == (
            "joints by name, in another order than the robot has them: main_b -> b.pos, main_a -> a.pos."
        )

    @pytest.mark.parametrize(
        ("trained", "said"),
        [(None, "does not name its joints (action_feature_names), so they go by position: 1 -> a.pos, 2 -> b.pos"),
         (["m1", "m2"], "other names than the robot's, so they go by position: m1 -> a.pos, m2 -> b.pos")],
    )  # fmt: skip
    def test_by_position_is_said_as_such(self, trained, said):
        joints = match_joints(trained, ["a.pos", "b.pos"])
        assert joints.order == (0, 1)
        assert not joints.is_certain
        assert said in str(joints)

    @pytest.mark.parametrize(
        ("trained", "said"),
        [
            ([*SO101[:4], "wrist_yaw.pos", SO101[5]], r"the robot has no wrist_yaw.pos, its joints are shoulder_pan"),
            (SO101[:5], r"moves 5 joints \(shoulder_pan.pos, .*\), the robot has 6"),
            ([*SO101, "base.pos"], "moves 7 joints"),
            ([SO101[0], *SO101[:5]], "the robot has no two alike"),
        ],
    )
    def test_other_joints_are_refused(self, trained, said):
        with pytest.raises(ValueError, match=said):
            match_joints(trained, SO101)

    @pytest.mark.parametrize(
        ("names", "want"), [(["motors"], None), (None, None), ([], None), (["a", "b"], ["a", "b"])]
    )
    def test_the_name_of_a_group_is_no_joints(self, names, want):
        assert names_of_actions(names, 2) == want


class TestServe:
    def chunk(self, lerobot_policy, checkpoint, order):
        """LeRobot's own, for a robot that gives and takes its joints in that order: (50, joints)."""
        preprocess, postprocess = make_pre_post_processors(lerobot_policy.config, str(checkpoint))
        frames = {f"observation.images.{name}": torch.full((1, 3, 48, 64), 128 / 255) for name in CAMERAS}
        state = torch.tensor([[AT[name] for name in order]])
        torch.manual_seed(SEED)
        with torch.no_grad():
            batch = preprocess({**frames, "observation.state": state, "task": ["push"]})
            return postprocess(lerobot_policy.predict_action_chunk(batch))[0]

    @named(SHUFFLED)
    def test_joints_are_sorted_by_name(self, servicer, lerobot_policy, checkpoint, names):
        client = Client(servicer, checkpoint)
        torch.manual_seed(SEED)
        got = torch.stack([timed.get_action() for timed in client.actions(**AT)])
        want = self.chunk(lerobot_policy, checkpoint, names)
        for number, name in enumerate(NAMES):
            assert (got[:, number] - want[:, names.index(name)]).abs().max() < 1e-3, name

    @pytest.mark.parametrize(
        "names", [list(NAMES), OLD, None, ["motors"]], indirect=True, ids=["alike", "old", "none", "group"]
    )
    def test_joints_in_order_stay(self, servicer, lerobot_policy, checkpoint, names):
        client = Client(servicer, checkpoint)
        torch.manual_seed(SEED)
        got = torch.stack([timed.get_action() for timed in client.actions(**AT)])
        assert (got - self.chunk(lerobot_policy, checkpoint, NAMES)).abs().max() < 1e-3

    @named(SHUFFLED)
    def test_a_robot_that_moves_is_seen_to(self, servicer, checkpoint, names):
        client = Client(servicer, checkpoint)
        assert client.is_sent_a_chunk(0, must_go=True, **AT)
        assert client.is_sent_a_chunk(1, **AT | {NAMES[5]: AT[NAMES[5]] + 1.0})

    @pytest.mark.parametrize(
        ("names", "said"),
        [
            (
                SHUFFLED,
                "joints by name, in another order than the robot has them: joint2.pos -> joint2.pos, joint0.pos ->",
            ),
            (OLD, "joints by name: main_joint0 -> joint0.pos"),
            (None, "does not name its joints (action_feature_names), so they go by position: 1 -> joint0.pos"),
            (
                [f"m{number}" for number in range(6)],
                "other names than the robot's, so they go by position: m0 -> joint0.pos",
            ),
        ],
        indirect=["names"],
    )
    def test_it_is_said(self, servicer, checkpoint, names, said, caplog):
        with caplog.at_level(logging.INFO):
            client = Client(servicer, checkpoint)
        assert said in caplog.text
        assert client.is_sent_a_chunk(0, must_go=True)
        assert any(said in warning for warning in client.told) is (names is not OLD), (
            "what is not certain the client is told"
        )

    @named([*NAMES[:5], "gripper.pos"])
    def test_a_joint_that_is_not_there_is_told(self, servicer, checkpoint, names):
        with pytest.raises(ToldError, match=r"the robot has no gripper\.pos"):
            Client(servicer, checkpoint)

    @named(SHUFFLED)
    def test_the_user_may_know_better(self, servicer, checkpoint, names, monkeypatch):
        """As the documents say: the robot's names in the checkpoint's order, or null."""
        given = list(servicer._policy_overrides)
        for value in (NAMES, None):
            _, overrides = parse_flags([f"--policy.action_feature_names={json.dumps(value)}"])
            monkeypatch.setattr(servicer, "_policy_overrides", [*given, *overrides])
            joints = Client(servicer, checkpoint).server._joints
            assert joints.states == list(NAMES)
            assert joints.actions is None
            assert joints.is_certain is (value is NAMES)


def test_info_names_them(checkpoint, lerobot_policy, capsys):
    main(["info", str(checkpoint), "--json"])
    assert json.loads(capsys.readouterr().out)["joints"] == list(NAMES)
    main(["info", str(checkpoint)])
    assert "joints         joint0.pos, joint1.pos" in capsys.readouterr().out


class TestClientWithMoreStates:
    """Positions and velocities, of which the actions are positions. The checkpoint's states are not named."""

    STATES = tuple(name for joint in NAMES for name in (joint, joint.replace(".pos", ".vel")))

    def match(self, trained):
        from lerobot_pi0_ttnn.cli.serve.robot_joints import match_client

        action = SimpleNamespace(shape=(6,))
        config = SimpleNamespace(action_feature_names=trained, action_feature=action, max_action_dim=32)
        return match_client(config, {"observation.state": {"names": list(self.STATES)}}, "ckpt")

    def test_in_order(self):
        joints = self.match(OLD)
        assert joints.is_certain
        assert joints.actions is None
        assert joints.states == list(self.STATES)

    def test_in_another_order(self):
        with pytest.raises(
            ValueError, match=r"ckpt: joints by name, in another .*whose order in training the checkpoint"
        ):
            self.match(SHUFFLED)

    def test_without_names(self):
        joints = self.match(None)
        assert not joints.is_certain
        assert (
            "the checkpoint moves 6 joints that it does not name; the robot's states are joint0.pos, joint0.vel"
            in joints.note
        )

    def test_of_other_names(self):
        joints = self.match(["x", "y", "z", "roll", "pitch", "yaw"])
        assert not joints.is_certain
        assert "its client does not say what its actions are called: they go by position" in joints.note


class TestRollout:
    """In the process of `lerobot-rollout` a policy learns of the robot from the command line alone."""

    @pytest.fixture
    def command_line(self, tmp_path, monkeypatch):
        monkeypatch.syspath_prepend(str(FAKE_ROBOT))
        import lerobot.cameras.opencv
        import lerobot.rollout  # noqa: F401 - both as `lerobot-rollout` does
        import lerobot_robot_fake  # noqa: F401

        flags = robot_flags(tmp_path / "diary.jsonl")
        monkeypatch.setattr(sys, "argv", ["lerobot-rollout", *flags])
        return flags

    def load(self, checkpoint, **fields):
        return PI0TTNNPolicy.from_pretrained(checkpoint, architecture="tiny", backend="torch", warm_up=False, **fields)

    def test_the_robot_is_not_connected(self, command_line):
        robot = robot_of_command_line()
        assert list(robot.action_features) == list(NAMES)
        assert not robot.is_connected

    def test_flags_may_be_two_words(self, command_line, monkeypatch):
        words = [word for flag in command_line for word in flag.split("=", maxsplit=1)]
        monkeypatch.setattr(sys, "argv", ["lerobot-rollout", *words, "--robot.discover_packages_path=x", "--fps=30"])
        assert list(robot_of_command_line().action_features) == list(NAMES)

    def test_a_file_may_describe_it(self, command_line, tmp_path, monkeypatch):
        file = tmp_path / "rollout.yaml"
        robot = {"type": "fake", "diary": str(tmp_path / "diary"), "calibration_dir": str(tmp_path), "joints": 3}
        file.write_text(yaml.dump({"robot": robot, "fps": 30, "policy": {"path": "x"}}))
        monkeypatch.setattr(sys, "argv", ["lerobot-rollout", f"--config_path={file}"])
        assert list(robot_of_command_line().action_features) == list(NAMES[:3])
        monkeypatch.setattr(sys, "argv", ["lerobot-rollout", f"--config_path={file}", "--robot.joints=2"])
        assert list(robot_of_command_line().action_features) == list(NAMES[:2])

    def test_without_a_robot(self, monkeypatch):
        monkeypatch.setattr(sys, "argv", ["lerobot-eval", "--env.type=pusht"])
        assert robot_of_command_line() is None

    @named(SHUFFLED)
    def test_another_program_may_have_such_flags(self, command_line, checkpoint, names, tmp_path, monkeypatch):
        monkeypatch.delitem(sys.modules, "lerobot.rollout")
        self.load(checkpoint)
        unreadable = tmp_path / "mine.cfg"
        unreadable.write_text("robot: [")
        monkeypatch.setattr(sys, "argv", ["mine", f"--config_path={unreadable}"])
        self.load(checkpoint)

    @named(SHUFFLED)
    def test_another_order_is_refused_before_the_weights(self, command_line, checkpoint, names, monkeypatch):
        monkeypatch.setattr(
            "lerobot_pi0_ttnn.modeling_pi0_ttnn.open_weights", lambda *_: pytest.fail("weights were read")
        )
        with pytest.raises(
            ValueError, match=r"joint2.pos -> joint2.pos, .* hands a policy the joints in the robot's order"
        ):
            self.load(checkpoint)

    @named(SHUFFLED)
    def test_the_user_may_know_better(self, command_line, checkpoint, names):
        self.load(checkpoint, action_feature_names=list(NAMES))

    @pytest.mark.parametrize(
        ("names", "level", "said"),
        [
            (list(NAMES), "INFO", "joints by name: joint0.pos -> joint0.pos"),
            (OLD, "INFO", "joints by name: main_joint0 -> joint0.pos"),
            (None, "WARNING", "does not name its joints"),
            (["motors"], "WARNING", "does not name its joints"),
        ],
        indirect=["names"],
    )
    def test_it_is_said(self, command_line, checkpoint, names, level, said, caplog):
        with caplog.at_level(logging.INFO):
            self.load(checkpoint)
        assert any(record.levelname == level and said in record.message for record in caplog.records)

    @named(None)
    def test_another_number_is_refused(self, command_line, checkpoint, names, monkeypatch):
        monkeypatch.setattr(sys, "argv", ["lerobot-rollout", *command_line, "--robot.joints=5"])
        with pytest.raises(ValueError, match=r"trained with 6 actions, the robot has 5 \(joint0.pos"):
            self.load(checkpoint)


class TestDataSet:
    """LeRobot's factory makes a policy for a data set, whose names it writes over the checkpoint's."""

    def load(self, checkpoint, names):
        meta = SimpleNamespace(features={"action": {"names": names, "shape": (6,)}}, stats={})
        return PI0TTNNPolicy.from_pretrained(
            checkpoint, dataset_meta=meta, architecture="tiny", backend="torch", warm_up=False
        )

    @pytest.mark.parametrize("names", [list(NAMES), OLD, {"motors": list(NAMES)}, None, ["a", "b", "c", "d", "e", "f"]])
    def test_one_that_agrees_or_does_not_say(self, checkpoint, lerobot_policy, names):
        self.load(checkpoint, names)

    @pytest.mark.parametrize("names", [SHUFFLED, [*NAMES[:5], "gripper.pos"]])
    def test_one_that_does_not(self, checkpoint, lerobot_policy, names):
        with pytest.raises(ValueError, match="the data set"):
            self.load(checkpoint, names)
