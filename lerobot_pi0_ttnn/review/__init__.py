"""What is wrong with a checkpoint, from its config and its small files, before its weights are read.

`from_pretrained`, `serve`, `info`, `doctor --checkpoint` and `convert` say of a checkpoint what `review` says, in its words. A
new check is a function in one of this folder's modules and a line in `CHECKS`.
"""

import logging
from collections.abc import Callable, Iterator, Sequence

from ..checkpoint.files import CheckpointSource
from ..checkpoint.processors import SavedProcessors, read_processors
from ..configuration_pi0_ttnn import PI0TTNNConfig
from .cameras import adopt_camera_aliases, check_cameras_and_names
from .problem import Problem, Severity, Subject
from .processors import check_processors
from .prompt import check_prompt
from .relative import are_relative, check_relative_actions
from .statistics import check_statistics
from .tokenizer import check_tokenizer
from .weights import check_weights_fit
from .widths import adopt_widths, check_widths

__all__ = ["CHECKS", "Problem", "Severity", "Subject", "admit", "refuse", "refuse_or_warn", "review", "settle_features"]

Check = Callable[[Subject], Iterator[Problem]]

CHECKS: tuple[Check, ...] = (
    check_statistics,
    check_widths,
    check_relative_actions,
    check_cameras_and_names,
    check_prompt,
    check_tokenizer,
    check_processors,
    check_weights_fit,
)
"""In this order; the weights' headers come last, since a Hub checkpoint is downloaded for them."""


def review(config: PI0TTNNConfig, source: CheckpointSource, *, checks: Sequence[Check] = CHECKS) -> list[Problem]:
    """Returns what is wrong with a checkpoint; empty where nothing is. No tensor of the model is read, only headers.

    Args:
        config: the one that the checkpoint is to run with.
        source: where it is.
        checks: which.

    Raises:
        FileNotFoundError, PermissionError: there is no such checkpoint.
    """
    problems, processors = _read(source)
    if problems:  # what they would have said is not known
        others = (check_weights_fit,) if problems[0].severity == "error" else (check_tokenizer, check_weights_fit)
        checks = [check for check in checks if check in others]
    subject = Subject(config, source, processors)
    for check in checks:
        problems += check(subject)
    return problems


def _read(source: CheckpointSource) -> tuple[list[Problem], SavedProcessors]:
    nothing = SavedProcessors(None, None)
    try:
        processors = read_processors(source)
    except ConnectionError as error:
        fix = "see that the folder or the Hub's cache has all of the checkpoint's files"
        return [Problem("warning", "processors", f"they could not be looked for. {error}".rstrip("."), fix)], nothing
    except ValueError as error:
        message, _, fix = str(error).rstrip(".").rpartition("; ")
        return [Problem("error", "processors", message, fix)], nothing
    return [], processors


def settle_features(config: PI0TTNNConfig, source: CheckpointSource) -> None:
    """Writes into the config what the checkpoint's processors decide: widths, cameras' names, relative actions."""
    _, processors = _read(source)
    subject = Subject(config, source, processors)
    adopt_widths(subject)
    adopt_camera_aliases(subject)
    config.use_relative_actions = are_relative(subject)


def admit(config: PI0TTNNConfig, source: CheckpointSource) -> list[str]:
    """Returns the warnings about a checkpoint that can run, its config settled and with LeRobot's features; reads no weights.

    Raises:
        ValueError: it cannot run.
    """
    problems = review(config, source)
    refuse(problems, source)
    settle_features(config, source)
    config.validate_features()
    return [str(problem) for problem in problems if problem.severity == "warning"]


def refuse_or_warn(problems: Sequence[Problem], source: CheckpointSource | str, logger: logging.Logger) -> None:
    """Logs each warning, and each note as INFO; errors it raises.

    Args:
        problems: what `review` returned.
        source: what was reviewed, for the messages.
        logger: of whoever loads it.

    Raises:
        ValueError: there are errors; it lists them all.
    """
    for problem in problems:
        if problem.severity != "error":
            logger.log(logging.WARNING if problem.severity == "warning" else logging.INFO, "%s: %s", source, problem)
    refuse(problems, source)


def refuse(problems: Sequence[Problem], source: CheckpointSource | str) -> None:
    """Raises ValueError with all errors, if there are any."""
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors:
        what = "this checkpoint cannot run" if isinstance(source, CheckpointSource) else "these cannot be right"
        raise ValueError("\n".join([f"{source}: {what}.", *(f"  {error}" for error in errors)]))
