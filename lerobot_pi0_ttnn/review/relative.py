"""Whether actions that are relative to the robot's state become absolute ones again, and where they would drift."""

from collections.abc import Iterator

from ..checkpoint.processors import ABSOLUTE, ACTION, NORMALIZER, RELATIVE, STATE, UNNORMALIZER, SavedPipeline
from .problem import Problem, Severity, Subject
from .statistics import AGAIN, normalised
from .widths import statistics_width

SUBJECT = "relative actions"
CONSISTENT = "set `enabled` of both steps, and use_relative_actions in config.json, to what it was trained with"


def are_relative(subject: Subject) -> bool:
    """Returns whether the policy's actions are relative to the state: the pipelines count, the config where there are none."""
    pre = subject.processors.preprocessor
    return _is_on(pre, RELATIVE) if pre else subject.config.use_relative_actions


def check_relative_actions(subject: Subject) -> Iterator[Problem]:
    """Yields what is wrong with relative actions; and a note where there are any."""
    pre, post = subject.processors.preprocessor, subject.processors.postprocessor
    if pre and post:
        yield from _check_switches(pre, post, configured=subject.config.use_relative_actions)
        yield from _check_order(pre, post)
    if not are_relative(subject):
        return
    yield _problem(
        "note",
        "actions are relative to the state at their chunk's observation; select_action (lerobot-eval, lerobot-rollout without "
        "real-time chunking) refuses them, because its post-processing adds the state of the tick, which drifts. "
        "--inference.type=rtc and serve post-process whole chunks; else set --policy.n_action_steps=1",
        "",
    )
    yield from _check_excluded(subject)
    widths = {each.feature: statistics_width(each) for each in normalised(subject)}
    if (state := widths[STATE]) and (action := widths[ACTION]) and state < action:
        yield _problem("error", f"{action} actions cannot be relative to a state of {state} values", AGAIN)


def _check_switches(pre: SavedPipeline, post: SavedPipeline, *, configured: bool) -> Iterator[Problem]:
    makes, undoes = _is_on(pre, RELATIVE), _is_on(post, ABSOLUTE)
    if makes != undoes:
        on, off = (pre, post) if makes else (post, pre)
        yield _problem(
            "error", f"{on.path.name} has them, {off.path.name} has not: the arm would go astray", CONSISTENT
        )
    elif configured and not makes:
        message = (
            "the config says use_relative_actions, its processors take actions as absolute: the arm would go astray"
        )
        yield _problem("error", message, CONSISTENT)
    elif makes and not configured:
        message = "the config does not say use_relative_actions, its processors take actions as relative, which is what happens"
        yield _problem("warning", message, CONSISTENT)


def _check_order(pre: SavedPipeline, post: SavedPipeline) -> Iterator[Problem]:
    """Whether what is added is the state in the robot's units, to actions in those."""
    for pipeline, first, second in ((pre, RELATIVE, NORMALIZER), (post, UNNORMALIZER, ABSOLUTE)):
        names = list(pipeline.steps)
        is_on = _is_on(pipeline, RELATIVE) or _is_on(pipeline, ABSOLUTE)
        if is_on and first in names and second in names and names.index(first) > names.index(second):
            yield _problem("error", f"{pipeline.path.name} has {first} after {second}: units would be mixed", AGAIN)


def _check_excluded(subject: Subject) -> Iterator[Problem]:
    pre, config = subject.processors.preprocessor, subject.config
    excluded, names = config.relative_exclude_joints, config.action_feature_names
    if pre:
        excluded, names = pre.steps[RELATIVE].get("exclude_joints") or [], pre.steps[RELATIVE].get("action_names")
    excluded = [str(token) for token in excluded if token]
    if not excluded:
        return
    if not names:
        yield _problem(
            "warning",
            f"{', '.join(excluded)} is to stay absolute, but there are no action_names, so that all are relative (but with "
            "LeRobot's real-time chunking, which then takes the config's or the robot's names)",
            "write action_names of relative_actions_processor into policy_preprocessor.json, if it was trained with them",
        )
    elif not any(token.lower() in str(name).lower() for token in excluded for name in names):
        yield _problem(
            "warning",
            f"{', '.join(excluded)} is to stay absolute, but is none of {', '.join(map(str, names))}: all are relative",
            "see that exclude_joints and action_names in policy_preprocessor.json are those of the training",
        )


def _is_on(pipeline: SavedPipeline, step: str) -> bool:
    return bool(pipeline.steps.get(step, {}).get("enabled", False))


def _problem(severity: Severity, message: str, fix: str) -> Problem:
    return Problem(severity, SUBJECT, message, fix)
