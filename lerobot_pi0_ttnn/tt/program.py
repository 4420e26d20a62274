"""Program configs: how ttnn is told to lay out and block what it computes. The cutting of matmuls is `blocking.py`."""

import logging
from collections.abc import Callable
from math import prod
from typing import Any

import ttnn

from ..device.failure import error_summary, is_failure
from ..ttnn_api.tiles import TILE as TILE
from ..ttnn_api.tiles import TILE_BYTES
from .blocking import CYCLES_PER_PRODUCT, FEW_ROWS, Blocks, Matmul, busy, matmul_blocks, shard_count, subblock
from .ops.add_projection import AddProjectionPlan, add_projection_plan
from .ops.attend import AttendPlan, attend_plan
from .ops.gate_up import GateUpPlan, gate_up_plan
from .ops.group_matmul import GroupMatmulPlan, cycles, group_matmul_plan, written_cycles

logger = logging.getLogger(__name__)

KEY_CHUNK = 128
"""Caches are whole chunks of so many keys: SDPA leaks the padding of a part of one."""

KEY_CHUNKS = (320, 256, KEY_CHUNK, 64, 32)
"""Keys that attention takes at a time: each chunk costs 2.4 us on a Blackhole besides its scores (`analysis/chips.py`), and a
rounding of what was accumulated. On the simulator 640 keys in two chunks are nearer to float64 than in five."""

QUERY_CHUNKS = (128, 64, 32)

NEAR_SHARE = 0.4
"""Of a core's L1, for results that are handed on in it; most of the rest is for the circular buffers of a matmul."""

NEAR_ROWS = 1152
"""More rows than four cameras and their prompt have stay in DRAM: norms and our own programs need the room that those leave."""

NEAR_ROWS_OF_A_CORE = 18
"""And more than so many for each core: the buffers of attention, which no program of ours makes smaller, need it."""

NEAR_TENSORS = 2
"""Of its size, that may lie there at a time: gate, in whose place the product comes, and up."""

NEAR_STREAMS = 7
"""Of the stream's size, that may: embeddings, a layer's input, the stream, what both norms made of it, a branch, a
result, and tables of RoPE, half as large each."""

WORTH_GROUPS = 0.9
"""Of what ttnn's program takes, what our own has to get by with to be run instead."""


def round_up(size: int, multiple: int) -> int:
    """Returns the smallest multiple that is no less than `size`."""
    return -(-size // multiple) * multiple


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


def key_chunk(keys: int, *, in_step: bool) -> int:
    """Returns how many keys attention takes at a time: as many as leave no part of a chunk.

    Args:
        keys: a multiple of `TILE`.
        in_step: whether the chunks have to be even in number. A core that does a part of one head and then a part of the next
            begins the second one with the slot in which it would have gone on, and cores that hand on keys have to agree
            (tt-metal #52284, docs/errata.md): after an even number of chunks it is the first slot again.
    """
    return next(chunk for chunk in KEY_CHUNKS if keys % chunk == 0 and not (in_step and keys // chunk % 2))


def sdpa_program(device: ttnn.Device, heads: int, queries: int, keys: int) -> ttnn.SDPAProgramConfig:
    """Returns the config for attention of `queries` to `keys`, both multiples of `TILE`, on the device's own grid.

    Args:
        device: of which all workers take part.
        heads: of all rows of the batch.
        queries: of each head.
        keys: of each head.
    """
    grid = device.compute_with_storage_grid_size()
    workers = grid.x * grid.y
    chunk = query_chunk(queries, heads, workers)
    return ttnn.SDPAProgramConfig(
        compute_with_storage_grid_size=grid,
        q_chunk_size=chunk,
        k_chunk_size=key_chunk(keys, in_step=heads * queries // chunk > workers),
        exp_approx_mode=False,
    )


type MatmulProgram = ttnn.MatmulMultiCoreReuseMultiCast1DProgramConfig | ttnn.MatmulMultiCoreReuseMultiCastProgramConfig


class Programs:
    """The programs for one device, each derived from shapes, grid and memory. What ttnn refuses is left to ttnn, and reported.

    Args:
        device: whose grid and memory they are for.
        stock: whether ttnn is to choose all of them, and no program of our own is to run. Only attention keeps the chunks that
            it is given: without, ttnn may choose some that another fault of its kernel corrupts (docs/errata.md).

    Attributes:
        refused: What ttnn said of each program that it would not run, by what the program was for.
    """

    def __init__(self, device: ttnn.Device, *, stock: bool = False) -> None:
        self.stock = stock
        size = device.compute_with_storage_grid_size()
        self.grid: tuple[int, int] = (size.x, size.y)
        self.memory: int = ttnn.get_memory_view(device, ttnn.BufferType.L1).total_bytes_per_bank
        self.refused: dict[str, str] = {}

    def run[Program](
        self, what: str, program: Program | None, call: Callable[[Program | None], ttnn.Tensor]
    ) -> ttnn.Tensor:
        """Returns what `call` does with a program, or with None where ttnn refuses that, which it does before it runs anything.

        Args:
            what: the program is for: what is refused once is not tried again.
            program: a config; None to leave the choice to ttnn.
            call: hands a program to ttnn.
        """
        if program is None or what in self.refused:
            return call(None)
        try:
            return call(program)
        except RuntimeError as error:
            if is_failure(error):
                raise
            result = call(None)
            self.refused[what] = error_summary(error)
            logger.warning("%s: ttnn refuses the program for it, and chooses its own: %s", what, error_summary(error))
            return result

    def matmul(
        self,
        x: ttnn.Tensor,
        weight: ttnn.Tensor,
        output: ttnn.DataType,
        memory: ttnn.MemoryConfig,
        activation: ttnn.UnaryOpType | None,
    ) -> MatmulProgram | None:
        """Returns the program for x @ weight, or None where no blocks fit into a core's memory, or ttnn is to choose.

        Args:
            x: (..., T, in), interleaved, or each core of a row has whole columns of it.
            weight: (in, out), interleaved.
            output: dtype of the result.
            memory: where it goes.
            activation: that the matmul applies to what it accumulated.
        """
        if self.stock:
            return None
        matmul, left = self._matmul(x, weight, output, memory)
        blocks = matmul_blocks(matmul, self.grid, left, out_shards=_shards(memory))
        return None if blocks is None else _matmul_config(blocks, activation)

    def group_matmul(
        self,
        x: ttnn.Tensor,
        weight: ttnn.Tensor,
        output: ttnn.DataType,
        memory: ttnn.MemoryConfig,
        *,
        adds: bool = False,
    ) -> GroupMatmulPlan | None:
        """Returns the plan of the program that divides the rows of x @ weight among groups of cores, or None where ttnn's runs.

        That is where there are few rows, where it is predicted to be nearly as quick, where a core's memory does not hold its
        part, or ttnn is to choose.

        Args:
            x: (..., T, in).
            weight: (in, out), interleaved.
            output: dtype of the result.
            memory: where it goes.
            adds: whether it is added to the residual stream, in the same dtype.
        """
        if self.stock or x.is_sharded() or memory.is_sharded() or x.dtype != ttnn.bfloat16:
            return None
        matmul, left = self._matmul(x, weight, output, memory)
        if matmul.rows <= FEW_ROWS:
            return None
        is_near = memory.buffer_type == ttnn.BufferType.L1
        plan = group_matmul_plan(
            matmul.rows, matmul.inner, matmul.columns, matmul.bytes, self.grid, left, adds=adds, is_near=is_near
        )
        blocks = matmul_blocks(matmul, self.grid, left)
        if plan is None or blocks is None:
            return None
        return plan if compared(plan, blocks, matmul, is_near=is_near) <= WORTH_GROUPS else None

    def _matmul(
        self, x: ttnn.Tensor, weight: ttnn.Tensor, output: ttnn.DataType, memory: ttnn.MemoryConfig
    ) -> tuple[Matmul, int]:
        """Returns the matmul in tiles, and the bytes of a core's L1 that the tensors which lie there with it leave."""
        *rows, inner = tuple(x.padded_shape)
        matmul = Matmul(
            rows=prod(rows) // TILE,
            inner=inner // TILE,
            columns=weight.padded_shape[-1] // TILE,
            bytes=(TILE_BYTES[x.dtype.name], TILE_BYTES[weight.dtype.name], TILE_BYTES[output.name]),
            shards=_shards(x.memory_config()),
        )
        near = sorted(
            count * size
            for count, size, where in (
                (matmul.rows * matmul.inner, matmul.bytes[0], x.memory_config()),
                (matmul.rows * matmul.columns, matmul.bytes[2], memory),
            )
            if where.buffer_type == ttnn.BufferType.L1 and not where.is_sharded()
        )
        beside = sum(size * often for size, often in zip(near, (NEAR_STREAMS, NEAR_TENSORS), strict=False))
        return matmul, self.memory - beside // prod(self.grid)

    def gate_up(self, x: ttnn.Tensor, weight: ttnn.Tensor) -> GateUpPlan | None:
        """Returns the plan of the program for gate, up and their product, or None where they are three operations.

        They are where x is not in shards, having many rows, where a core's memory does not hold it, or ttnn is to choose.

        Args:
            x: (..., T, in).
            weight: (in, out), of gate or up, interleaved.
        """
        if self.stock or not x.is_sharded():
            return None
        shard_rows, shard_columns = x.memory_config().shard_spec.shape
        return gate_up_plan(
            rows=shard_rows // TILE,
            shards=_shards(x.memory_config()),
            shard_columns=shard_columns // TILE,
            columns=weight.padded_shape[-1] // TILE,
            bytes=(TILE_BYTES[x.dtype.name], TILE_BYTES[weight.dtype.name]),
            grid=self.grid,
            memory=self.memory,
        )

    def add_projection(self, stream: ttnn.Tensor, x: ttnn.Tensor, weight: ttnn.Tensor) -> AddProjectionPlan | None:
        """Returns the plan of the program for stream + x @ weight, or None where these are two operations.

        They are where the stream is not float32 in shards, having many rows, where a core's memory does not hold its part, or
        ttnn is to choose.

        Args:
            stream: (B, 1, T, D).
            x: (B, N, T, H).
            weight: (N * H, D), interleaved.
        """
        if self.stock or not stream.is_sharded() or stream.dtype != ttnn.float32:
            return None
        return add_projection_plan(
            rows=prod(tuple(stream.padded_shape)[:-1]) // TILE,
            inner=weight.padded_shape[0] // TILE,
            columns=weight.padded_shape[-1] // TILE,
            shards=_shards(stream.memory_config()),
            bytes=(TILE_BYTES[x.dtype.name], TILE_BYTES[weight.dtype.name]),
            grid=self.grid,
            memory=self.memory,
        )

    def attend(self, queries: ttnn.Tensor, keys: ttnn.Tensor) -> AttendPlan | None:
        """Returns the plan of the program for attention of few queries, or None where ttnn's operation is to do it.

        It is where there are too many for the cores to divide the keys, where a core's memory does not hold its part, or ttnn
        is to choose.

        Args:
            queries: (B, N, T, H).
            keys: (B, 1, S, H).
        """
        if self.stock:
            return None
        batch, heads, length, size = tuple(queries.padded_shape)
        return attend_plan(
            batch, heads, length // TILE, size // TILE, keys.padded_shape[-2] // TILE, self.grid, self.memory
        )

    def in_shards(self, rows: int, columns: int) -> ttnn.MemoryConfig:
        """Returns where few rows are kept between operations: in L1, each core of a row has whole columns of them.

        Interleaved where ttnn is to choose the programs: those for shards have to be told how they lie. So are more rows than
        a few: shards leave them to one row of cores.

        Args:
            rows: a multiple of `TILE`.
            columns: a multiple of `TILE`.
        """
        if self.stock or rows // TILE > FEW_ROWS:
            return ttnn.L1_MEMORY_CONFIG
        count = shard_count(columns // TILE, self.grid)
        return ttnn.create_sharded_memory_config(
            (rows, columns // count),
            core_grid=ttnn.CoreGrid(x=count, y=1),
            strategy=ttnn.ShardStrategy.WIDTH,
            use_height_and_width_as_shard_shape=True,
        )

    def has_room(self, rows: int) -> bool:
        """Returns whether results of so many rows may lie in L1, beside the buffers of all programs that compute them."""
        return rows <= min(NEAR_ROWS, NEAR_ROWS_OF_A_CORE * prod(self.grid))

    def near_tables(self, tables: ttnn.Tensor, rows: int) -> ttnn.MemoryConfig:
        """Returns where tables are kept that each head of each layer reads: in L1 where results leave room for them.

        Args:
            tables: (1, 1, T, H).
            rows: of the results. Half as many again would have to have room: tables stay for all layers, and so under whatever
                lies there in each.
        """
        return ttnn.L1_MEMORY_CONFIG if not self.stock and self.has_room(rows + rows // 2) else tables.memory_config()

    def near(self, x: ttnn.Tensor, columns: int, dtype: ttnn.DataType) -> ttnn.MemoryConfig:
        """Returns where a result with the rows of x is kept, interleaved: in L1 if it fits there, else in DRAM.

        Beside x where there are too many rows, and where ttnn is to choose the programs, which may leave no room.

        Args:
            x: (..., T, in).
            columns: of the result.
            dtype: of the result.
        """
        rows = prod(tuple(x.padded_shape)[:-1])
        if self.stock or not self.has_room(rows):
            return interleaved_like(x)
        tiles = rows // TILE * -(-columns // TILE)
        size = NEAR_TENSORS * tiles * TILE_BYTES[dtype.name]
        return ttnn.L1_MEMORY_CONFIG if size <= NEAR_SHARE * self.memory * prod(self.grid) else ttnn.DRAM_MEMORY_CONFIG


def compared(plan: GroupMatmulPlan, blocks: Blocks, matmul: Matmul, *, is_near: bool) -> float:
    """Returns which part our own program takes of what ttnn's takes, by multiplications alone or in all: the greater.

    Both write in the end what they have not written before; ttnn's all of the result.

    Args:
        plan: of our own program.
        blocks: of ttnn's.
        matmul: of both.
        is_near: whether the result is left in L1, where writing takes no time.
    """
    bytes = (*matmul.bytes[:2], 0 if is_near else matmul.bytes[2])
    written = written_cycles(matmul.rows * matmul.columns, bytes[2])
    ours, theirs = (tiles * matmul.inner * CYCLES_PER_PRODUCT for tiles in (plan.tiles, blocks.rows * blocks.columns))
    multiplying = (ours + written / plan.passes) / (theirs + written)
    return max(multiplying, cycles(plan, bytes) / (busy(matmul, blocks) + written))


def interleaved_like(x: ttnn.Tensor) -> ttnn.MemoryConfig:
    """Returns where what is made of `x` is kept, interleaved: in L1 where x is, else in DRAM."""
    is_near = x.memory_config().buffer_type == ttnn.BufferType.L1
    return ttnn.L1_MEMORY_CONFIG if is_near else ttnn.DRAM_MEMORY_CONFIG


def fused(function: ttnn.UnaryOpType) -> ttnn.UnaryWithParam:
    """Returns a function of the vector unit as a program applies it to what it computed.

    The tanh GELU by ttnn's quick kernel: on the simulator it is off by 2e-6 at most, which no bfloat16 shows, and has 290
    instructions instead of 466 on a Blackhole, 434 instead of 474 on a Wormhole; a core has up to 136 tiles of it.
    """
    quick = function == ttnn.UnaryOpType.GELU_TANH
    return ttnn.UnaryWithParam(function, 1.0) if quick else ttnn.UnaryWithParam(function)


def norm_program(x: ttnn.Tensor) -> ttnn.LayerNormShardedMultiCoreProgramConfig | None:
    """Returns the program for a norm of what lies in shards: each core norms what it has; None for an interleaved tensor."""
    if not x.is_sharded():
        return None
    rows, columns = (size // TILE for size in x.memory_config().shard_spec.shape)
    return ttnn.LayerNormShardedMultiCoreProgramConfig(
        compute_with_storage_grid_size=ttnn.CoreCoord(_shards(x.memory_config()), 1),
        subblock_w=subblock(1, columns)[1],
        block_h=rows,
        block_w=columns,
        inplace=False,
    )


def _shards(memory: ttnn.MemoryConfig) -> int:
    return int(memory.shard_spec.grid.num_cores()) if memory.is_sharded() else 0


def _matmul_config(blocks: Blocks, activation: ttnn.UnaryOpType | None) -> MatmulProgram:
    shared: dict[str, Any] = {
        "compute_with_storage_grid_size": ttnn.CoreCoord(*blocks.grid),
        "in0_block_w": blocks.inner,
        "out_subblock_h": blocks.subblock[0],
        "out_subblock_w": blocks.subblock[1],
        "out_block_h": blocks.rows,
        "out_block_w": blocks.columns // blocks.passes,
        "per_core_M": blocks.rows,
        "per_core_N": blocks.columns,
        "fused_activation": None if activation is None else fused(activation),
    }
    if blocks.is_2d:
        return ttnn.MatmulMultiCoreReuseMultiCastProgramConfig(**shared, transpose_mcast=False)
    return ttnn.MatmulMultiCoreReuseMultiCast1DProgramConfig(**shared, fuse_batch=True, mcast_in0=True)
