"""Whether the prompt reaches the policy as pi0 or pi0.5 was trained to see it."""

from collections.abc import Iterator

from ..checkpoint.processors import NEW_LINE, NORMALIZER, PREPROCESSOR, STATE_IN_PROMPT, TOKENIZER
from .problem import Problem, Subject
from .statistics import AGAIN

SUBJECT = "prompt"


def check_prompt(subject: Subject) -> Iterator[Problem]:
    """Yields what the preprocessor does to the prompt that the model does not expect."""
    pre, config = subject.processors.preprocessor, subject.config
    if pre is None:
        return
    if TOKENIZER not in pre.steps:
        if not any("token" in name for name in pre.steps):
            yield Problem("error", SUBJECT, f"no step of {PREPROCESSOR} tokenizes it", AGAIN)
        return
    if config.model_config().expert.adaptive_norms:
        yield from _check_state_in_prompt(list(pre.steps))
    elif NEW_LINE not in pre.steps:
        yield Problem(
            "warning",
            SUBJECT,
            f"{PREPROCESSOR} has no {NEW_LINE}: prompts would not end with the line break with which pi0's do",
            f"unless it was trained so, {AGAIN}",
        )
    settings = pre.steps[TOKENIZER]
    length = settings.get("max_length", 512)
    if length != config.tokenizer_max_length:
        yield Problem(
            "warning",
            SUBJECT,
            f"{PREPROCESSOR} cuts it at {length} tokens, which is what happens; the config says {config.tokenizer_max_length}",
            f"write what it was trained with into {PREPROCESSOR} and config.json (tokenizer_max_length)",
        )


def _check_state_in_prompt(steps: list[str]) -> Iterator[Problem]:
    """Whether pi0.5 is told the state, and in [-1, 1]."""
    if STATE_IN_PROMPT not in steps:
        yield Problem(
            "error",
            SUBJECT,
            f"{PREPROCESSOR} has no {STATE_IN_PROMPT}: the model would never see the state, which pi0.5 reads in the prompt",
            AGAIN,
        )
    elif NORMALIZER in steps and steps.index(NORMALIZER) > steps.index(STATE_IN_PROMPT):
        yield Problem(
            "error",
            SUBJECT,
            f"{PREPROCESSOR} writes the state into it ({STATE_IN_PROMPT}) before it is normalised: its bins are of [-1, 1]",
            AGAIN,
        )
