"""LeRobot's `PI0Policy` or `PI05Policy` at the sizes of `TINY`: weights to start from, and the checkpoint in the end."""

import json
from pathlib import Path
from typing import Any

import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies.pi0.configuration_pi0 import PI0Config
from lerobot.policies.pi0.modeling_pi0 import PI0Policy
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from lerobot.policies.pi05.modeling_pi05 import PI05Policy
from torch import Tensor

from lerobot_pi0_ttnn.checkpoint.files import CheckpointSource
from lerobot_pi0_ttnn.checkpoint.tokenizer import FOLDER
from lerobot_pi0_ttnn.configuration_pi0_ttnn import PI0TTNNConfig
from lerobot_pi0_ttnn.configuration_pi05_ttnn import PI05TTNNConfig
from lerobot_pi0_ttnn.model.config import TINY, TINY_PI05
from lerobot_pi0_ttnn.processor_pi0_ttnn import make_pi0_ttnn_pre_post_processors
from lerobot_pi0_ttnn.processor_pi05_ttnn import make_pi05_ttnn_pre_post_processors
from tests.oracle import sized

from .tokenizer import STATE_PROMPTS, make_word_tokenizer

CHUNK = 16
IMAGE_SIZE = 112
ACTION_DIM = 4
FIELDS: dict[str, Any] = {
    "chunk_size": CHUNK,
    "n_action_steps": 8,
    "image_resolution": (IMAGE_SIZE, IMAGE_SIZE),
    "input_features": {
        "observation.image": PolicyFeature(FeatureType.VISUAL, (3, 480, 480)),
        "observation.state": PolicyFeature(FeatureType.STATE, (4,)),
    },
    "output_features": {"action": PolicyFeature(FeatureType.ACTION, (ACTION_DIM,))},
}
PROMPT_TOKENS = {"pi0": 16, "pi05": 40}
"""At most, by model: pi0.5's prompt holds the state besides."""
Statistics = dict[str, dict[str, Tensor]]
type Policy = PI0Policy | PI05Policy


def fields(model: str) -> dict[str, Any]:
    """Returns what the config of `pi0` or of `pi05` says."""
    return {**FIELDS, "tokenizer_max_length": PROMPT_TOKENS[model]}


def build_policy(model: str = "pi0") -> Policy:
    """Returns LeRobot's policy at the sizes of `TINY`, with weights as transformers draws them."""
    if model == "pi05":
        with sized(TINY_PI05):
            return PI05Policy(PI05Config(device="cpu", **fields(model)))
    with sized(TINY):
        return PI0Policy(PI0Config(device="cpu", **fields(model)))


def make_policy(seed: int, model: str = "pi0") -> Policy:
    """Returns LeRobot's policy, initialised by fan-in: PaliGemma's standard deviation of 0.02 is for a width of 2048."""
    policy = build_policy(model)
    generator = torch.Generator().manual_seed(seed)
    residual = (2 * TINY.vlm.depth) ** -0.5
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
                if "norm.dense" in name:  # scale, shift, gate: at the start each branch counts, as in pi0
                    parameter[2 * TINY.expert.width :] = 1.0
            elif "norm.dense" in name:
                parameter.normal_(0, 0.1 * parameter[0].numel() ** -0.5, generator=generator)
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


def embed_numbers(policy: Policy, folder: Path) -> None:
    """Gives the words 0 to 255 embeddings that change slowly from each to the next: what pi0.5 knows of numbers beforehand.

    Args:
        policy: changed in place.
        folder: of a checkpoint's tokenizer, which has a word for each.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor(tokenizer.convert_tokens_to_ids([str(number) for number in range(256)]))
    embeddings = policy.model.paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight
    waves = torch.cos(torch.pi * torch.arange(256)[:, None] / 255 * torch.arange(1, 17))
    directions = torch.randn(16, embeddings.shape[1], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        embeddings[ids] = waves @ directions * (2 / 16 / embeddings.shape[1]) ** 0.5


def save(policy: Policy, statistics: Statistics, prompts: list[str], folder: Path) -> None:
    """Saves a checkpoint by LeRobot's own `save_pretrained`: weights, config, processors with statistics and tokenizer.

    Args:
        policy: as trained.
        statistics: of `observation.state` and `action`.
        prompts: whose words the tokenizer knows.
        folder: where to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    policy.save_pretrained(folder)
    config_file = folder / "config.json"
    config = json.loads(config_file.read_text())
    # LeRobot's config names sizes only by gemma_2b and gemma_300m.
    config_file.write_text(json.dumps(config | {"architecture": "tiny"}, indent=4) + "\n")
    for pipeline in make_processors(statistics, prompts, folder, policy.name):
        pipeline.save_pretrained(folder)


def make_processors(statistics: Statistics, prompts: list[str], folder: Path, model: str) -> tuple[Any, Any]:
    """Returns LeRobot's pre- and postprocessor of pi0 or pi0.5, whose tokenizer is saved to a folder."""
    make_word_tokenizer([*prompts, *(STATE_PROMPTS if model == "pi05" else ())], folder / FOLDER)
    source = CheckpointSource(folder)
    if model == "pi05":
        config = PI05TTNNConfig(architecture="tiny", tokenizer_name=FOLDER, **fields(model))
        config.checkpoint = source
        return make_pi05_ttnn_pre_post_processors(config, statistics)
    config = PI0TTNNConfig(architecture="tiny", tokenizer_name=FOLDER, **fields(model))
    config.checkpoint = source
    return make_pi0_ttnn_pre_post_processors(config, statistics)
