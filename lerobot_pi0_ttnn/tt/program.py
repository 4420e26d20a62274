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


def query_chunk(queries: int) -> int:
    """Returns how many queries one core takes at a time: the largest chunk that leaves no part of one.

    Args:
        queries: a multiple of `TILE`.
    """
    return next(chunk for chunk in QUERY_CHUNKS if queries % chunk == 0)


def sdpa_program(device: ttnn.Device, queries: int, keys: int) -> ttnn.SDPAProgramConfig:
    """Returns the config for attention of `queries` to `keys`, both multiples of `TILE`, on the device's own grid."""
    return ttnn.SDPAProgramConfig(
        compute_with_storage_grid_size=device.compute_with_storage_grid_size(),
        q_chunk_size=query_chunk(queries),
        k_chunk_size=next(chunk for chunk in (KEY_CHUNK, 64, 32) if keys % chunk == 0),
        exp_approx_mode=False,
    )
