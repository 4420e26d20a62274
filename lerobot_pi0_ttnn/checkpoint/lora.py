"""What an adapter_config.json says: which base model, which rank and scale, and whether it is an adapter that can be merged.

`module` is always a module's name as PEFT knows it: LeRobot's, with the leading `model.`.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .files import ADAPTER, CheckpointSource

UNDERSTOOD = {
    "peft_type",
    "base_model_name_or_path",
    "revision",
    "r",
    "lora_alpha",
    "rank_pattern",
    "alpha_pattern",
    "use_rslora",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "modules_to_save",
    "init_lora_weights",
}

WITHOUT_EFFECT = {
    # Of training, or of PEFT's own book-keeping.
    "auto_mapping",
    "inference_mode",
    "lora_dropout",
    "peft_version",
    "runtime_config",
    "task_type",
    # The keys say which layers and biases were trained.
    "bias",
    "layers_pattern",
    # Of GPT-2's transposed Conv1D; pi0 has none, and on a Linear layer PEFT takes it as False too.
    "fan_in_fan_out",
    # Settings of what is refused below where it is switched on.
    "corda_config",
    "eva_config",
    "loftq_config",
    "lora_ga_config",
    "megatron_core",
    "qalora_group_size",
}

PLAIN_INITS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Of `init_lora_weights`: these choose A and B only. The others (PiSSA, OLoRA, LoftQ, ...) also change the base's weights."""

KINDS = {
    "lora_bias": "biases on B",
    "use_dora": "DoRA",
    "use_qalora": "QA-LoRA",
    "use_bdlora": "block-diagonal LoRA",
    "alora_invocation_tokens": "activated LoRA",
    "arrow_config": "Arrow",
    "kasa_config": "KaSA",
    "trainable_token_indices": "trainable tokens",
    "target_parameters": "LoRA on bare parameters",
    "layer_replication": "replicated layers",
}


@dataclass(frozen=True)
class LoRAConfig:
    """A LoRA adapter's settings, under PEFT's names."""

    base_model_name_or_path: str
    revision: str | None
    r: int
    lora_alpha: float
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    use_rslora: bool = False
    target_modules: str | list[str] | None = None
    exclude_modules: str | list[str] | None = None
    layers_to_transform: int | list[int] | None = None
    modules_to_save: list[str] = field(default_factory=list)

    def rank(self, module: str) -> int:
        """Returns the rank of a module's A and B."""
        return _by_pattern(self.rank_pattern, module, self.r)

    def scale(self, module: str) -> float:
        """Returns what B A is multiplied by."""
        alpha, rank = _by_pattern(self.alpha_pattern, module, self.lora_alpha), self.rank(module)
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank

    def replaces(self, module: str) -> bool:
        """Returns whether the adapter must hold the module whole (it or one that it lies in is in `modules_to_save`)."""
        parts = module.split(".")
        lineage = [".".join(parts[: depth + 1]) for depth in range(len(parts))]
        return any(name.endswith(saved) for name in lineage for saved in self.modules_to_save)

    def targets(self, module: str) -> bool:
        """Returns whether the adapter must hold A and B for this module, as far as its config alone can say."""
        if self.target_modules in (None, "all-linear") or self.layers_to_transform not in (None, []):
            return False
        excluded = any(re.match(rf"(^|.*\.){saved}($|\..*)", module) for saved in self.modules_to_save)
        return _matches(self.target_modules, module) and not _matches(self.exclude_modules, module) and not excluded


def _by_pattern[T](patterns: Mapping[str, T], module: str, default: T) -> T:
    found = (value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", module))
    return next(found, default)


def _matches(wanted: str | Iterable[str] | None, module: str) -> bool:
    if isinstance(wanted, str):
        return re.fullmatch(wanted, module) is not None
    return any(f".{module}".endswith(f".{name}") for name in wanted or ())


def read_lora_config(source: CheckpointSource, base_model: str | None = None) -> LoRAConfig:
    """Returns what the adapter's config says.

    Args:
        source: where the adapter is.
        base_model: its base model's folder or Hub id, instead of the one in the config and its revision.

    Raises:
        FileNotFoundError: there is no adapter_config.json.
        ValueError: it is not one, names no base model, or is of a kind that cannot be merged; the message names the kind.
    """
    path = source.find(ADAPTER)
    if path is None:
        raise FileNotFoundError(f"{source}: has no {ADAPTER}; give the folder that PEFT saved the adapter in.")
    try:
        saved = json.loads(path.read_text())
        kind = str(saved["peft_type"]).upper()
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a PEFT adapter's config ({error!r}); fetch it again.") from error
    if unsupported := [f"peft_type={kind}"] if kind != "LORA" else _unsupported(saved):
        raise ValueError(
            f"{path}: only plain LoRA is merged at load, and this adapter has {', '.join(unsupported)}; merge it with "
            "peft (`merge_and_unload`), save the policy, and give that."
        )
    if base_model:
        saved |= {"base_model_name_or_path": base_model, "revision": None}
    if not saved.get("base_model_name_or_path"):
        raise ValueError(
            f"{path}: does not say which model it adapts; give that model's folder or Hub id as base_model "
            "(--policy.base_model), or write it there as base_model_name_or_path."
        )
    kept = {name: saved[name] for name in LoRAConfig.__dataclass_fields__ if saved.get(name) is not None}
    config = LoRAConfig(**{"revision": None, "r": 8, "lora_alpha": 8, **kept})  # PEFT's own defaults
    ranks = [config.r, *config.rank_pattern.values()]
    if not all(isinstance(rank, int) and rank > 0 for rank in ranks):
        raise ValueError(f"{path}: expected ranks (r, rank_pattern) above 0, got {ranks}; fetch it again.")
    return config


def _unsupported(saved: Mapping[str, Any]) -> list[str]:
    """Returns all that is switched on and not understood: a new kind of LoRA is better refused than mistaken for plain."""
    switched_on = {name: value for name, value in saved.items() if value and name not in UNDERSTOOD | WITHOUT_EFFECT}
    found = [f"{KINDS[name]} ({name})" if name in KINDS else f"{name}={value!r}" for name, value in switched_on.items()]
    init = saved.get("init_lora_weights", True)
    return found if init in PLAIN_INITS else [*found, f"init_lora_weights={init!r}, which changes the base model"]
