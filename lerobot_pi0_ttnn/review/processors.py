"""Whether a checkpoint has its two processors, or statistics where LeRobot <= 0.3 kept them."""

import re
from collections.abc import Iterator

import torch
from torch import Tensor

from ..checkpoint import MergedWeights
from ..checkpoint.processors import ACTION, POSTPROCESSOR, PREPROCESSOR, STATE
from .problem import Problem, Subject

IN_WEIGHTS = re.compile(r"^(?:un)?normalize_(?:inputs|outputs|targets)\.buffer_(observation_state|action)\.(\w+)$")


def check_processors(subject: Subject) -> Iterator[Problem]:
    """Yields which processors are absent, and whether the weights hold statistics that nothing would use."""
    processors = subject.processors
    pre, post = processors.preprocessor, processors.postprocessor
    if (pre is None) != (post is None):
        there, absent = (PREPROCESSOR, POSTPROCESSOR) if post is None else (POSTPROCESSOR, PREPROCESSOR)
        yield Problem("error", "processors", f"it has {there} but no {absent}", "fetch the whole folder")
        return
    old = statistics_in_weights(subject)
    if pre is not None:
        yield from _check_old_ones(subject, old)
    elif old:
        yield Problem(
            "error",
            "processors",
            "its statistics are among the weights, where LeRobot <= 0.3 kept them and nothing looks any more: state and "
            "actions would pass unchanged",
            "`lerobot-pi0-ttnn convert CKPT DST` moves them into processors",
        )
    else:
        yield Problem(
            "warning",
            "processors",
            "there are no saved processors, which lerobot-eval, lerobot-rollout and serve need",
            "`lerobot-pi0-ttnn convert CKPT DST` makes them",
        )


def statistics_in_weights(subject: Subject) -> dict[tuple[str, str], Tensor]:
    """Returns (feature, statistic) -> value, of LeRobot <= 0.3, which wrote infinity where there were none."""
    try:
        weights = subject.weights
    except (OSError, ValueError):  # whoever opens them next raises it
        return {}
    if isinstance(weights, MergedWeights):  # those would be the base model's
        return {}
    found = ((IN_WEIGHTS.match(name), name) for name in weights.layout.ignored)
    old = {(match[1].replace("_", "."), match[2]): weights.saved(name) for match, name in found if match}
    return {key: value for key, value in old.items() if not value.isinf().all()}


def _check_old_ones(subject: Subject, old: dict[tuple[str, str], Tensor]) -> Iterator[Problem]:
    used: dict[str, dict[str, Tensor]] = {
        STATE: subject.processors.state_stats,
        ACTION: subject.processors.action_stats,
    }
    differing = [
        f"{feature}.{statistic}"
        for (feature, statistic), value in old.items()
        if (counts := used[feature].get(statistic)) is not None and not _is_close(value, counts)
    ]
    if differing:
        yield Problem(
            "warning",
            "processors",
            f"there are other statistics among the weights ({', '.join(differing)}), left by LeRobot <= 0.3; those of the "
            "processors count",
            "make sure which are those of the training",
        )


def _is_close(a: Tensor, b: Tensor) -> bool:
    a, b = a.float().flatten(), b.float().flatten()
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-4, atol=1e-6)
