"""Programs of our own kernels, a folder each: host code, kernels, golden and cost."""

from .add_projection import ADD_PROJECTION
from .attend import ATTEND
from .gate_up import GATE_UP
from .group_matmul import GROUP_MATMUL
from .heads import SPLIT_HEADS

PROGRAMS = (ADD_PROJECTION, ATTEND, GATE_UP, GROUP_MATMUL, SPLIT_HEADS)
"""All of them."""
