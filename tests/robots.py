"""What a robot's tests share: a checkpoint for the fake robot, its command line, its diary, and what it should have done."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from lerobot.policies.pi0.modeling_pi0 import PI0Policy
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer

from tests.checkpoints import edit_json, save_lerobot_checkpoint
from tests.models import MODELS
from tests.oracle import make_lerobot_policy

JOINTS = 6
NAMES = tuple(f"joint{number}.pos" for number in range(JOINTS))
CAMERAS = ("front", "wrist")
STATS = {
    "observation.state": {"mean": torch.linspace(-1, 1, JOINTS), "std": torch.linspace(0.5, 2, JOINTS)},
    "action": {"mean": torch.linspace(-20, 20, JOINTS), "std": torch.linspace(1, 3, JOINTS)},
}


def save_robot_checkpoint(folder: Path, model: str = "pi0") -> PI0Policy | PI05Policy:
    """LeRobot's own policy for the fake robot, saved there as LeRobot saves it, `type: pi0` or `pi05`.

    Its config says of the cameras what pi0_base's says, 224x224; their frames are of other sizes and aspects.
    """
    policy = make_lerobot_policy(
        cameras=CAMERAS,
        state_dim=JOINTS,
        action_dim=JOINTS,
        model=MODELS[model],
        action_feature_names=list(NAMES),
    )
    save_lerobot_checkpoint(policy, folder, STATS)
    config = json.loads((folder / "config.json").read_text())
    for camera in CAMERAS:
        config["input_features"][f"observation.images.{camera}"]["shape"] = [3, 224, 224]
    edit_json(folder / "config.json", **config)
    return policy


def save_robot_checkpoints(parent: Path) -> dict[str, Path]:
    """A folder for each model, with its `save_robot_checkpoint`, of tiny size and for the torch backend."""
    folders = {model: parent / model for model in MODELS}
    for model, folder in folders.items():
        save_robot_checkpoint(folder, model)
        edit_json(folder / "config.json", architecture="tiny", backend="torch")
    return folders


def damage(checkpoint: Path, copy: Path, word: str) -> Path:
    """A copy of the checkpoint that computes NaN for prompts with that word in them, and only for those."""
    shutil.copytree(checkpoint, copy)
    file = copy / "model.safetensors"
    tensors = load_file(file)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint / "tokenizer")
    tokens = tokenizer(word, add_special_tokens=False).input_ids
    tensors["model.paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"][tokens] = torch.nan
    save_file(tensors, file)
    return copy


def robot_flags(diary: Path, cameras: Sequence[str] = CAMERAS, **fields: object) -> list[str]:
    """The flags that say `fake` where a person's say `so101_follower`."""
    described = ", ".join(
        f"{name}: {{type: opencv, index_or_path: {number}, width: 64, height: 48, fps: 30}}"
        for number, name in enumerate(cameras)
    )
    fields = {
        "type": "fake",
        "diary": diary,
        "calibration_dir": diary.parent,
        "cameras": f"{{ {described} }}",
        **fields,
    }
    return [f"--robot.{name}={value}" for name, value in fields.items()]


def moves(diary: Path) -> Tensor:
    """The actions that the robot was sent, (ticks, joints)."""
    lines = [json.loads(line) for line in diary.read_text().splitlines()]
    return torch.tensor([line["position"] for line in lines if line["event"] == "moved"])


def events(diary: Path) -> list[str]:
    """What happened to the robot, actions left out."""
    lines = [json.loads(line)["event"] for line in diary.read_text().splitlines()]
    return [event for event in lines if event != "moved"]


def in_degrees(chunk: Tensor) -> Tensor:
    """A recorded chunk, (1, horizon, joints), as the robot must get it: (horizon, joints)."""
    return chunk[0] * STATS["action"]["std"] + STATS["action"]["mean"]


def is_part_of(actions: Tensor, chunks: Sequence[Tensor]) -> bool:
    """Whether every action is a row of a chunk, in the order of the chunks and of their rows."""
    rows = []
    for action in actions:
        distances = torch.stack([(chunk - action).abs().amax(dim=1) for chunk in chunks])
        if distances.min() > 1e-3:
            return False
        rows.append(int(distances.argmin()))
    return rows == sorted(rows)
