"""A matmul of many rows in one program of our own, its rows divided among groups of cores, and added to the stream.

Tested in tests/parity/test_tt_group_matmul.py.
"""

from .group_matmul import GROUP_MATMUL, group_matmul
from .plan import GroupMatmulPlan, cycles, group_matmul_plan, written_cycles

__all__ = ["GROUP_MATMUL", "GroupMatmulPlan", "cycles", "group_matmul", "group_matmul_plan", "written_cycles"]
