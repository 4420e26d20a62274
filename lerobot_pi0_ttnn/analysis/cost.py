"""How long a device operation should take: a prediction from its shapes, which no card has confirmed for this model.

The time of an operation is the longest of four, since they overlap, and the gap before the next operation, which does not:

- compute: the busiest core's multiplications at the rate that ttnn's matmul reaches on large matrices;
- DRAM: the bytes of all operands and results at the rate that the chip reaches for tiles of their dtype;
- readers: the busiest core's share of these bytes, at the rate of one core;
- multicast: what the cores that feed a matmul read and then hand to all others, one block after the other, and for each
  block the wait until it begins to arrive.

Work comes in tiles and in chunks of queries, of which a core takes whole ones: a matmul of two rows of tiles, or attention of
eight heads, leaves most cores idle. That is arithmetic; what had to be measured is in `chips.py`. The vector unit is left out:
norms, activations and additions are taken to be bytes only, which is an assumption.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

from ..tt.blocking import ttnn_inner_block
from ..ttnn_api.own_program import Handed, Work
from ..ttnn_api.tiles import TILE, tiles
from .chips import CHIPS, Chip
from .graph import DeviceOperation, Operand, Place

CYCLES_PER_TILE = {"LoFi": 16, "HiFi2": 32, "HiFi3": 48, "HiFi4": 64}
"""Of a core, for the product of two tiles. Source: tt-metal, tech_reports/GEMM_FLOPS/GEMM_FLOPS.md, "Utilization"."""


@dataclass(frozen=True)
class Machine:
    """A chip as a board has it.

    Attributes:
        chip: its constants.
        columns: of workers.
        rows: of workers.
        dram_banks: that are not fused off.
    """

    chip: Chip
    columns: int
    rows: int
    dram_banks: int

    @property
    def cores(self) -> int:
        """All workers."""
        return self.columns * self.rows

    @property
    def dram(self) -> float:
        """GB/s of the board's DRAM by specification."""
        return self.chip.dram_bank * self.dram_banks

    def peak(self, fidelity: str) -> float:
        """Returns FLOP/s of all cores at that fidelity."""
        return 2 * TILE**3 / CYCLES_PER_TILE[fidelity] * self.cores * self.chip.clock * 1e9


def machine(board: Mapping[str, Any]) -> Machine:
    """Returns the machine that a board is.

    Args:
        board: as `Board.describe` has it.
    """
    columns, rows = board["grid"]
    return Machine(CHIPS[board["arch"]], columns, rows, board["dram_banks"])


@dataclass(frozen=True)
class Cost:
    """A prediction for one operation. Times are seconds.

    Attributes:
        flops: of matrix multiplication, tile padding included.
        bytes: from and to DRAM.
        cores: that have work.
        times: by what takes it: `compute`, `DRAM`, `readers`, `multicast`.
        gap: to the next operation.
    """

    flops: int
    bytes: int
    cores: int
    times: Mapping[str, float]
    gap: float

    @property
    def bound(self) -> str:
        """What the operation waits for: the longest of its times, or `gap` where that is longer."""
        longest = max(self.times, key=lambda what: self.times[what])
        return longest if self.times[longest] >= self.gap else "gap"

    @property
    def busy(self) -> float:
        """Seconds from its first tile to its last."""
        return max(self.times.values())

    @property
    def seconds(self) -> float:
        """Seconds until the next operation of a trace."""
        return self.busy + self.gap


@dataclass(frozen=True)
class _Work:
    """What an operation asks of the cores.

    Attributes:
        cores: that have work.
        tile_products: products of two tiles, of all cores.
        cycles: of the busiest core's multiplications.
        feeding: cycles of the busiest of the cores that feed a matmul: they read blocks and hand them on.
    """

    cores: int
    tile_products: int = 0
    cycles: float = 0.0
    feeding: float = 0.0


def cost(operation: DeviceOperation, on: Machine) -> Cost:
    """Returns what an operation should cost there."""
    chip, cycle = on.chip, 1e-9 / on.chip.clock
    work = _WORK.get(operation.name, _elementwise)(operation, on)
    moved = traffic(operation)
    size = sum(size for _, size in moved)
    times = {
        "compute": work.cycles * cycle,
        "DRAM": sum(size / (on.dram * 1e9 * chip.dram[dtype]) for dtype, size in moved),
        "readers": size / work.cores / chip.read * cycle,
        "multicast": work.feeding * cycle,
    }
    return Cost(2 * TILE**3 * work.tile_products, size, work.cores, times, chip.gap * 1e-6)


def traffic(operation: DeviceOperation) -> list[tuple[str, int]]:
    """Returns the dtype and the bytes of each tensor that an operation reads or writes in DRAM, as far as it does.

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


def _elementwise(operation: DeviceOperation, on: Machine) -> _Work:
    shards = next(iter(operation.operands.values())).shards
    rows, columns = max((tiles(operand.shape) for operand in operation.operands.values()), key=prod)
    return _Work(shards or min(rows * columns, on.cores))


def _by_rows(operation: DeviceOperation, on: Machine) -> _Work:
    """Norms, and the split into heads: a core takes whole rows of tiles, or of shards what it has."""
    operand = next(iter(operation.operands.values()))
    rows, _ = tiles(operand.shape)
    return _Work(operand.shards or min(rows, on.cores))


def _own_program(operation: DeviceOperation, on: Machine) -> _Work:
    """What a program of our own says: a core takes whole units, and is handed what all need while it has work."""
    work, fidelity = _own(operation), operation.fidelity
    cores, feeding = min(work.units, on.cores), 0.0
    cycles = float(ceil(work.units / cores) * work.products * CYCLES_PER_TILE.get(str(fidelity), 0))
    if work.products:
        cycles /= on.chip.matmul[str(fidelity)]
    if work.handed[1]:
        size, senders = work.handed
        feeding = size / on.chip.multicast + senders * (on.chip.write_latency + on.chip.multicast_latency)
    return _Work(cores, work.units * work.products, cycles, feeding)


def _own(operation: DeviceOperation) -> Work:
    """Returns what a program of our own says of itself."""
    if operation.own is None:
        raise ValueError(
            f"{operation.name}: expected a program with a cost of its own, run by an `OwnProgram`, got none"
        )
    return operation.own.cost(
        [
            Handed(operand.shape, operand.dtype, place[0], size, operand.shards)
            for (place, size), operand in zip(operation.inputs.items(), operation.operands.values(), strict=True)
        ]
    )


def _matmul(operation: DeviceOperation, on: Machine) -> _Work:
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
    fidelity = str(operation.fidelity)
    cycles = high * wide * inner * CYCLES_PER_TILE[fidelity] / on.chip.matmul[fidelity]
    return _Work(down * across, rows * columns * inner, cycles, feeding)


def _feeding(place: Place, operand: Operand, size: float, rounds: float, chip: Chip) -> float:
    """Returns the cycles in which an operand of so many bytes is read and handed on, in so many blocks one after the other.

    A core that has a shard waits until all others are ready for it, one that reads has been told by then.
    """
    if operand.shards:
        return size / chip.multicast + rounds * (chip.write_latency + chip.multicast_latency)
    reading = size / (chip.read_l1 if place[0] == "L1" else chip.read)
    return reading + size / chip.multicast + rounds * (chip.read_latency + chip.multicast_latency)


def _attention(operation: DeviceOperation, on: Machine) -> _Work:
    queries, keys, _, *mask = operation.operands.values()
    if operation.chunks is None:
        raise ValueError(f"{operation.name}: expected the chunks of queries and keys in its attributes, got none")
    chunk = ceil(operation.chunks[0] / TILE)
    batch, heads, length, width = queries.shape
    units = batch * heads * ceil(length / operation.chunks[0])
    key_tiles, width_tiles = ceil(keys.shape[-2] / TILE), ceil(width / TILE)
    products = 2 * chunk * key_tiles * width_tiles
    cycles = products * CYCLES_PER_TILE[str(operation.fidelity)] + key_tiles * on.chip.key_tile
    if mask:
        cycles += chunk * key_tiles * on.chip.mask_tile
    if operation.accumulates_float32:
        cycles *= on.chip.float32_attention
    return _Work(min(units, on.cores), units * products, ceil(units / on.cores) * cycles)


_WORK: dict[str, Callable[[DeviceOperation, Machine], _Work]] = {
    "Matmul": _matmul,
    "SDPA": _attention,
    "LayerNorm": _by_rows,
    "NlpCreateHeads": _by_rows,
    "Tilize": _by_rows,
    "GenericOp": _own_program,
}
