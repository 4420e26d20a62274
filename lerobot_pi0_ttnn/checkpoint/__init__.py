"""From a folder or a Hub id to pi0's tensors by name, strict both ways."""

from .loader import PI0WeightLoader

__all__ = ["PI0WeightLoader"]
