"""What ttnn's errors mean: a call that ttnn refuses leaves the board as it was, any other may have lost it."""

import re

REFUSED = re.compile(r"TT_FATAL|TT_THROW @ .*\n.*\nStatically allocated (dataflow|circular) buffers")
"""What ttnn begins an error with where it finds a call wrong, or too large for the memory, before it asks the board."""


class BoardError(RuntimeError):
    """The board failed while it was in use; the message says when, and what to do."""


def is_failure(error: RuntimeError) -> bool:
    """Returns whether an error that was raised while a board was in use puts the board itself in doubt.

    A card that hangs or falls off the bus shows as a RuntimeError of many wordings (`TT_THROW ... TIMEOUT: device timeout`,
    `Read 0xffffffff over PCIe ID 0`, ...): what is not known to be harmless counts.
    """
    return not isinstance(error, (BoardError, NotImplementedError)) and not REFUSED.match(str(error))


def said(error: Exception) -> str:
    """Returns what an error of ttnn says, on one line: without the place in its source and the backtrace."""
    text = str(error).split("\nbacktrace:")[0].split("\nLocation:")[0]
    text = re.sub(r"^TT_\w+ @ .*?\ninfo:\n", "", text, flags=re.DOTALL)
    return " ".join(text.split()).rstrip(".") or type(error).__name__
