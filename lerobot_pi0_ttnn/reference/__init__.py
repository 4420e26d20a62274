"""pi0 and pi0.5 in PyTorch: in float32 the definition of correct, in bfloat16 what a CPU runs.

Each file has a twin in `tt/`, of pi0 so far.
"""

from .model import PI0ModelTorch

__all__ = ["PI0ModelTorch"]
