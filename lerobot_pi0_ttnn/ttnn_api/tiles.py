"""Tiles: what a device computes and stores in."""

from math import ceil, prod

TILE = 32
"""Rows and columns of a tile."""

TILE_BYTES = {"FLOAT32": 4096, "BFLOAT16": 2048, "BFLOAT8_B": 1088, "BFLOAT4_B": 576}
"""Of a tile, by ttnn's name of the dtype."""


def tiles(shape: tuple[int, ...]) -> tuple[int, int]:
    """Returns the rows and columns of tiles of a tensor, those of all its batches one below the other."""
    return prod(shape[:-2]) * ceil(shape[-2] / TILE), ceil(shape[-1] / TILE)
