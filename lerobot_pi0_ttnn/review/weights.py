"""Whether the tensors are those of the model, by their headers."""

from collections.abc import Iterator

from ..checkpoint import CheckpointWeights
from ..configuration_pi0_ttnn import PI0TTNNConfig
from ..model.tensors import check_shapes
from .problem import Problem, Subject


def check_weights_fit(subject: Subject) -> Iterator[Problem]:
    """Yields which tensors are missing, too many or of another shape; or of which other model they are.

    Weights that cannot be opened are left to whoever opens them next, with the error that says why.
    """
    try:
        weights = subject.weights
    except (OSError, ValueError):
        return
    other = other_model(subject.config, weights)
    if other is not None:
        yield other
        return
    try:
        check_shapes(subject.config.model_config(), weights.shapes(), where=str(subject.source))
    except ValueError as error:
        message, _, fix = str(error).rstrip(".").rpartition("\n")
        yield Problem("error", "weights", message, fix)


def other_model(config: PI0TTNNConfig, weights: CheckpointWeights) -> Problem | None:
    """Returns what is wrong where the config is of pi0 and the weights are of pi0.5, or the reverse; None where they agree."""
    model = weights.layout.model
    if model == config.model_name:
        return None
    return Problem(
        "error",
        "weights",
        f"{weights} are of {model}, and its config.json is of {config.model_name} (type {config.type})",
        "put the config.json beside them that was saved with them; it has other fields, too",
    )
