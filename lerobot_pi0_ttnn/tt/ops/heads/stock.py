"""What `split_heads` does, by ttnn's own operations, for `--policy.programs=stock`: six or five where ours is one."""

from typing import Any

import ttnn


def split_heads_by_ttnn(
    qkv: ttnn.Tensor,
    cos: ttnn.Tensor,
    sin: ttnn.Tensor,
    keys: ttnn.Tensor,
    values: ttnn.Tensor,
    start: int,
    num_heads: int,
    *,
    sign: ttnn.Tensor,
    kernel: ttnn.WormholeComputeKernelConfig,
) -> ttnn.Tensor | None:
    """Returns the rotated queries, having stored the rotated keys and the values; see `split_heads`.

    Args:
        qkv: as there, like all that is not said here.
        cos: as there.
        sin: as there.
        keys: as there.
        values: as there.
        start: as there.
        num_heads: as there.
        sign: (1, 1, 1, H) float32, -1 for the first half of the head and 1 for the second: ttnn's op takes sines as they are.
        kernel: of the rotation.
    """
    size = keys.shape[-1]
    plain = ttnn.multiply(sin, sign)
    if num_heads:
        q, k, v = ttnn.experimental.nlp_create_qkv_heads(
            qkv, num_heads=num_heads, num_kv_heads=1, transpose_k_heads=False
        )
    else:
        q, (k, v) = None, (_columns(qkv, part * size, size) for part in range(2))
    rotary: dict[str, Any] = {"is_decode_mode": False, "compute_kernel_config": kernel}
    ttnn.fill_cache(keys, ttnn.experimental.rotary_embedding_hf(k, cos, plain, **rotary), 0, update_idx=start)
    ttnn.fill_cache(values, v, 0, update_idx=start)
    return None if q is None else ttnn.experimental.rotary_embedding_hf(q, cos, plain, **rotary)


def _columns(x: ttnn.Tensor, first: int, count: int) -> ttnn.Tensor:
    return ttnn.slice(x, [0, 0, 0, first], [1, 1, x.shape[-2], first + count])
