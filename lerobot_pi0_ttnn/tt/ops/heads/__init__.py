"""Heads, RoPE and caches in one program of our own. Tested in tests/parity/test_tt_heads.py."""

from .split_heads import SPLIT_HEADS, split_heads

__all__ = ["SPLIT_HEADS", "split_heads"]
