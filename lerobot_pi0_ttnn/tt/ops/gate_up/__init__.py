"""Gemma's gate, up, GELU and their product in one program of our own. Tested in tests/parity/test_tt_gate_up.py."""

from .gate_up import GATE_UP, gate_up
from .plan import GateUpPlan, gate_up_plan

__all__ = ["GATE_UP", "GateUpPlan", "gate_up", "gate_up_plan"]
