"""What a device operation asks of the cores: how many have work, and of what how much the busiest of them has.

Each function follows what ttnn's kernels do, as their sources in the wheel have it (`ttnn/cpp/ttnn/operations`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, prod
from typing import TYPE_CHECKING

from ..tt.blocking import ttnn_inner_block
from ..ttnn_api.own_program import Handed
from ..ttnn_api.own_program import Work as OwnWork
from ..ttnn_api.tiles import TILE, TILE_BYTES, tiles
from .chips import Chip
from .graph import DeviceOperation, Operand, Place

if TYPE_CHECKING:
    from .cost import Machine

CYCLES_PER_TILE = {"LoFi": 16, "HiFi2": 32, "HiFi3": 48, "HiFi4": 64}
"""Of a core, for the product of two tiles. Source: tt-metal, tech_reports/GEMM_FLOPS/GEMM_FLOPS.md, "Utilization"."""


@dataclass(frozen=True)
class Work:
    """What an operation asks of the cores.

    Attributes:
        cores: that have work.
        tile_products: products of two tiles, of all cores.
        cycles: of the busiest core's multiplications.
        vector: cycles of its other passes over tiles and of its vector unit.
        reading: cycles in which it waits and reads.
        feeding: cycles of the busiest of the cores that feed a matmul: they read blocks and hand them on.
        rounds: blocks of a matmul's inner dimension, each read while the one before is multiplied; 0 where there are none.
        first: cycles until a core has what it begins with, where that is not one of such blocks.
        function: cycles of the functions that a matmul applies to what it accumulated.
        result: cycles in which a core writes what it accumulated.
    """

    cores: int
    tile_products: int = 0
    cycles: float = 0.0
    vector: float = 0.0
    reading: float = 0.0
    feeding: float = 0.0
    rounds: float = 0.0
    first: float = 0.0
    function: float = 0.0
    result: float = 0.0


def work_of(operation: DeviceOperation, on: Machine) -> Work:
    """Returns what an operation asks of the cores of that machine."""
    return _WORK.get(operation.name, _elementwise)(operation, on)


def traffic(operation: DeviceOperation) -> list[tuple[str, int]]:
    """Returns the dtype and bytes of each tensor that an operation reads or writes in DRAM, as far as it does, results last.

    Results count as bfloat16, which is as fast as float32.
    """
    if operation.name == "GenericOp":
        return list(_own(operation).traffic)
    made = sum(size for (memory, _), size in operation.outputs.items() if memory != "L1")
    moved = [
        (operand.dtype, size)
        for (place, size), operand in zip(operation.inputs.items(), operation.operands.values(), strict=True)
        if place[0] != "L1"
    ]
    if operation.name == "Embeddings":
        # As many rows of the table as come out.
        moved = [moved[0], (moved[1][0], made)]
    return [*moved, ("BFLOAT16", made)]


def _latency(place: Place, chip: Chip) -> float:
    """Returns the cycles until the first bytes of a tensor arrive that lies there."""
    return chip.write_latency if place[0] == "L1" else chip.read_latency


def _rate(place: Place, chip: Chip) -> float:
    """Returns the bytes in a cycle that one core reads there."""
    return chip.read_l1 if place[0] == "L1" else chip.read


def _asked_for(operands: dict[Place, Operand], chip: Chip) -> float:
    """Returns the cycles in which a core asks for a tile of each operand and waits for them; none for what it has in shards."""
    asked = {place: operand for place, operand in operands.items() if not operand.shards}
    if not asked:
        return 0.0
    sizes = (
        TILE_BYTES.get(operand.dtype, TILE_BYTES["FLOAT32"]) / _rate(place, chip) for place, operand in asked.items()
    )
    return max(_latency(place, chip) for place in asked) + sum(sizes)


def _functions(operation: DeviceOperation, chip: Chip) -> float:
    """Returns the cycles of the functions that are applied to a tile; of one that nobody has timed, those of a pass."""
    return sum(chip.vector.get(function, chip.tile_pass) for function in operation.functions)


def _elementwise(operation: DeviceOperation, on: Machine) -> Work:
    """A core asks for a tile of each operand, waits, computes, and only then has room for the next ones."""
    shards = next(iter(operation.operands.values())).shards
    count = max(prod(tiles(operand.shape)) for operand in operation.operands.values())
    cores = shards or min(count, on.cores)
    each = ceil(count / cores)
    computes = on.chip.tile_pass if operation.name in _COMPUTES else 0.0
    return Work(
        cores,
        vector=each * (computes + _functions(operation, on.chip)),
        reading=each * (_asked_for(operation.operands, on.chip) + computes),
    )


def _embeddings(operation: DeviceOperation, on: Machine) -> Work:
    """A core takes tiles of the result, for which it asks for parts of the table's rows."""
    (_, indices), (place, table), *_ = operation.operands.items()  # and the result, where it is given
    count = ceil(prod(indices.shape) / TILE) * ceil(table.shape[-1] / TILE)
    cores = min(count, on.cores)
    return Work(cores, reading=ceil(count / cores) * _asked_for({place: table}, on.chip))


def _norm(operation: DeviceOperation, on: Machine) -> Work:
    """A core takes whole rows of tiles, or of shards what it has, and goes through them several times, tile by tile.

    An RMS norm squares, adds the squares up, and multiplies with the root; a layer norm takes the mean before, and off; a
    weight and a bias are a pass each. Cores with shards exchange sums, twice: one gathers them and hands the result to all.
    """
    first, *given = operation.operands.values()
    rows, columns = tiles(first.shape)
    cores = first.shards or min(rows, on.cores)
    each = rows * ceil(columns / cores) if first.shards else ceil(rows / cores) * columns
    passes = (5 if operation.centred else 3) + len(given)
    exchange = 2 * (on.chip.write_latency + on.chip.multicast_latency) if first.shards else 0.0
    return Work(cores, vector=each * passes * on.chip.tile_pass + exchange)


def _split(operation: DeviceOperation, on: Machine) -> Work:
    """The split into heads: a core takes whole rows of tiles of one head, and moves one tile after the other.

    Before ttnn 0.81 it took the rows of all heads, which is what a split without heads stands for.
    """
    operand = next(iter(operation.operands.values()))
    rows, columns = tiles(operand.shape)
    heads = operation.heads or 1
    cores = min(rows * heads, on.cores)
    each = ceil(rows * heads / cores) * columns // heads
    return Work(cores, reading=each * _asked_for(operation.operands, on.chip))


def _by_rows(operation: DeviceOperation, on: Machine) -> Work:
    """A core takes whole rows of tiles of a tensor, and moves one tile after the other."""
    operand = next(iter(operation.operands.values()))
    rows, columns = tiles(operand.shape)
    cores = min(rows, on.cores)
    return Work(cores, reading=ceil(rows / cores) * columns * _asked_for(operation.operands, on.chip))


def _rotary(operation: DeviceOperation, on: Machine) -> Work:
    """RoPE: a core takes whole rows of tiles; it asks for a tile, its partner, cosine and sine one by one, each with a pass."""
    place, operand = next(iter(operation.operands.items()))
    rows, columns = tiles(operand.shape)
    cores = min(rows, on.cores)
    each = ceil(rows / cores) * columns
    return Work(cores, reading=each * 4 * (_asked_for({place: operand}, on.chip) + on.chip.tile_pass))


def _own_program(operation: DeviceOperation, on: Machine) -> Work:
    chip, own = on.chip, _own(operation)
    cores = min(own.units, on.cores)
    each = own.most or ceil(own.units / cores)
    far = sum(size for _, size in (own.traffic[:-1] if own.last else own.traffic))
    waiting = own.waits * (chip.read_latency if far else chip.write_latency)
    fidelity = str(operation.fidelity)
    products = own.products * CYCLES_PER_TILE[fidelity] / chip.matmul[fidelity] if own.products else 0.0
    functions = sum(count * chip.vector.get(function, chip.tile_pass) for function, count in own.vector.items())
    # One thread of a core multiplies and waits for the vector unit; behind its last unit nothing else goes on.
    computing = each * (own.passes * chip.tile_pass + functions)
    first = own.exchanges * 2 * chip.write_latency
    if own.first:
        first += own.first * (1 / chip.read + 1 / chip.multicast) + chip.read_latency + chip.multicast_latency
    return Work(
        cores,
        tile_products=own.units * own.products,
        cycles=each * products + (computing if own.products else 0.0),
        vector=computing,
        function=functions if own.products else 0.0,
        reading=each * (waiting + (far / chip.read + own.near / chip.read_l1) / own.units),
        feeding=own.fed * ((0 if own.is_read_ahead else 1 / chip.read_l1) + 1 / chip.multicast)
        + own.blocks * (chip.write_latency + chip.multicast_latency),
        rounds=own.blocks,
        first=first,
        result=own.last / cores / (chip.read if own.traffic[-1][1] else chip.read_l1),
    )


def _own(operation: DeviceOperation) -> OwnWork:
    """Returns what a program of our own says of itself."""
    if operation.own is None or operation.own.cost is None:
        raise ValueError(
            f"{operation.name}: expected a program with a cost of its own, run by an `OwnProgram`, got none"
        )
    return operation.own.cost(
        [
            Handed(operand.shape, operand.dtype, place[0], size, operand.shards)
            for (place, size), operand in zip(operation.inputs.items(), operation.operands.values(), strict=True)
        ]
    )


def _matmul(operation: DeviceOperation, on: Machine) -> Work:
    (first, a), (second, b), *_ = operation.operands.items()
    rows, inner = tiles(a.shape)
    columns, blocks = tiles(b.shape)[1], operation.blocks
    is_2d, is_1d = "2D" in operation.program, "1D" in operation.program
    if blocks:
        high, wide = blocks.rows, blocks.columns
    elif is_2d:
        high, wide = ceil(rows / on.rows), ceil(columns / on.columns)
    elif is_1d:
        is_wide = columns >= rows
        high, wide = (rows, ceil(columns / on.cores)) if is_wide else (ceil(rows / on.cores), columns)
    else:
        high, wide = 1, ceil(rows * columns / on.cores)
    down, across = ceil(rows / high), ceil(columns / wide)
    rounds = inner / (blocks.inner if blocks else ttnn_inner_block(inner, on.columns, is_2d=is_2d))
    passes = blocks.passes if blocks else 1
    rounds *= passes
    feeding: float = 0
    if is_2d:
        # A block of rows is read by one core of each row of cores, a block of columns by one of each column.
        feeding = max(
            _feeding(first, a, passes * operation.inputs[first] / down, rounds, on.chip),
            _feeding(second, b, operation.inputs[second] / across, rounds, on.chip),
        )
    elif is_1d and down * across > 1:
        # One core reads the operand that all need, or those do that have its shards.
        place, operand = (first, a) if across > 1 else (second, b)
        feeding = _feeding(place, operand, passes * operation.inputs[place], rounds, on.chip)
    fidelity, made = str(operation.fidelity), sum(operation.outputs.values())
    place = next(iter(operation.outputs), ("DRAM", -1))
    return Work(
        down * across,
        rows * columns * inner,
        cycles=high * wide * inner * CYCLES_PER_TILE[fidelity] / on.chip.matmul[fidelity],
        feeding=feeding,
        rounds=rounds,
        function=high * wide * _functions(operation, on.chip),
        result=made / (down * across) / _rate(place, on.chip),
    )


def _feeding(place: Place, operand: Operand, size: float, rounds: float, chip: Chip) -> float:
    """Returns the cycles in which an operand of so many bytes is read and handed on, in so many blocks one after the other.

    A core that has a shard waits until all others are ready for it, one that reads has been told by then.
    """
    if operand.shards:
        return size / chip.multicast + rounds * (chip.write_latency + chip.multicast_latency)
    waits = rounds * (_latency(place, chip) + chip.multicast_latency)
    return size / _rate(place, chip) + size / chip.multicast + waits


def _attention(operation: DeviceOperation, on: Machine) -> Work:
    """A core takes whole chunks of queries of a head, and for each all chunks of keys, one step after the other."""
    (place, queries), (at, keys), _, *mask = operation.operands.items()
    if operation.chunks is None:
        raise ValueError(f"{operation.name}: expected the chunks of queries and keys in its attributes, got none")
    chip, (chunk, key_chunk) = on.chip, (ceil(size / TILE) for size in operation.chunks)
    batch, heads, length, width = queries.shape
    units = batch * heads * ceil(length / operation.chunks[0])
    key_tiles, width_tiles = ceil(keys.shape[-2] / TILE), ceil(width / TILE)
    products, scores = 2 * chunk * key_tiles * width_tiles, chunk * key_tiles
    cycles: float = products * CYCLES_PER_TILE[str(operation.fidelity)]
    cycles += ceil(key_tiles / key_chunk) * chip.attention_step + scores * chip.score_tile
    if mask:
        cycles += scores * chip.mask_tile
    if operation.accumulates_float32:
        cycles *= chip.float32_attention
    cores = min(units, on.cores)
    asked = (TILE_BYTES[part.dtype] * size * width_tiles for part, size in ((queries, chunk), (keys, key_chunk)))
    first = sum(size / _rate(lies, chip) for lies, size in zip((place, at), asked, strict=True))
    return Work(
        cores,
        units * products,
        ceil(units / cores) * cycles,
        first=max(_latency(place, chip), _latency(at, chip)) + first,
        result=TILE_BYTES["BFLOAT16"] * chunk * width_tiles / _rate(next(iter(operation.outputs)), chip),
    )


_COMPUTES = ("BinaryNg", "Unary", "Ternary", "Typecast")
"""Elementwise operations that compute; others move tiles."""

_WORK: dict[str, Callable[[DeviceOperation, Machine], Work]] = {
    "Matmul": _matmul,
    "SDPA": _attention,
    "LayerNorm": _norm,
    "Embeddings": _embeddings,
    "NlpCreateHeads": _split,
    "NLPConcatHeads": _by_rows,
    "UpdateKVCache": _by_rows,
    "Tilize": _by_rows,
    "RotaryEmbedding": _rotary,
    "RotaryEmbeddingHf": _rotary,
    "GenericOp": _own_program,
}
