"""Attention of few queries in one program of our own, the keys of each head divided among cores.

Tested in tests/parity/test_tt_attend.py.
"""

from .attend import ATTEND, attend
from .plan import AttendPlan, attend_plan

__all__ = ["ATTEND", "AttendPlan", "attend", "attend_plan"]
