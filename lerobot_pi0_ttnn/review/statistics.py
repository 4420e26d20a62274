"""Whether the statistics with which state and actions are normalised can be right."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lerobot.configs import NormalizationMode
from torch import Tensor

from ..checkpoint.processors import ACTION, POSTPROCESSOR, PREPROCESSOR, STATE
from ..configuration_pi0_ttnn import PI0TTNNConfig
from .problem import Problem, Severity, Subject

SUBJECT = "statistics"
FEATURES = {"STATE": STATE, "ACTION": ACTION}
"""What pi0 and pi0.5 normalise, by LeRobot's type of feature."""
NEEDED = {
    "MEAN_STD": ("mean", "std"),
    "MIN_MAX": ("min", "max"),
    "QUANTILES": ("q01", "q99"),
    "QUANTILE10": ("q10", "q90"),
}
"""Statistics that each of LeRobot's normalisations takes."""
HUGE = 1e6
"""No joint, in whatever unit, spreads over so many."""
STILL = 1e-6
"""A joint that spreads over less, in comparison with where it is, did not move in training."""
PLACEHOLDERS = "which normalises nothing: placeholders, not a data set's"
AGAIN = (
    "make the processors again from the data set that it was trained on: make_pre_post_processors(config, "
    "dataset_stats=dataset.meta.stats)"
)


@dataclass(frozen=True)
class Normalised:
    """How one feature is normalised.

    Attributes:
        feature: `observation.state` or `action`.
        file: the pipeline that does it.
        settings: those of its step; empty where there is none.
        mode: as the step says it.
        configured: as config.json says it.
        stats: of the feature, by name.
        others: the features of which the pipeline has statistics.
    """

    feature: str
    file: str
    settings: dict[str, Any]
    mode: str
    configured: str
    stats: dict[str, Tensor]
    others: Collection[str]

    def problem(self, severity: Severity, message: str, fix: str) -> Problem:
        """Returns a problem with this feature."""
        return Problem(severity, SUBJECT, f"{self.feature}: {message}", fix)


def check_statistics(subject: Subject) -> Iterator[Problem]:
    """Yields what is wrong with a checkpoint's statistics."""
    pipelines = (subject.processors.preprocessor, subject.processors.postprocessor)
    if None in pipelines:
        return
    features = normalised(subject)
    missing = missing_stats(subject.config, ())
    if missing and not any(each.others for each in features):
        yield missing_stats_problem(subject.config, missing)
        return
    for each in features:
        problems = list(_check_presence(each))
        yield from problems or _check_values(each)
        yield from _check_modes(each)
    yield from _check_both_sides(subject)
    yield from _check_pictures(subject)


def check_given_statistics(config: PI0TTNNConfig, stats: Mapping[str, Mapping[str, Any]]) -> Iterator[Problem]:
    """Yields what is wrong with the statistics of a data set from which processors are to be made."""
    if missing := missing_stats(config, stats):
        yield missing_stats_problem(config, missing)
    for kind, feature in FEATURES.items():
        mode = config.normalization_mapping.get(kind, NormalizationMode.IDENTITY).value
        values = {name: torch.as_tensor(value) for name, value in stats.get(feature, {}).items()}
        if mode in NEEDED and values:
            each = Normalised(feature, "the data set", {"norm_map": {kind: mode}}, mode, mode, values, stats.keys())
            yield from [*_check_needed(each)] or _check_values(each)


def normalised(subject: Subject) -> list[Normalised]:
    """Returns how state and actions are normalised, by the saved pipelines."""
    processors, configured = subject.processors, subject.config.normalization_mapping
    pre, post = processors.preprocessor, processors.postprocessor
    sides = (
        ("STATE", PREPROCESSOR, processors.normalizer, processors.state_stats, pre),
        ("ACTION", POSTPROCESSOR, processors.unnormalizer, processors.action_stats, post),
    )
    return [
        Normalised(
            FEATURES[kind],
            file,
            settings,
            mode=str((settings.get("norm_map") or {}).get(kind, "IDENTITY")),
            configured=configured.get(kind, NormalizationMode.IDENTITY).value,
            stats=stats,
            others=pipeline.stats.keys() if pipeline else (),
        )
        for kind, file, settings, stats, pipeline in sides
    ]


def missing_stats(config: PI0TTNNConfig, there: Collection[str]) -> list[str]:
    """Returns the features that `config` normalises and of which there are no statistics."""
    modes = config.normalization_mapping
    return [
        feature
        for kind, feature in FEATURES.items()
        if modes.get(kind, NormalizationMode.IDENTITY) is not NormalizationMode.IDENTITY and feature not in there
    ]


def missing_stats_problem(config: PI0TTNNConfig, missing: list[str]) -> Problem:
    """Returns what to tell a user whose checkpoint has no statistics for these features."""
    modes = [config.normalization_mapping[kind].value for kind, feature in FEATURES.items() if feature in missing]
    by = " or ".join(" and ".join(NEEDED.get(mode, (mode,))) for mode in dict.fromkeys(modes))
    return Problem(
        "warning",
        SUBJECT,
        f"{', '.join(missing)}: normalised by {by} in training, but the checkpoint has no statistics, so values pass "
        "unchanged and actions will be wrong on a real robot",
        "use a fine-tuned checkpoint, or make its processors from your data set: make_pre_post_processors(config, "
        "dataset_stats=dataset.meta.stats)",
    )


def _check_presence(each: Normalised) -> Iterator[Problem]:
    """Whether the feature is normalised at all, as it was in training."""
    if each.configured == "IDENTITY" and each.mode == "IDENTITY":
        if each.stats:
            yield each.problem(
                "note", "not normalised, though there are statistics: so the config and the pipeline say", ""
            )
        return
    if not each.settings:
        does = "normalises" if each.feature == STATE else "undoes the normalisation"
        yield each.problem("error", f"no step {does} in {each.file}", AGAIN)
    elif each.settings.get("norm_map") is None:
        yield each.problem("error", f"{each.file} does not say how it is normalised (norm_map)", AGAIN)
    elif each.mode not in NEEDED and each.mode != "IDENTITY":
        known = ", ".join(mode.value for mode in NormalizationMode)
        yield each.problem("error", f"LeRobot knows no normalisation {each.mode} ({each.file}), but {known}", AGAIN)
    elif not each.stats and each.others:
        others = ", ".join(sorted(each.others))
        yield each.problem("error", f"no statistics, but of {others} ({each.file}): values would pass unchanged", AGAIN)
    elif not each.stats:
        yield each.problem("error", f"no statistics in {each.file}, though its counterpart has some", AGAIN)
    elif each.feature == STATE and each.mode != "IDENTITY" and not _is_chosen(each.settings):
        yield each.problem("error", f"not among the features that {each.file} normalises", AGAIN)
    elif each.mode in NEEDED:
        yield from _check_needed(each)


def _check_needed(each: Normalised) -> Iterator[Problem]:
    if not set(NEEDED[each.mode]) <= each.stats.keys():
        there = ", ".join(sorted(each.stats))
        yield each.problem("error", f"{each.mode} needs {' and '.join(NEEDED[each.mode])}, got {there}", AGAIN)


def _is_chosen(settings: dict[str, Any]) -> bool:
    chosen = settings.get("normalize_observation_keys")
    return STATE in (settings.get("features") or {}) and (chosen is None or STATE in chosen)


def _check_values(each: Normalised) -> Iterator[Problem]:
    """Whether the numbers can be those of a data set."""
    if each.mode not in NEEDED:
        return
    names = NEEDED[each.mode]
    first, second = (each.stats[name].float().flatten() for name in names)
    if first.shape != second.shape or not first.numel():
        widths = f"{first.numel()} and {second.numel()}"
        yield each.problem("error", f"{' and '.join(names)} are of {widths} values", AGAIN)
        return
    broken = [name for name, value in zip(names, (first, second), strict=True) if not value.isfinite().all()]
    if broken:
        where = _values(~(first.isfinite() & second.isfinite()))
        yield each.problem(
            "error", f"{', '.join(broken)} {'is' if len(broken) == 1 else 'are'} not finite {where}", AGAIN
        )
        return
    low, high = (torch.zeros_like(second), second) if each.mode == "MEAN_STD" else (first, second)
    what = f"{names[1]} is 0" if each.mode == "MEAN_STD" else f"{names[0]} equals {names[1]}"
    if bool((high < low).any()):
        said = f"{names[1]} is negative" if each.mode == "MEAN_STD" else f"{names[0]} is above {names[1]}"
        yield each.problem("error", f"{said} {_values(high < low)}", AGAIN)
        return
    if bool((high == low).all()):
        yield each.problem("error", f"{what} everywhere", AGAIN)
        return
    still = high - low <= STILL * torch.maximum(first.abs(), torch.ones_like(first))
    if bool(still.any()) and each.feature == STATE:
        yield each.problem(
            "warning",
            f"{what}, or next to it, {_values(still)}, which never moved in training: where it is elsewhere the policy sees "
            "up to 1e8 times the difference",
            "keep it where it was in training, or leave it out of the robot's state",
        )
    reach = float(torch.maximum(first.abs().max(), second.abs().max()))
    if reach > HUGE:
        name = names[0] if float(first.abs().max()) == reach else names[1]
        yield each.problem("warning", f"{name} reaches {reach:.0e}, which no joint does", AGAIN)
    if each.mode == "MEAN_STD":
        yield from _check_mean_and_std(each, first, second)
    elif each.feature == STATE and bool((first == -1).all() and (second == 1).all()):
        yield each.problem("warning", f"{names[0]} -1 and {names[1]} 1 everywhere, {PLACEHOLDERS}", AGAIN)


def _check_mean_and_std(each: Normalised, mean: Tensor, std: Tensor) -> Iterator[Problem]:
    if bool((mean == 0).all() and (std == 1).all()):
        yield each.problem("warning", f"mean 0 and std 1 everywhere, {PLACEHOLDERS}", AGAIN)
    extremes = [each.stats.get(name) for name in ("min", "max")]
    if any(extreme is None or extreme.numel() != mean.numel() for extreme in extremes):
        return
    low, high = (extreme.float().flatten() for extreme in extremes if extreme is not None)
    slack = 1e-3 * (high - low).abs() + 1e-4 * torch.maximum(low.abs(), high.abs()) + 1e-6
    if bool(((mean < low - slack) | (mean > high + slack)).any()):
        where = _values((mean < low - slack) | (mean > high + slack))
        yield each.problem("error", f"mean is not between min and max {where}", AGAIN)
    elif bool((std > high - low + slack).any()):
        yield each.problem("error", f"std is more than max - min {_values(std > high - low + slack)}", AGAIN)


def _check_modes(each: Normalised) -> Iterator[Problem]:
    """Whether the config and the pipeline, which counts, say the same."""
    if each.settings and each.mode != each.configured:
        yield each.problem(
            "warning",
            f"the config says {each.configured}, {each.file} {each.mode}, which is what happens",
            f"write into {each.file} or config.json (normalization_mapping) what it was trained with",
        )


def _check_both_sides(subject: Subject) -> Iterator[Problem]:
    """Whether both pipelines treat actions alike: LeRobot trains with the preprocessor's side and runs with the other."""
    pre, post = subject.processors.preprocessor, subject.processors.postprocessor
    if pre is None or post is None:
        return
    modes = [
        str((settings.get("norm_map") or {}).get("ACTION"))
        for settings in (subject.processors.normalizer, subject.processors.unnormalizer)
        if settings
    ]
    if len(set(modes)) > 1 and "None" not in modes:
        message = f"{ACTION}: {PREPROCESSOR} normalises by {modes[0]}, {POSTPROCESSOR} undoes {modes[1]}"
        yield Problem("error", SUBJECT, message, f"use the two that were saved together, or {AGAIN}")
    ours, theirs = pre.stats.get(ACTION, {}), post.stats.get(ACTION, {})
    differing = [
        name
        for name in sorted(ours.keys() & theirs.keys())
        if ours[name].shape != theirs[name].shape
        or not torch.allclose(ours[name].float(), theirs[name].float(), rtol=1e-4, atol=1e-6, equal_nan=True)
    ]
    if differing:
        yield Problem(
            "warning",
            SUBJECT,
            f"{ACTION}: the preprocessor's {', '.join(differing)} {'differs' if len(differing) == 1 else 'differ'} from the "
            "postprocessor's, which turns the policy's actions into the robot's",
            f"use the two that were saved together, or {AGAIN}",
        )


def _check_pictures(subject: Subject) -> Iterator[Problem]:
    """Whether pictures arrive as the model takes them, in [0, 1]."""
    settings, pre = subject.processors.normalizer, subject.processors.preprocessor
    mode = str((settings.get("norm_map") or {}).get("VISUAL", "IDENTITY"))
    cameras = subject.config.image_features.keys() & (settings.get("features") or {}).keys()
    normalised = sorted(cameras & pre.stats.keys()) if pre else []
    if mode != "IDENTITY" and normalised:
        yield Problem(
            "error",
            SUBJECT,
            f"{', '.join(normalised)}: {PREPROCESSOR} normalises pictures ({mode}), and the model takes them in [0, 1]",
            f"write VISUAL: IDENTITY into its norm_map, if it was trained so, or {AGAIN}",
        )


def _values(mask: Tensor) -> str:
    """Returns `for value 2` and the like, or `everywhere`."""
    indices = mask.nonzero().flatten().tolist()
    if len(indices) == mask.numel():
        return "everywhere"
    return f"for value{'s' if len(indices) > 1 else ''} {', '.join(str(index) for index in indices)}"
