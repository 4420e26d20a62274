"""Whether prompts can be tokenized, and as the model was trained."""

from collections.abc import Iterator

from ..checkpoint.files import CheckpointSource
from ..checkpoint.tokenizer import NamedTokenizer, TokenizerState, inspect_checkpoint_tokenizer, inspect_tokenizer
from ..configuration_pi0_ttnn import PI0TTNNConfig
from .problem import Problem, Subject


def check_tokenizer(subject: Subject) -> Iterator[Problem]:
    """Yields what is wrong with the tokenizer that the checkpoint names.

    What is wrong with the checkpoint is an error; that its tokenizer is not on this machine is a warning, for the policy needs
    none. So is what would be wrong with processors that are not made yet.
    """
    named = checkpoint_tokenizer(subject.config, subject.source)
    state = named.state
    if state.problem:
        is_error = state.is_fatal and named.by_preprocessor
        yield Problem("error" if is_error else "warning", "tokenizer", state.problem, state.fix)


def checkpoint_tokenizer(config: PI0TTNNConfig, source: CheckpointSource) -> NamedTokenizer:
    """Returns what is known of the tokenizer that a checkpoint's preprocessor names, or else its config."""
    return inspect_checkpoint_tokenizer(
        source,
        otherwise=config.tokenizer_name,
        vocab_size=config.model_config().vocab_size,
        is_paligemma=config.architecture == "pi0",
    )


def other_tokenizer(config: PI0TTNNConfig, name: str) -> TokenizerState:
    """Returns what is known of a tokenizer, a folder or Hub id, that a checkpoint might have instead."""
    return inspect_tokenizer(
        name, vocab_size=config.model_config().vocab_size, is_paligemma=config.architecture == "pi0"
    )
