"""What of an error goes to a client."""


def message_of(error: Exception) -> str:
    """Returns what an error says; its type, too, where that is not known to be meant for a user."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return text if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {text}"
