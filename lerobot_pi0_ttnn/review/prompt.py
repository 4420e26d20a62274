"""Whether the prompt reaches the policy as pi0 was trained to see it."""

from collections.abc import Iterator

from ..checkpoint.processors import NEW_LINE, PREPROCESSOR, TOKENIZER
from .problem import Problem, Subject
from .statistics import AGAIN

SUBJECT = "prompt"


def check_prompt(subject: Subject) -> Iterator[Problem]:
    """Yields what the preprocessor does to the prompt that pi0 does not expect."""
    pre, config = subject.processors.preprocessor, subject.config
    if pre is None:
        return
    if TOKENIZER not in pre.steps:
        if not any("token" in name for name in pre.steps):
            yield Problem("error", SUBJECT, f"no step of {PREPROCESSOR} tokenizes it", AGAIN)
        return
    if NEW_LINE not in pre.steps:
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
