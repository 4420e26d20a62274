"""What an op computes, in torch: golden functions that ttnn lacks, and those of its own that leave an argument out.

A golden function takes the op's arguments, with float32 torch tensors (or integers) in place of ttnn's, and may write
into them. Arguments which change no value (memory, program and kernel configs) fall into `**_`.
"""

from collections.abc import Callable
from typing import Any

from .activation import gelu
from .attention import scaled_dot_product_attention
from .cache import slice_write
from .heads import nlp_concat_heads, nlp_create_qkv_heads
from .layout import pad
from .matmul import minimal_matmul
from .norm import layer_norm
from .rotary import rotary_embedding, rotary_embedding_hf

GOLDENS: dict[str, Callable[..., Any]] = {
    "ttnn.experimental.minimal_matmul": minimal_matmul,
    "ttnn.experimental.nlp_concat_heads": nlp_concat_heads,
    "ttnn.experimental.nlp_create_qkv_heads": nlp_create_qkv_heads,
    "ttnn.experimental.rotary_embedding": rotary_embedding,
    "ttnn.experimental.rotary_embedding_hf": rotary_embedding_hf,
    "ttnn.experimental.slice_write": slice_write,
    "ttnn.gelu": gelu,
    "ttnn.layer_norm": layer_norm,
    "ttnn.pad": pad,
    "ttnn.transformer.scaled_dot_product_attention": scaled_dot_product_attention,
}
"""Ours, by op; every other op has ttnn's own."""
