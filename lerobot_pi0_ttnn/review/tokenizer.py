"""Whether the tokenizer can be had."""

from collections.abc import Iterator

from ..checkpoint.processors import tokenizer_problem
from .problem import Problem, Subject


def check_tokenizer(subject: Subject) -> Iterator[Problem]:
    """Yields what keeps the tokenizer from being loaded."""
    name = subject.processors.tokenizer_name or subject.config.tokenizer_name
    if problem := tokenizer_problem(name):
        message, _, fix = problem.rstrip(".").partition("; ")
        yield Problem("warning", "tokenizer", f"it cannot be had: {message}", fix or "name another folder or Hub id")
