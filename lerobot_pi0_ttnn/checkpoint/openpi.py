"""openpi's checkpoints: what its config.json and norm_stats.json say, in LeRobot's terms.

Source: openpi `examples/convert_jax_model_to_pytorch.py`, which writes `model.safetensors`, a `config.json` of five fields and
`assets/*/norm_stats.json`; `transforms.py::Normalize`, `training/config.py` and `models/tokenizer.py` for what they mean.
The config does not say whether it is pi0 or pi0.5: the names of the tensors do.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..model.config import GEMMA_VARIANTS
from .files import CONFIG_FILE, CheckpointSource, read_json
from .loader import PI0WeightLoader
from .processors import ACTION, STATE

FIELDS = ("action_dim", "action_horizon", "paligemma_variant", "action_expert_variant")
CAMERAS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
"""In the order in which openpi's model sees them."""
KEYS = {"state": STATE, "actions": ACTION}
"""openpi's name of what is normalised -> LeRobot's."""
ASSETS, NORM_STATS = "assets", "norm_stats.json"
OTHERWISE = {
    ("q01", "q99"): "make them with openpi's scripts/compute_norm_stats.py, or say --no-quantiles if it was trained so",
    ("mean", "std"): "make them with openpi's scripts/compute_norm_stats.py",
}
"""What to do where these two statistics are not there."""
EPSILON = 1e-6
"""What openpi adds to a deviation, and to the distance of two quantiles."""
_TRANSFORMS = (
    "openpi's own transforms of a robot's data are in its training config, not in the folder: where that has delta actions, "
    "`--set use_relative_actions=true`; ALOHA's adapt_to_pi (signs, grippers) is not offered here. Prompts have spaces in the "
    "place of underscores there"
)
ELSEWHERE = {
    "pi0": (_TRANSFORMS,),
    "pi0.5": (
        _TRANSFORMS,
        "a training config with discrete_state_input=False, as openpi's pi05_libero, keeps the state out of the prompt; "
        "LeRobot's pi0.5 always has it there, which such a checkpoint was not trained with",
    ),
}
"""By model: what openpi says in its training config alone."""

Stats = dict[str, dict[str, Tensor]]


def is_openpi(fields: Mapping[str, Any]) -> bool:
    """Returns whether these are the fields of openpi's config.json and not of LeRobot's, which has a `type`."""
    return "type" not in fields and fields.keys() >= set(FIELDS)


def why_not_lerobots(source: CheckpointSource) -> str | None:
    """Returns what to do with a checkpoint of openpi's that LeRobot cannot load as it is; None for any other."""
    path = source.find(CONFIG_FILE)
    if path is not None:
        if not is_openpi(read_json(path)):
            return None
        return f"{source}: openpi's converted checkpoint; `lerobot-pi0-ttnn convert {source} DST` makes a policy of it."
    folder = Path(source.path_or_repo_id).expanduser() / (source.subfolder or "")
    if (folder / "params").is_dir():
        return (
            f"{source}: openpi's JAX checkpoint; run its examples/convert_jax_model_to_pytorch.py on it, then "
            "`lerobot-pi0-ttnn convert` on the result."
        )
    if (folder / "metadata.pt").is_file() or (folder / ASSETS).is_dir():
        example = json.dumps(
            {"action_dim": 32, "action_horizon": 50} | dict(zip(FIELDS[2:], ("gemma_2b", "gemma_300m"), strict=True))
        )
        return (
            f"{source}: weights of openpi's train_pytorch.py, which writes no {CONFIG_FILE}; put one beside them with the "
            f"values of its training config, such as {example}, then run `lerobot-pi0-ttnn convert`."
        )
    return None


def lerobot_fields(source: CheckpointSource, *, quantiles: bool | None = None) -> dict[str, Any] | None:
    """Returns the fields of LeRobot's config.json for an openpi checkpoint; None for any other.

    The features are openpi's three cameras; of how many values state and actions are, the statistics say.

    Args:
        source: the checkpoint.
        quantiles: it was trained with `use_quantile_norm`; by default as openpi's configs have it, pi0.5 with and pi0 without.

    Raises:
        FileNotFoundError, PermissionError, ConnectionError: its weights cannot be had.
        ValueError: a model that this package does not run, or damaged weights.
    """
    path = source.find(CONFIG_FILE)
    if path is None or not is_openpi(fields := read_json(path)):
        return None
    for name in FIELDS[2:]:
        variant = str(fields[name])
        if variant.endswith("_lora"):
            raise ValueError(
                f"{path}: {name} is {variant}: openpi's converter drops the LoRA matrices, so that what was learned is not in "
                "the weights; merge them into the base weights in JAX (W + scaling * A @ B) and convert as "
                f"{variant.removesuffix('_lora')}."
            )
        if variant not in GEMMA_VARIANTS:
            raise ValueError(f"{path}: {name}: expected one of {', '.join(GEMMA_VARIANTS)}, got {variant!r}.")
    horizon, width = fields["action_horizon"], fields["action_dim"]
    for name in FIELDS[:2]:
        if not isinstance(fields[name], int) or fields[name] < 1:
            raise ValueError(f"{path}: {name}: expected a number from 1 on, got {fields[name]!r}.")
    is_pi05 = PI0WeightLoader(**vars(source)).layout.model == "pi0.5"
    mode = "QUANTILES" if (is_pi05 if quantiles is None else quantiles) else "MEAN_STD"
    image = {"type": "VISUAL", "shape": [3, 224, 224]}
    return {
        "type": "pi05" if is_pi05 else "pi0",
        "chunk_size": horizon,
        "n_action_steps": horizon,
        "max_state_dim": width,
        "max_action_dim": width,
        "paligemma_variant": fields["paligemma_variant"],
        "action_expert_variant": fields["action_expert_variant"],
        "dtype": "bfloat16" if fields.get("precision") == "bfloat16" else "float32",
        "normalization_mapping": {"VISUAL": "IDENTITY", "STATE": mode, "ACTION": mode},
        "input_features": {f"observation.images.{camera}": image for camera in CAMERAS},
    }


@dataclass(frozen=True)
class NormStats:
    """The statistics of an openpi checkpoint."""

    path: Path
    stats: Stats
    """By LeRobot's feature and statistic; with openpi's epsilon in them, so that LeRobot's formulas give its values."""
    notes: list[str]
    """What was left out, and what to know of the values."""


def read_norm_stats(source: CheckpointSource, asked: str | None, *, width: int, quantiles: bool) -> NormStats:
    """Returns the statistics of an openpi checkpoint.

    LeRobot divides by std + 1e-8, openpi by std + 1e-6; LeRobot by q99 - q01, openpi by q99 - q01 + 1e-6. So LeRobot is given
    std + 1e-6 and q99 + 1e-6: both directions are then openpi's, but for 1e-8 in the division by std.

    Args:
        source: the checkpoint.
        asked: one of its assets by name, or a norm_stats.json elsewhere, or the folder of one; needed where it has several.
        width: of the model's state and actions.
        quantiles: q01 and q99 are needed, else mean and std.

    Raises:
        ValueError: there are none, or several, or they are not openpi's, or cannot be of this model.
    """
    path = _choose(source, asked)
    try:
        saved = json.loads(path.read_text())["norm_stats"]
        raw = {
            ours: {
                name: torch.tensor(saved[theirs][name], dtype=torch.float64).flatten()
                for name in ("mean", "std", "q01", "q99")
                if saved[theirs].get(name) is not None
            }
            for theirs, ours in KEYS.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: expected openpi's norm_stats with mean and std of state and actions ({error!r}); make them with its "
            "scripts/compute_norm_stats.py."
        ) from error
    notes = []
    for feature, stats in raw.items():
        _check(path, feature, stats, width, ("q01", "q99") if quantiles else ("mean", "std"))
        if padding := _padding(stats, width):
            notes.append(
                f"{feature}: the last {padding} of {width} values are 0 throughout, openpi's padding, and are left out"
            )
            stats |= {name: value[:-padding] for name, value in stats.items()}
        spread = stats["q99"] - stats["q01"] if quantiles else stats["std"]
        if still := (spread == 0).nonzero().flatten().tolist():
            notes.append(
                f"{feature}: value(s) {', '.join(map(str, still))} never moved in training: anywhere else the policy sees 1e6 "
                "times the difference, as in openpi"
            )
        for name in {"std", "q99"} & stats.keys():
            stats[name] = stats[name] + EPSILON
    return NormStats(
        path, {feature: {name: value.float() for name, value in of.items()} for feature, of in raw.items()}, notes
    )


def _choose(source: CheckpointSource, asked: str | None) -> Path:
    if asked is not None:
        elsewhere = Path(asked).expanduser()
        for path in (elsewhere, elsewhere / NORM_STATS):
            if path.is_file():
                return path
    folder = source.find_folder(ASSETS)
    there = (
        {path.parent.relative_to(folder).as_posix(): path for path in sorted(folder.rglob(NORM_STATS))}
        if folder
        else {}
    )
    names = ", ".join(there)
    if asked is not None:
        if asked not in there:
            raise ValueError(
                f"--norm-stats: {asked}: neither a {NORM_STATS} nor the folder of one, nor one of the checkpoint's assets "
                f"({names or 'it has none'})."
            )
        return there[asked]
    if not there:
        raise ValueError(
            f"{source}: has no {ASSETS}/*/{NORM_STATS}, without which state and actions have no scale; copy the assets of the "
            "JAX checkpoint there, or give --norm-stats FILE."
        )
    if len(there) > 1:
        raise ValueError(
            f"{source}: has the statistics of several robots: {names}; choose that of yours with --norm-stats NAME."
        )
    return next(iter(there.values()))


def _padding(stats: Mapping[str, Tensor], width: int) -> int:
    """Returns how many values at the end are openpi's padding: zero in every statistic, in statistics as wide as the model."""
    if not stats or any(len(value) != width for value in stats.values()):
        return 0
    used = torch.stack([value != 0 for value in stats.values()]).any(dim=0).nonzero().flatten()
    return width - 1 - int(used[-1]) if len(used) else 0


def _check(path: Path, feature: str, stats: Mapping[str, Tensor], width: int, needed: tuple[str, str]) -> None:
    where = f"{path}: {feature}"
    missing = [name for name in needed if name not in stats]
    if missing:
        raise ValueError(
            f"{where}: expected {' and '.join(needed)}, got no {' and no '.join(missing)}; {OTHERWISE[needed]}."
        )
    widths = {name: len(value) for name, value in stats.items()}
    if len(set(widths.values())) > 1 or not 0 < widths[needed[0]] <= width:
        raise ValueError(
            f"{where}: expected as many values in each statistic, 1 to {width} (action_dim in {CONFIG_FILE}), got {widths}."
        )
    broken = [name for name, value in stats.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise ValueError(
            f"{where}: {', '.join(broken)} not finite; make them anew with openpi's scripts/compute_norm_stats.py."
        )
    low, high = (torch.zeros_like(stats["std"]), stats["std"]) if needed[0] == "mean" else (stats["q01"], stats["q99"])
    if bool((high < low).any()):
        raise ValueError(
            f"{where}: {needed[0]} and {needed[1]} cannot be: {'std below 0' if needed[0] == 'mean' else 'q99 below q01'}."
        )
