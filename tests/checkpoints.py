"""Checkpoints on disk for the tests: LeRobot's own, and the layouts that older or other programs leave."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from unittest.mock import patch

import torch
from huggingface_hub import save_torch_state_dict
from lerobot.policies.pi0 import processor_pi0
from lerobot.policies.pi05 import processor_pi05
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from safetensors.torch import save_file
from torch import Tensor

from lerobot_pi0_ttnn import PI0TTNNConfig
from lerobot_pi0_ttnn.demo.tokenizer import make_tokenizer

STATS = {
    "observation.state": {"mean": torch.linspace(-1, 1, 14), "std": torch.linspace(0.5, 2, 14)},
    "action": {"mean": torch.linspace(-2, 2, 7), "std": torch.linspace(1, 3, 7)},
}


def with_quantiles(stats: dict[str, dict[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """Quantiles with which LeRobot's QUANTILES gives what MEAN_STD gives with the same statistics."""
    return {
        feature: {**of, "q01": of["mean"] - of["std"], "q99": of["mean"] + of["std"]} for feature, of in stats.items()
    }


def save_lerobot_checkpoint(policy, folder: Path, stats: dict[str, dict[str, Tensor]] = STATS) -> Path:
    """What `lerobot-train` leaves: config, weights and processors, with statistics and a tokenizer that is at hand."""
    policy.save_pretrained(folder)
    tokenizer = folder / "tokenizer"
    make_tokenizer(tokenizer)
    if policy.name == "pi05":
        stats = with_quantiles(stats)
    config = dataclasses.replace(policy.config, relative_exclude_joints=[], action_feature_names=None)
    for pipeline in lerobots_processors(config, stats, tokenizer):
        pipeline.save_pretrained(folder)
    return folder


def lerobots_processors(config, stats: dict[str, dict[str, Tensor]], tokenizer: Path):
    """LeRobot's own two pipelines for pi0 or pi0.5, but for the tokenizer, for that one is gated."""
    is_pi05 = isinstance(config, PI05Config)
    module = processor_pi05 if is_pi05 else processor_pi0
    make = processor_pi05.make_pi05_pre_post_processors if is_pi05 else processor_pi0.make_pi0_pre_post_processors
    step = module.TokenizerProcessorStep

    def local_tokenizer(tokenizer_name: str, **settings: object):
        assert tokenizer_name == PI0TTNNConfig.tokenizer_name
        return step(tokenizer_name=str(tokenizer), **settings)

    with patch.object(module, "TokenizerProcessorStep", local_tokenizer):
        return make(config, stats)


def save_adapter(policy, base: Path, folder: Path, *, config=None, **overrides) -> Path:
    """What LeRobot leaves of a PEFT fine-tune that moved every parameter it may: adapter, config, processors."""
    policy.config.pretrained_path = base
    model = policy.wrap_with_peft(config, peft_cli_overrides=overrides)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("model.safetensors"))
    model.save_pretrained(folder)
    edit_json(folder / "config.json", use_peft=True)
    return folder


def without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The Hub's pi0_base: no `model.`, the embedding only as lm_head."""
    return {
        name.removeprefix("model."): tensor
        for name, tensor in tensors.items()
        if not name.endswith("embed_tokens.weight")
    }


def openpi_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """openpi's converter: as the Hub's, and one name for the time MLP of pi0 and pi0.5."""
    return {name.replace("action_time_mlp", "time_mlp"): tensor for name, tensor in without_prefix(tensors).items()}


def lerobot_0_3(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """LeRobot <= 0.3: transformers' old module tree, and the statistics among the weights."""
    old = {}
    for name, tensor in tensors.items():
        if name.endswith("embed_tokens.weight"):
            continue
        name = name.replace("paligemma.model.language_model.", "paligemma.language_model.model.")
        name = name.replace("paligemma.lm_head.", "paligemma.language_model.lm_head.")
        for part in ("vision_tower", "multi_modal_projector"):
            name = name.replace(f"paligemma.model.{part}.", f"paligemma.{part}.")
        old[name] = tensor
    for feature, stats in STATS.items():
        for statistic, value in stats.items():
            buffer = feature.replace(".", "_")
            side = "unnormalize_outputs" if feature == "action" else "normalize_inputs"
            old[f"{side}.buffer_{buffer}.{statistic}"] = value
    return old


def tied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """LeRobot 0.4: with `model.`, and the embedding only as lm_head."""
    return {name: tensor for name, tensor in tensors.items() if not name.endswith("embed_tokens.weight")}


def as_saved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """LeRobot 0.6: with `model.`, and the embedding, its lm_head and the expert's all there."""
    return tensors


LAYOUTS = {
    "lerobot-0.6": as_saved,
    "lerobot-0.4-tied": tied,
    "hub-pi0_base": without_prefix,
    "openpi-time_mlp": openpi_names,
    "lerobot-0.3": lerobot_0_3,
}


def write(folder: Path, tensors: dict[str, Tensor]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


def write_sharded(folder: Path, tensors: dict[str, Tensor]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_torch_state_dict({name: t.clone() for name, t in tensors.items()}, folder, max_shard_size="1MB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder


def hub_cache(cache: Path, repo: str, folder: Path, revision: str = "main") -> Path:
    """Puts a folder's files in a Hub cache, as if they had been downloaded."""
    commit = hashlib.sha1(revision.encode()).hexdigest()
    repository = cache / f"models--{repo.replace('/', '--')}"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / revision).write_text(commit)
    for file in folder.rglob("*"):
        if file.is_file():
            target = snapshot / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(file.resolve())
    return cache


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
