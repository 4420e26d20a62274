"""Heads, RoPE and caches in one program of our own."""

from .split_heads import KERNELS, split_heads

__all__ = ["KERNELS", "split_heads"]
