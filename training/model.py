"""LeRobot's `PI0Policy` at the sizes of `TINY`, with weights to start from, and the checkpoint that it leaves."""

import json
from pathlib import Path
from typing import Any

import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies.pi0.configuration_pi0 import PI0Config
from lerobot.policies.pi0.modeling_pi0 import PI0Policy
from torch import Tensor

from lerobot_pi0_ttnn.checkpoint.files import CheckpointSource
from lerobot_pi0_ttnn.checkpoint.tokenizer import FOLDER
from lerobot_pi0_ttnn.configuration_pi0_ttnn import PI0TTNNConfig
from lerobot_pi0_ttnn.model.config import TINY
from lerobot_pi0_ttnn.processor_pi0_ttnn import make_pi0_ttnn_pre_post_processors
from tests.oracle import sized

from .tokenizer import make_word_tokenizer

CHUNK = 16
IMAGE_SIZE = 112
ACTION_DIM = 4
FIELDS: dict[str, Any] = {
    "chunk_size": CHUNK,
    "n_action_steps": 8,
    "image_resolution": (IMAGE_SIZE, IMAGE_SIZE),
    "tokenizer_max_length": 16,
    "input_features": {
        "observation.image": PolicyFeature(FeatureType.VISUAL, (3, 480, 480)),
        "observation.state": PolicyFeature(FeatureType.STATE, (4,)),
    },
    "output_features": {"action": PolicyFeature(FeatureType.ACTION, (ACTION_DIM,))},
}
Statistics = dict[str, dict[str, Tensor]]


def build_policy() -> PI0Policy:
    """Returns LeRobot's policy at the sizes of `TINY`, with weights as transformers draws them."""
    with sized(TINY):
        return PI0Policy(PI0Config(device="cpu", **FIELDS))


def make_policy(seed: int) -> PI0Policy:
    """Returns LeRobot's policy, initialised by fan-in: PaliGemma's standard deviation of 0.02 is for a width of 2048."""
    policy = build_policy()
    generator = torch.Generator().manual_seed(seed)
    residual = (2 * TINY.vlm.depth) ** -0.5
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
            elif "norm" in name:
                parameter.fill_(1.0 if "vision_tower" in name else 0.0)  # SigLIP's multiply by it, Gemma's by 1 + it
            elif "position_embedding" in name:
                parameter.normal_(0, 0.4, generator=generator)
            elif "embed_tokens" in name or "lm_head" in name:
                parameter.normal_(0, parameter.shape[-1] ** -0.5, generator=generator)
            else:
                ends_branch = name.endswith(("o_proj.weight", "down_proj.weight", "out_proj.weight", "fc2.weight"))
                scale = parameter[0].numel() ** -0.5 * (residual if ends_branch else 1.0)
                parameter.normal_(0, scale, generator=generator)
    return policy


def save(policy: PI0Policy, statistics: Statistics, prompts: list[str], folder: Path) -> None:
    """Saves a checkpoint by LeRobot's own `save_pretrained`: weights, config, processors with statistics and tokenizer.

    Args:
        policy: as trained.
        statistics: mean and standard deviation of `observation.state` and `action`.
        prompts: whose words the tokenizer knows.
        folder: where to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    policy.save_pretrained(folder)
    config_file = folder / "config.json"
    config = json.loads(config_file.read_text())
    # LeRobot's config names sizes only by gemma_2b and gemma_300m.
    config_file.write_text(json.dumps(config | {"architecture": "tiny"}, indent=4) + "\n")
    for pipeline in make_processors(statistics, prompts, folder):
        pipeline.save_pretrained(folder)


def make_processors(statistics: Statistics, prompts: list[str], folder: Path) -> tuple[Any, Any]:
    """Returns LeRobot's pre- and postprocessor of pi0, whose tokenizer is saved to a folder."""
    make_word_tokenizer(prompts, folder / FOLDER)
    config = PI0TTNNConfig(architecture="tiny", tokenizer_name=FOLDER, **FIELDS)
    config.checkpoint = CheckpointSource(folder)
    return make_pi0_ttnn_pre_post_processors(config, statistics)
