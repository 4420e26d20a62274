"""What `split_heads` does, by ttnn's own operations, for `--policy.programs=stock`: six or five a row where ours is one."""

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
    batch, plain = keys.shape[0], ttnn.multiply(sin, sign)
    length = qkv.shape[-2] // batch
    queries = []
    for row in range(batch):
        # Rows of the batch may share the tables.
        own, own_cos, own_sin = (
            x if x.shape[-2] == length else _part(x, rows=(row * length, length)) for x in (qkv, cos, plain)
        )
        queries.append(_one_row(own, own_cos, own_sin, keys, values, row, start, num_heads, kernel))
    if not num_heads:
        return None
    return queries[0] if batch == 1 else ttnn.concat(queries, dim=0)


def _one_row(
    qkv: ttnn.Tensor,
    cos: ttnn.Tensor,
    sin: ttnn.Tensor,
    keys: ttnn.Tensor,
    values: ttnn.Tensor,
    row: int,
    start: int,
    num_heads: int,
    kernel: ttnn.WormholeComputeKernelConfig,
) -> ttnn.Tensor | None:
    size = keys.shape[-1]
    if num_heads:
        q, k, v = ttnn.experimental.nlp_create_qkv_heads(
            qkv, num_heads=num_heads, num_kv_heads=1, transpose_k_heads=False
        )
    else:
        q, (k, v) = None, (_part(qkv, columns=(part * size, size)) for part in range(2))
    rotary: dict[str, Any] = {"is_decode_mode": False, "compute_kernel_config": kernel}
    ttnn.fill_cache(keys, ttnn.experimental.rotary_embedding_hf(k, cos, sin, **rotary), row, update_idx=start)
    ttnn.fill_cache(values, v, row, update_idx=start)
    return None if q is None else ttnn.experimental.rotary_embedding_hf(q, cos, sin, **rotary)


def _part(
    x: ttnn.Tensor, *, rows: tuple[int, int] | None = None, columns: tuple[int, int] | None = None
) -> ttnn.Tensor:
    """Returns so many rows, or columns, of (1, 1, T, D), from the first one on."""
    (row, height), (column, width) = rows or (0, x.shape[-2]), columns or (0, x.shape[-1])
    return ttnn.slice(x, [0, 0, row, column], [1, 1, row + height, column + width])
