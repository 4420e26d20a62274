"""A LoRA adapter and its base model as one checkpoint: each weight is merged as it is taken."""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..model.tensors import Shapes
from .files import (
    ADAPTER,
    ADAPTER_WEIGHTS,
    CONFIG_FILE,
    INDEX,
    SINGLE,
    CheckpointSource,
    MappedTensors,
    identity,
    read_json,
)
from .layout import LM_HEAD, MODELS, OWN_MODULES, UNUSED_HEAD, Layout, canonical, why_ignored
from .loader import PI0WeightLoader
from .lora import LoRAConfig, read_lora_config
from .writer import write_safetensors

logger = logging.getLogger(__name__)

PEFT_PREFIX = "base_model.model."
FACTORS = {"A.weight", "B.weight"}


@dataclass(frozen=True)
class LowRank:
    """scale * B A, to be added to the weight of a linear layer; A and B by their names in the adapter."""

    a: str
    b: str
    scale: float

    def fits(self, adapter: MappedTensors, weight: tuple[int, ...], rank: int) -> bool:
        """Returns whether A and B have the rank, and B A the shape of the weight."""
        return (adapter.shape(self.a), adapter.shape(self.b)) == ((rank, *weight[1:]), (weight[0], rank))

    def add_to(self, weight: Tensor, adapter: MappedTensors) -> None:
        """Adds it in place to a float32 weight; one without a copy in between, for full-size ones have 134 MB."""
        weight.addmm_(adapter.tensor(self.b).float(), adapter.tensor(self.a).float(), alpha=self.scale)


@dataclass
class Changes:
    """What an adapter does to its base model, by our names of the base's tensors."""

    replaced: dict[str, str] = field(default_factory=dict)
    """Whole tensors -> their names in the adapter."""
    added: dict[str, LowRank] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    """The adapter's name -> why it has no effect."""


class MergedWeights(Mapping[str, Tensor]):
    """The tensors of a LoRA adapter's base model by our names, with the adapter merged into them as they are taken.

    A weight that LoRA changes is float32, whatever the base was saved in: LeRobot computes W x + scale B A x in float32 on
    a base in bfloat16, and rounding W + scale B A to bfloat16 again would lose up to 0.4 % of each weight (which is more
    than many an adapter adds). All else is a view of the mapped files, as in `PI0WeightLoader`.

    Args:
        source: where the adapter is; its base is looked for with the same token, cache and network settings.
        base_model: the base's folder or Hub id, if it is not what the adapter's config says.

    Raises:
        FileNotFoundError, PermissionError, ConnectionError: the adapter or its base model cannot be loaded.
        ValueError: either is damaged, the adapter is of a kind that cannot be merged, or it does not fit its base.
    """

    def __init__(self, source: CheckpointSource, base_model: str | None = None) -> None:
        self.source = source
        self.lora = read_lora_config(source, base_model)
        weights = source.find(ADAPTER_WEIGHTS)
        if weights is None:
            raise FileNotFoundError(
                f"{source}: has {ADAPTER} but no {ADAPTER_WEIGHTS}; fetch the whole folder, or save the adapter again "
                "as safetensors."
            )
        self._adapter = MappedTensors([weights])
        self.base = _open_base(source, self.lora)
        _check_model(source, self._adapter, self.base)
        self.files = [weights, *self.base.files]
        self.changes = plan_changes(self._adapter, self.lora, self.base, where=str(source))
        self.layout = Layout(
            self.base.layout.names,
            self.base.layout.ignored | self.changes.ignored,
            [*self.base.layout.traits, "LoRA"],
            self.base.layout.model,
        )
        logger.info(
            "%s: LoRA on %d weights of %s, %d tensors replaced.",
            source,
            len(self.changes.added),
            self.base,
            len(self.changes.replaced),
        )

    def __str__(self) -> str:
        return f"{self.source} on {self.base}"

    def __getitem__(self, name: str) -> Tensor:
        replacement = self.changes.replaced.get(name)
        tensor = self.base[name] if replacement is None else self._adapter.tensor(replacement)
        if name not in self.changes.added:
            return tensor
        merged = tensor.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        self.changes.added[name].add_to(merged, self._adapter)
        return merged

    def __iter__(self) -> Iterator[str]:
        return iter(self.base)

    def __len__(self) -> int:
        return len(self.base)

    def saved(self, saved_name: str) -> Tensor:
        """Returns a tensor that is not needed by its own name, from the base or the adapter."""
        return self._adapter.tensor(saved_name) if saved_name in self.changes.ignored else self.base.saved(saved_name)

    def fingerprint(self) -> str:
        """Returns a digest of what the base's and the adapter's files are."""
        digest = hashlib.sha256(self.base.fingerprint().encode())
        digest.update(repr(self.lora).encode())
        digest.update(identity(self.files[0]))
        for name in self._adapter:
            digest.update(f"{name} {self._adapter.shape(name)} {self._adapter.dtype(name)}".encode())
        return digest.hexdigest()

    def check_unchanged(self) -> None:
        """Raises ValueError if a file of the base or of the adapter has changed since it was opened."""
        self.base.check_unchanged()
        self._adapter.check_unchanged()

    def shapes(self) -> Shapes:
        """Returns the shape of each tensor by our name, from the headers; merging changes none."""
        return self.base.shapes()

    def dtypes(self) -> dict[str, str]:
        """Returns the dtype of each tensor by our name, as safetensors spells it (F32, BF16, ...)."""
        dtypes = self.base.dtypes()
        dtypes |= {name: self._adapter.dtype(saved) for name, saved in self.changes.replaced.items()}
        return dtypes | dict.fromkeys(self.changes.added, "F32")

    def save(self, folder: Path) -> None:
        """Writes the merged model as one file, under the base's own names and with all that the base holds."""
        ours = {saved: name for name, saved in self.base.layout.names.items()}
        dtypes = self.dtypes()
        headers = {
            saved: (dtypes[ours[saved]] if saved in ours else dtype, shape)
            for saved, (dtype, shape) in self.base.saved_headers().items()
        }
        write_safetensors(
            folder / SINGLE, headers, lambda saved: self[ours[saved]] if saved in ours else self.base.saved(saved)
        )


def open_weights(source: CheckpointSource, base_model: str | None = None) -> PI0WeightLoader | MergedWeights:
    """Returns the tensors of a checkpoint by our names: those of its files, or those of an adapter merged into its base.

    Args:
        source: where the checkpoint is.
        base_model: an adapter's base, a folder or Hub id; the one that its config names by default.

    Raises:
        FileNotFoundError, PermissionError, ConnectionError: the checkpoint, or an adapter's base, cannot be loaded.
        ValueError: it is damaged, of another model, an adapter that cannot be merged, or both an adapter and a model; or
            it is a whole model, and a base model was given.
    """
    if Path(source.path_or_repo_id).expanduser().is_file() or source.find(ADAPTER) is None:
        if base_model:
            raise ValueError(
                f"base_model: {source} is no LoRA adapter, so {base_model} would not be used; leave base_model out."
            )
        return PI0WeightLoader(**vars(source))
    if whole := next((name for name in (SINGLE, INDEX) if source.find(name) is not None), None):
        raise ValueError(
            f"{source}: holds both a whole model ({whole}) and an adapter ({ADAPTER}), and only one can be meant; "
            "move the other elsewhere."
        )
    return MergedWeights(source, base_model)


def _open_base(source: CheckpointSource, lora: LoRAConfig) -> PI0WeightLoader:
    name = str(lora.base_model_name_or_path)
    settings = {**vars(source), "path_or_repo_id": name, "revision": lora.revision, "subfolder": None}
    try:
        return PI0WeightLoader(**settings)
    except (FileNotFoundError, PermissionError, ConnectionError) as error:
        raise type(error)(
            f"{source}: this adapter's base model cannot be loaded. {error} If it lies elsewhere now, give that folder or Hub "
            f"id as base_model (--policy.base_model), or write it into {ADAPTER} as base_model_name_or_path."
        ) from error


def _check_model(source: CheckpointSource, adapter: MappedTensors, base: PI0WeightLoader) -> None:
    """Raises ValueError where the adapter is of pi0 and its base is pi0.5, or the reverse: many of their layers are alike."""
    path = source.find(CONFIG_FILE)
    model = MODELS.get(str(read_json(path).get("type")) if path else "")
    model = model or next((its for its, own in OWN_MODULES.items() if any(map(own.search, adapter))), base.layout.model)
    if model != base.layout.model:
        raise ValueError(
            f"{source}: this is an adapter of {model}, and its base model {base} is {base.layout.model}; give the base that it "
            "was trained on as base_model (--policy.base_model)."
        )


def plan_changes(adapter: MappedTensors, lora: LoRAConfig, base: PI0WeightLoader, *, where: str) -> Changes:
    """Returns what the adapter does to the base.

    Args:
        adapter: the adapter's tensors.
        lora: the adapter's settings.
        base: the base model.
        where: what to call the adapter in the error.

    Raises:
        ValueError: one error with every tensor of the adapter that fits nothing, and every one that should be there.
    """
    changes, problems = Changes(), list[str]()
    shapes = base.shapes()
    factors: dict[str, dict[str, str]] = {}
    for key in sorted(adapter):
        module, _, role = key.removeprefix(PEFT_PREFIX).partition(".lora_")
        if role:
            factors.setdefault(module, {})[role] = key
        elif reason := _reason_to_ignore(name := canonical(module.replace(".base_layer.", "."))):
            changes.ignored[key] = reason
        elif name not in shapes:
            problems.append(f"{key}: {base.layout.model} has no such tensor")
        elif name in changes.replaced:
            problems.append(f"{key}: {changes.replaced[name]} is {name} too")
        elif adapter.shape(key) != shapes[name]:
            problems.append(f"{key}: expected {shapes[name]}, got {adapter.shape(key)}")
        else:
            changes.replaced[name] = key
    for module, keys in factors.items():
        problems += _plan_factors(module, keys, changes, adapter, lora, base)
    problems += _absent(changes, lora, shapes)
    if problems:
        lines = [f"{where}: this adapter does not fit {base}, so nothing is loaded.", *(f"  {p}" for p in problems)]
        raise ValueError("\n".join([*lines, "Check that it was trained on this base model and is downloaded whole."]))
    return changes


def _plan_factors(
    module: str, keys: dict[str, str], changes: Changes, adapter: MappedTensors, lora: LoRAConfig, base: PI0WeightLoader
) -> list[str]:
    """Adds one module's A and B to the changes, and returns what is wrong with them."""
    name, shapes = canonical(f"{module}.weight"), base.shapes()
    if reason := _reason_to_ignore(name):
        changes.ignored |= dict.fromkeys(keys.values(), reason)
        return []
    if name in changes.added:
        return [f"{module}: another module of the adapter is {name} too"]
    if name not in shapes:
        return [f"{key}: {base.layout.model} has no module {module}" for key in keys.values()]
    problems = [f"{key}: not of plain LoRA on a linear layer" for role, key in keys.items() if role not in FACTORS]
    if not keys.keys() >= FACTORS:
        return problems or [f"{', '.join(keys.values())}: the other of lora_A and lora_B is absent"]
    change = LowRank(keys["A.weight"], keys["B.weight"], lora.scale(module))
    if not change.fits(adapter, shapes[name], lora.rank(module)):
        problems.append(
            f"{module}: rank {lora.rank(module)} and weight {shapes[name]} do not fit A {adapter.shape(change.a)} and "
            f"B {adapter.shape(change.b)}"
        )
    changes.added[name] = change
    return problems


def _absent(changes: Changes, lora: LoRAConfig, shapes: Shapes) -> list[str]:
    problems = []
    for name in shapes:
        module, _, kind = f"model.{name}".rpartition(".")
        if lora.replaces(module) and name not in changes.replaced:
            problems.append(f"{name}: the adapter's modules_to_save names it, but it is absent")
        elif kind == "weight" and lora.targets(module) and name not in changes.added:
            problems.append(f"{name}: the adapter's target_modules name it, but its lora_A and lora_B are absent")
    return problems


def _reason_to_ignore(name: str) -> str | None:
    return UNUSED_HEAD if name == LM_HEAD else why_ignored(name)
