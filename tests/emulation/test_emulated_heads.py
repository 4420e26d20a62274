"""Heads and attention against torch written by hand."""

from __future__ import annotations

import pytest
import torch

ttnn = pytest.importorskip("ttnn")


def heads_by_hand(joined: torch.Tensor, first: int, count: int, size: int) -> torch.Tensor:
    """(1, S, width) -> (1, count, S, size), from column `first` on."""
    return torch.stack([joined[:, :, first + n * size : first + (n + 1) * size] for n in range(count)], dim=1)


@pytest.mark.parametrize(("heads", "kv_heads"), [pytest.param(8, 1, id="gemma"), pytest.param(4, 4, id="siglip")])
@pytest.mark.parametrize("transposed", [False, True])
def test_nlp_create_qkv_heads(draw, upload, agrees, heads, kv_heads, transposed):
    length, size = 64, 32
    joined = draw(1, 1, length, (heads + 2 * kv_heads) * size)
    query, key, value = ttnn.experimental.nlp_create_qkv_heads(
        upload(joined), num_heads=heads, num_kv_heads=kv_heads, transpose_k_heads=transposed
    )
    expected_key = heads_by_hand(joined[0], heads * size, kv_heads, size)
    agrees(query, heads_by_hand(joined[0], 0, heads, size), exact=True)
    agrees(key, expected_key.transpose(2, 3) if transposed else expected_key, exact=True)
    agrees(value, heads_by_hand(joined[0], (heads + kv_heads) * size, kv_heads, size), exact=True)


def test_nlp_create_qkv_heads_transposes_keys_unless_told(draw, upload):
    _, key, _ = ttnn.experimental.nlp_create_qkv_heads(upload(draw(1, 1, 64, 320)), num_heads=8, num_kv_heads=1)
    assert tuple(key.shape) == (1, 1, 32, 64)


def test_nlp_create_qkv_heads_of_separate_keys(draw, upload, agrees):
    query, key_value = draw(1, 1, 64, 128), draw(1, 1, 64, 64)
    q, k, v = ttnn.experimental.nlp_create_qkv_heads(
        upload(query), upload(key_value), num_heads=4, num_kv_heads=1, transpose_k_heads=False
    )
    agrees(q, heads_by_hand(query[0], 0, 4, 32), exact=True)
    agrees(k, key_value[..., :32], exact=True)
    agrees(v, key_value[..., 32:], exact=True)


def test_nlp_concat_heads(draw, upload, agrees):
    heads = draw(2, 8, 64, 32)
    joined = torch.cat([heads[:, n] for n in range(8)], dim=-1).unsqueeze(1)
    agrees(ttnn.experimental.nlp_concat_heads(upload(heads)), joined, exact=True)


def attention_by_hand(query, key, value, *, mask=None, scale):
    """Head by head, query by query. key, value: (1, K, S, H)."""
    group = query.shape[1] // key.shape[1]
    attended = torch.empty_like(query)
    for head in range(query.shape[1]):
        scores = query[0, head] @ key[0, head // group].T * scale
        scores = scores if mask is None else scores + mask
        weights = scores.exp() / scores.exp().sum(dim=-1, keepdim=True)
        attended[0, head] = weights @ value[0, head // group]
    return attended


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("scale", [None, 0.5])
@pytest.mark.parametrize(("heads", "kv_heads"), [pytest.param(8, 1, id="gemma"), pytest.param(8, 4, id="groups")])
def test_attention(draw, upload, agrees, heads, kv_heads, scale, masked):
    query, key, value = draw(1, heads, 64, 64), draw(1, kv_heads, 96, 64), draw(1, kv_heads, 96, 64)
    mask = torch.zeros(1, 1, 64, 96)
    mask[..., :32, 40:] = -1e4
    mask[..., 7] = -1e4
    attended = ttnn.transformer.scaled_dot_product_attention(
        upload(query),
        upload(key),
        upload(value),
        attn_mask=upload(mask) if masked else None,
        is_causal=False,
        scale=scale,
    )
    expected = attention_by_hand(
        query, key, value, mask=mask[0, 0] if masked else None, scale=64**-0.5 if scale is None else scale
    )
    agrees(attended, expected)


def test_attention_is_causal_unless_told(draw, upload, agrees):
    query, key, value = draw(1, 2, 64, 64), draw(1, 2, 64, 64), draw(1, 2, 64, 64)
    attended = ttnn.transformer.scaled_dot_product_attention(upload(query), upload(key), upload(value))
    future = torch.triu(torch.full((64, 64), -torch.inf), diagonal=1)
    agrees(attended, attention_by_hand(query, key, value, mask=future, scale=1 / 8))


def test_attention_refuses_a_mask_over_padded_keys(draw, upload):
    query, key = draw(1, 8, 51, 64), draw(1, 1, 115, 64)
    attend = ttnn.transformer.scaled_dot_product_attention
    with pytest.raises(NotImplementedError, match="115 keys with a mask"):
        attend(upload(query), upload(key), upload(key), attn_mask=upload(torch.zeros(1, 1, 51, 115)), is_causal=False)
    attend(upload(query), upload(key), upload(key), is_causal=False)


def test_attention_with_heads_joined(draw, upload, agrees):
    query, key, value = draw(1, 8, 64, 64), draw(1, 1, 64, 64), draw(1, 1, 64, 64)
    joined = ttnn.transformer.scaled_dot_product_attention(
        upload(query), upload(key), upload(value), is_causal=False, output_concat_heads=True
    )
    split = attention_by_hand(query, key, value, scale=1 / 8)
    agrees(joined, torch.cat([split[:, n] for n in range(8)], dim=-1).unsqueeze(1))
