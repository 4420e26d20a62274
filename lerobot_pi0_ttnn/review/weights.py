"""Whether the tensors are those of the model, by their headers."""

from collections.abc import Iterator

from ..model.tensors import check_shapes
from .problem import Problem, Subject


def check_weights_fit(subject: Subject) -> Iterator[Problem]:
    """Yields which tensors are missing, too many or of another shape.

    Weights that cannot be opened are left to whoever opens them next, with the error that says why.
    """
    try:
        shapes = subject.weights.shapes()
    except (OSError, ValueError):
        return
    try:
        check_shapes(subject.config.model_config(), shapes, where=str(subject.source))
    except ValueError as error:
        message, _, fix = str(error).rstrip(".").rpartition("\n")
        yield Problem("error", "weights", message, fix)
