"""Heads, RoPE and caches in one program of our own. Tested in tests/parity/test_tt_heads.py."""

from .split_heads import SPLIT_HEADS, split_heads
from .stock import split_heads_by_ttnn

__all__ = ["SPLIT_HEADS", "split_heads", "split_heads_by_ttnn"]
