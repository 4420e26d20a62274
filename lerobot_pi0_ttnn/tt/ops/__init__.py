"""Programs of our own kernels, a folder each: host code, kernels, golden and cost."""

from .heads import SPLIT_HEADS

PROGRAMS = (SPLIT_HEADS,)
"""All of them."""
