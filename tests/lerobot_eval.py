"""`lerobot-eval` as a process of its own, and a LeRobot pi0 that fits its simplest environment."""

from pathlib import Path

from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies.pi0.modeling_pi0 import PI0Policy
from lerobot.policies.pi05.modeling_pi05 import PI05Policy

from lerobot_pi0_ttnn.cli.demo import eval_command
from lerobot_pi0_ttnn.demo.stand_in import make_demo_checkpoint
from lerobot_pi0_ttnn.recording import Recording, read_recording
from tests.models import MODELS
from tests.oracle import make_lerobot_policy
from tests.processes import Program


def make_pusht_policy(model: str = "pi0") -> PI0Policy | PI05Policy:
    """LeRobot's policy for pusht: one camera, two joints."""
    policy = make_lerobot_policy(cameras=(), state_dim=2, action_dim=2, n_action_steps=4, model=MODELS[model])
    policy.config.input_features["observation.image"] = PolicyFeature(FeatureType.VISUAL, (3, 384, 384))
    return policy


def save_for_pusht(policy: PI0Policy | PI05Policy, folder: Path) -> Path:
    """A folder saved by LeRobot's own `PI0Policy.save_pretrained`, or `PI05Policy`'s, with the demo's processors."""
    make_demo_checkpoint(folder, "pusht", policy.name)
    policy.save_pretrained(folder)
    return folder


def run_eval(folder: Path, *arguments: str) -> Recording:
    """One episode of 12 steps on pusht; returns what the policy recorded. All that it makes is in the folder."""
    command = eval_command(
        Path("unused"),
        ["--env.type=pusht", "--env.episode_length=12"],
        [],
        output=folder / "eval",
        recording=folder / "run.jsonl",
    )
    ours = ("--policy.path", "--discover_packages_path")
    flags = [*arguments, *(flag for flag in command[1:] if not flag.startswith(ours))]
    program = Program("lerobot.scripts.lerobot_eval", flags, folder)
    assert program.wait(120) == 0, program.output[-3000:]
    return read_recording(folder / "run.jsonl")
