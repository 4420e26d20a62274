"""What an op computes, in torch: golden functions that ttnn lacks, and those of its own that leave an argument out.

A golden function takes the op's arguments, with float32 torch tensors (or integers) in place of ttnn's, and may write
into them. Arguments which change no value (memory, program and kernel configs) fall into `**_`.
"""

from collections.abc import Callable
from typing import Any

from .attention import scaled_dot_product_attention
from .heads import nlp_concat_heads, nlp_create_qkv_heads
from .norm import layer_norm
from .rotary import rotary_embedding_hf

GOLDENS: dict[str, Callable[..., Any]] = {
    "ttnn.experimental.nlp_concat_heads": nlp_concat_heads,
    "ttnn.experimental.nlp_create_qkv_heads": nlp_create_qkv_heads,
    "ttnn.experimental.rotary_embedding_hf": rotary_embedding_hf,
    "ttnn.layer_norm": layer_norm,
    "ttnn.transformer.scaled_dot_product_attention": scaled_dot_product_attention,
}
"""Ours, by op; every other op has ttnn's own, which for some leaves arguments out: compare a new op with torch first."""
