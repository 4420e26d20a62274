"""Program configs as pure functions of shape and grid."""

import ttnn

TILE = 32
"""Rows and columns of a tile: what the device computes and stores in."""

KEY_CHUNK = 128
"""Keys that attention takes at a time. Caches are whole chunks long: SDPA leaks the padding of a part of one."""

QUERY_CHUNKS = (128, 64, 32)


def round_up(size: int, multiple: int) -> int:
    """Returns the smallest multiple that is no less than `size`."""
    return -(-size // multiple) * multiple


def whole_grid(device: ttnn.Device) -> ttnn.CoreGrid:
    """Returns all the workers of the device."""
    size = device.compute_with_storage_grid_size()
    return ttnn.CoreGrid(x=size.x, y=size.y)


def query_chunk(queries: int, heads: int, workers: int) -> int:
    """Returns how many queries a core takes at a time: as many as leave no part of a chunk, fewer where cores would idle.

    Args:
        queries: a multiple of `TILE`.
        heads: of all rows of the batch.
        workers: cores; each takes whole chunks of one head.
    """
    whole = [chunk for chunk in QUERY_CHUNKS if queries % chunk == 0]
    spread = [chunk for chunk in whole[1:] if heads * queries // chunk <= workers]
    return spread[-1] if spread else whole[0]


def sdpa_program(device: ttnn.Device, heads: int, queries: int, keys: int) -> ttnn.SDPAProgramConfig:
    """Returns the config for attention of `queries` to `keys`, both multiples of `TILE`, on the device's own grid.

    Args:
        device: of which all workers take part.
        heads: of all rows of the batch.
        queries: of each head.
        keys: of each head.
    """
    grid = device.compute_with_storage_grid_size()
    return ttnn.SDPAProgramConfig(
        compute_with_storage_grid_size=grid,
        q_chunk_size=query_chunk(queries, heads, grid.x * grid.y),
        k_chunk_size=next(chunk for chunk in (KEY_CHUNK, 64, 32) if keys % chunk == 0),
        exp_approx_mode=False,
    )
