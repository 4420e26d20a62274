"""One op for what lies between Gemma's fused projection and its attention: heads apart, RoPE, keys and values stored.

ttnn has an op for each of these steps, and the suffix would spend five of them in every layer of every denoising step on
64 rows. This is one program of three kernels of our own (`kernels/`), run by `ttnn.generic_op`. A core takes whole units: one
row of tiles of one head, which it rotates as x * cos + swapped(x) * sin, where `swapped` exchanges the halves of the head.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import ttnn

from ....ttnn_api.own_program import OwnProgram
from ....ttnn_api.tiles import TILE
from ..descriptors import PROGRAMS_KEPT, Buffer, circular_buffer, compute_config
from .cost import cost
from .golden import golden

SPLIT_HEADS = OwnProgram("split_heads", Path(__file__).parent / "kernels", writes=3, golden=golden, cost=cost)

X, SWAPPED, COS, SIN, VALUE, ROTATED = 0, 1, 2, 3, 4, 16
"""Circular buffers, as the kernels number them."""


def split_heads(
    qkv: ttnn.Tensor,
    cos: ttnn.Tensor,
    sin: ttnn.Tensor,
    keys: ttnn.Tensor,
    values: ttnn.Tensor,
    start: int,
    num_heads: int,
    fidelity: ttnn.MathFidelity,
) -> ttnn.Tensor | None:
    """Returns the rotated queries, (B, N, T, H) bfloat16 where `qkv` is, having stored the rotated keys and the values.

    None for N = 0.

    Args:
        qkv: (1, 1, B * T, (N + 2) H) bfloat16, row by row of the batch: queries by head, one key, one value.
        cos: (1, 1, B * T, H) float32, or (1, 1, T, H) for all rows of the batch.
        sin: as `cos`, negative for the first half of the head.
        keys: (B, 1, S, H) bfloat16, of which tokens `start` to `start + T` are written.
        values: as the keys.
        start: a whole tile.
        num_heads: N, of the queries.
        fidelity: of the products with cosines and sines, which are added in float32.
    """
    _check(qkv, cos, sin, keys, values, start, num_heads)
    batch, _, tokens, size = keys.shape
    device, length = qkv.device(), qkv.shape[-2] // batch
    shape = ttnn.Shape([batch, num_heads, length, size])
    queries = (
        ttnn.allocate_tensor_on_device(shape, ttnn.bfloat16, ttnn.TILE_LAYOUT, device, qkv.memory_config())
        if num_heads
        else keys
    )

    grid = device.compute_with_storage_grid_size()
    tensors = [qkv, cos, sin, queries, keys, values]
    buffers = (Buffer.of(tensor) for tensor in tensors)
    in_tiles = _Tiles(batch, length // TILE, size // TILE, tokens // TILE, cos.shape[-2] // TILE, start // TILE)
    SPLIT_HEADS.run(tensors, _program(*buffers, in_tiles, num_heads, (grid.x, grid.y), fidelity))
    return queries if num_heads else None


@dataclass(frozen=True)
class _Tiles:
    """The batch, and in tiles: rows of each of its rows, width of a head, rows of a cache and of a table, the block's start."""

    batch: int
    rows: int
    width: int
    cached_rows: int
    table_rows: int
    start: int


@lru_cache(maxsize=PROGRAMS_KEPT)
def _program(
    qkv: Buffer,
    cos: Buffer,
    sin: Buffer,
    queries: Buffer,
    keys: Buffer,
    values: Buffer,
    tiles: _Tiles,
    num_heads: int,
    grid: tuple[int, int],
    fidelity: ttnn.MathFidelity,
) -> ttnn.ProgramDescriptor:
    """Returns the program for tensors that lie there, kept: a step allocates in the same places as the one before."""
    heads, width = num_heads + 1, tiles.width
    units = tiles.batch * tiles.rows * heads
    workers = min(units, grid[0] * grid[1])
    cores = ttnn.num_cores_to_corerangeset(workers, ttnn.CoreCoord(*grid), row_wise=True)
    moved, computed = ttnn.RuntimeArgs(), ttnn.RuntimeArgs()
    for worker in range(workers):
        begin, end = worker * units // workers, (worker + 1) * units // workers
        y, x = divmod(worker, grid[0])
        moved[x][y] = [begin, end]
        computed[x][y] = [(end - begin) * width]

    def mover(name: str, common: list[int], buffers: Sequence[Buffer], config: object) -> ttnn.KernelDescriptor:
        return ttnn.KernelDescriptor(
            kernel_source=str(SPLIT_HEADS.kernels / name),
            core_ranges=cores,
            compile_time_args=[heads, width, *(arg for buffer in buffers for arg in buffer.accessor)],
            runtime_args=moved,
            common_runtime_args=[*common, *(buffer.address for buffer in buffers)],
            config=config,
        )

    return ttnn.ProgramDescriptor(
        kernels=[
            mover(
                "split_heads_reader.cpp",
                [tiles.start, tiles.rows, tiles.cached_rows, tiles.table_rows],
                [qkv, cos, sin, values],
                ttnn.ReaderConfigDescriptor(),
            ),
            mover(
                "split_heads_writer.cpp",
                [tiles.start, tiles.rows, tiles.cached_rows],
                [queries, keys],
                ttnn.WriterConfigDescriptor(),
            ),
            ttnn.KernelDescriptor(
                kernel_source=str(SPLIT_HEADS.kernels / "split_heads_compute.cpp"),
                core_ranges=cores,
                runtime_args=computed,
                config=compute_config(fidelity),
            ),
        ],
        cbs=[
            circular_buffer(index, dtype, heads_held * width, cores)
            for index, dtype, heads_held in (
                (X, ttnn.bfloat16, 2),
                (SWAPPED, ttnn.bfloat16, 2),
                (COS, ttnn.float32, 2),
                (SIN, ttnn.float32, 2),
                (VALUE, ttnn.bfloat16, 1),
                (ROTATED, ttnn.bfloat16, 2),
            )
        ],
    )


def _check(
    qkv: ttnn.Tensor,
    cos: ttnn.Tensor,
    sin: ttnn.Tensor,
    keys: ttnn.Tensor,
    values: ttnn.Tensor,
    start: int,
    num_heads: int,
) -> None:
    """Raises ValueError where the kernels would read or write something else than they are meant to: nobody else looks."""
    batch, _, tokens, size = keys.shape
    length = qkv.shape[-2] // batch
    if size != TILE and size % (2 * TILE):
        raise ValueError(f"split_heads: expected heads of {TILE} or of a multiple of {2 * TILE}, got {size}")
    if qkv.shape[-2] % (batch * TILE) or start % TILE or start + length > tokens:
        raise ValueError(
            f"split_heads: expected whole tiles, at a whole tile of {batch} caches of {tokens}, got {qkv.shape[-2]} tokens in "
            f"all at {start}"
        )
    table_length = length if cos.shape[-2] == length else batch * length
    table, cache = (ttnn.float32, (1, 1, table_length, size)), (ttnn.bfloat16, (batch, 1, tokens, size))
    for name, tensor, (dtype, shape) in (
        ("qkv", qkv, (ttnn.bfloat16, (1, 1, batch * length, (num_heads + 2) * size))),
        ("cos", cos, table),
        ("sin", sin, table),
        ("keys", keys, cache),
        ("values", values, cache),
    ):
        got = (tensor.dtype, tuple(tensor.shape), tensor.layout, tensor.is_sharded())
        if got != (dtype, shape, ttnn.TILE_LAYOUT, False):
            raise ValueError(
                f"split_heads: expected {name} {shape} {dtype.name} in tiles, not sharded, got {tuple(tensor.shape)} "
                f"{tensor.dtype.name}, {tensor.layout.name}"
            )
