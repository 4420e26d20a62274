"""From a folder or a Hub id to pi0's tensors by name, strict both ways."""

from .adapter import MergedWeights, open_weights
from .loader import PI0WeightLoader

CheckpointWeights = PI0WeightLoader | MergedWeights
"""What `open_weights` returns: a mapping that knows its shapes and its fingerprint, and can save itself."""

__all__ = ["CheckpointWeights", "MergedWeights", "PI0WeightLoader", "open_weights"]
