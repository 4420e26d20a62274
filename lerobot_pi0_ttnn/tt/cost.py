"""How long a device operation should take: a prediction from its shapes, which no card has confirmed for this model.

The time of an operation is the longest of four, since they overlap, and the gap before the next operation, which does not:

- compute: the busiest core's multiplications at the rate that ttnn's matmul reaches on large matrices;
- DRAM: the bytes of all operands and results at the rate that the chip reaches for tiles of their dtype;
- readers: the busiest core's share of these bytes, at the rate of one core;
- multicast: what the cores that feed a matmul read and then hand to all others, one after the other.

Work comes in tiles and in chunks of queries, of which a core takes whole ones: a matmul of two rows of tiles, or attention of
eight heads, leaves most cores idle. That is `busiest`, and is arithmetic. All measured constants are in `CHIPS`, each with its
source; what is not measured is called an assumption there. The vector unit is left out: norms, activations and additions are
taken to be bytes only, which is an assumption.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

from .graph import DeviceOperation

TILE = 32
CYCLES_PER_TILE = {"LoFi": 16, "HiFi2": 32, "HiFi3": 48, "HiFi4": 64}
"""Of a core, for the product of two tiles. Source: tt-metal, tech_reports/GEMM_FLOPS/GEMM_FLOPS.md, "Utilization"."""


@dataclass(frozen=True)
class Chip:
    """What an architecture does, as measured by others.

    Attributes:
        clock: GHz.
        dram_bank: GB/s of one DRAM bank by specification.
        matmul: which part of its peak a matmul of large matrices reaches, by fidelity.
        dram: which part of its peak DRAM reaches, by the dtype of interleaved tiles.
        read: bytes in a cycle that one core reads from DRAM.
        multicast: bytes in a cycle that one core hands to all others.
        key_tile: cycles of attention for a tile of keys and a chunk of queries, besides the multiplications.
        mask_tile: cycles of attention for a tile of its mask.
        float32_attention: how much longer attention takes that accumulates float32.
        gap: us between two operations of a trace, from the last tile of one to the first of the next.
        host: us that the host takes to start an operation without a trace.
    """

    clock: float
    dram_bank: float
    matmul: Mapping[str, float]
    dram: Mapping[str, float]
    read: float
    multicast: float
    key_tile: float
    mask_tile: float
    float32_attention: float
    gap: float
    host: float


_ATTENTION: dict[str, float] = {
    # tt-metal #55761, p100a, chunks of 4 x 4 tiles, heads of 4, HiFi2: a step without a mask takes 8900 cycles, of which 4096
    # are multiplications; a mask adds 200 for each of its tiles. #55756: what is not multiplication grows with the tiles of keys,
    # and hardly with the queries. Assumption: the same cycles on Wormhole, of which nobody has published any.
    "key_tile": (8900 - 4096) / 4,
    "mask_tile": 200,
    # tt-metal #56942, p100a, 4096 keys: 2994 us with float32 accumulation, which has a kernel of its own, 2252 us without.
    "float32_attention": 2994.4 / 2251.6,
    # tt-metal #54915, P300: a call of a binary operation takes the host 24 to 25 us. Assumption: any operation, any card.
    "host": 25,
}

CHIPS = {
    "wormhole_b0": Chip(
        clock=1.0,  # GEMM_FLOPS.md
        dram_bank=288 / 12,  # tt-metal, tech_reports/Saturating_DRAM_bandwidth: 12 banks, 288 GB/s
        # GEMM_FLOPS.md, n150, 4096 x 4096 x 4096, traced: programs that ttnn chose (bfloat8_b LoFi, bfloat16 HiFi2), tuned HiFi4.
        matmul={"LoFi": 0.565, "HiFi2": 0.522, "HiFi3": 0.773, "HiFi4": 0.773},
        # tt-metal #6729: 22, 21, 16 and 10 bytes in a cycle and bank of 24.
        dram={"FLOAT32": 22 / 24, "UINT32": 22 / 24, "BFLOAT16": 21 / 24, "BFLOAT8_B": 16 / 24, "BFLOAT4_B": 10 / 24},
        # tt-metal, tests/tt_metal/tt_metal/data_movement/documentation/ideal_performance.md: DRAM Read; One To All, linked.
        read=22,
        multicast=22,
        # tt-metal, tests/tt_metal/tt_metal/perf_microbenchmark/op_to_op_latency/op_to_op_golden.json: pack to unpack.
        gap=4.72,
        **_ATTENTION,
    ),
    "blackhole": Chip(
        clock=1.35,  # GEMM_FLOPS.md
        dram_bank=512 / 8,  # tt-metal #47885: 8 banks, 512 GB/s
        # GEMM_FLOPS.md, p150, 5120 x 6656 x 6656, traced: as above.
        matmul={"LoFi": 0.777, "HiFi2": 0.784, "HiFi3": 0.896, "HiFi4": 0.896},
        # tt-metal #55898: 400 (matmul, bfloat16), 411 (neg, bfloat8_b) and 279 GB/s (matmul, bfloat4_b) of 512. Assumption: float32
        # as bfloat16.
        dram={
            "FLOAT32": 400 / 512,
            "UINT32": 400 / 512,
            "BFLOAT16": 400 / 512,
            "BFLOAT8_B": 411 / 512,
            "BFLOAT4_B": 279 / 512,
        },
        read=33,  # ideal_performance.md
        multicast=41,
        gap=4.255,  # op_to_op_blackhole_golden.json
        **_ATTENTION,
    ),
}


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
        cycles: of the busiest core.
        fed: bytes that the busiest of the cores that feed a matmul reads and hands on.
    """

    cores: int
    tile_products: int = 0
    cycles: float = 0.0
    fed: float = 0.0


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
        "multicast": work.fed * (1 / chip.read + 1 / chip.multicast) * cycle,
    }
    return Cost(2 * TILE**3 * work.tile_products, size, work.cores, times, chip.gap * 1e-6)


def traffic(operation: DeviceOperation) -> list[tuple[str, int]]:
    """Returns the dtype and the bytes of each tensor that an operation reads or writes in DRAM, as far as it does.

    Results count as bfloat16, which is as fast as float32.
    """
    made = sum(size for (memory, _), size in operation.outputs.items() if memory != "L1")
    moved = [
        (operand.dtype, size)
        for (place, size), operand in zip(operation.inputs.items(), operation.operands.values(), strict=True)
        if place[0] != "L1"
    ]
    if operation.name == "Embeddings":
        # As many rows of the table as come out.
        moved = [moved[0], (moved[1][0], made)]
    if operation.name == "GenericOp":
        # `split_heads` reads the projection and the tables, and writes the projection's bytes to the queries and the caches.
        return [*moved[:3], moved[0]]
    return [*moved, ("BFLOAT16", made)]


def tiles(shape: tuple[int, ...]) -> tuple[int, int]:
    """Returns the rows and columns of tiles of a tensor, those of all its batches one below the other."""
    return prod(shape[:-2]) * ceil(shape[-2] / TILE), ceil(shape[-1] / TILE)


def _elementwise(operation: DeviceOperation, on: Machine) -> _Work:
    rows, columns = max((tiles(operand.shape) for operand in operation.operands.values()), key=prod)
    return _Work(min(rows * columns, on.cores))


def _by_rows(operation: DeviceOperation, on: Machine) -> _Work:
    """Norms, and the split into heads: a core takes whole rows of tiles."""
    rows, _ = tiles(next(iter(operation.operands.values())).shape)
    return _Work(min(rows, on.cores))


def _split_heads(operation: DeviceOperation, on: Machine) -> _Work:
    """Our own program, `tt/heads.py`: a core takes whole heads of a row of tiles, keys and values being one."""
    projection, table, *_ = operation.operands.values()
    rows, width = tiles(projection.shape)
    return _Work(min(rows * (width // tiles(table.shape)[1] - 1), on.cores))


def _matmul(operation: DeviceOperation, on: Machine) -> _Work:
    (first, a), (second, b), *_ = operation.operands.items()
    rows, inner = tiles(a.shape)
    columns = tiles(b.shape)[1]
    fed: float = 0
    if "2D" in operation.program:
        # A block of rows is read by one core of each row of cores, a block of columns by one of each column.
        high, wide = ceil(rows / on.rows), ceil(columns / on.columns)
        down, across = ceil(rows / high), ceil(columns / wide)
        fed = max(operation.inputs[first] / down, operation.inputs[second] / across)
    elif "1D" in operation.program:
        # One core reads the smaller side for all.
        is_wide = columns >= rows
        high, wide = (rows, ceil(columns / on.cores)) if is_wide else (ceil(rows / on.cores), columns)
        down, across = ceil(rows / high), ceil(columns / wide)
        fed = operation.inputs[first if is_wide else second]
    else:
        high, wide = 1, ceil(rows * columns / on.cores)
        down, across = 1, ceil(rows * columns / wide)
    fidelity = str(operation.fidelity)
    cycles = high * wide * inner * CYCLES_PER_TILE[fidelity] / on.chip.matmul[fidelity]
    return _Work(down * across, rows * columns * inner, cycles, fed)


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
    "GenericOp": _split_heads,
}
