"""How long a device operation should take: a prediction from its shapes, which no card has confirmed for this model.

Its time is that of what overlaps, the longest of several, and of what does not. What overlaps (`work.py`: how much of each):

- compute: the busiest core's multiplications at the rate that ttnn's matmul reaches on large matrices;
- vector: its tiles that are unpacked, computed with otherwise, and packed, and the functions of the vector unit;
- DRAM: the bytes of all operands and results at the rate that the chip reaches for tiles of their dtype;
- readers: the busiest core's bytes at the rate of one core, and its waits until the first of what it asked for arrive;
- multicast: what the cores that feed a matmul read and then hand to all others, one block after the other, and for each
  block the wait until it begins to arrive.

What does not: a program's start and the gap before the next one; the first block of a matmul or of attention, without which
nobody can multiply; the functions that a matmul applies to what it accumulated, and the writing of that.

Work comes in tiles and in chunks of queries, of which a core takes whole ones: a matmul of two rows of tiles, or attention of
eight heads, leaves most cores idle. That is arithmetic; what had to be measured is in `chips.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..ttnn_api.tiles import TILE
from .chips import CHIPS, Chip
from .graph import DeviceOperation
from .work import CYCLES_PER_TILE, traffic, work_of


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
        times: by what takes it, all at the same time: `compute`, `vector`, `DRAM`, `readers`, `multicast`.
        alone: by what takes it while nothing else goes on: `first block`, `function`, `result`.
        start: of the program, and its end.
        gap: to the next operation.
    """

    flops: int
    bytes: int
    cores: int
    times: Mapping[str, float]
    alone: Mapping[str, float]
    start: float
    gap: float

    @property
    def parts(self) -> dict[str, float]:
        """What the operation's seconds are made of: the longest of what overlaps, what does not, and `launch`."""
        longest = max(self.times, key=lambda what: self.times[what])
        alone = {what: seconds for what, seconds in self.alone.items() if seconds}
        return {longest: self.times[longest], **alone, "launch": self.start + self.gap}

    @property
    def bound(self) -> str:
        """What the operation waits for: the longest of its parts."""
        return max(self.parts, key=lambda what: self.parts[what])

    @property
    def busy(self) -> float:
        """Seconds from its first kernel's start to its last one's end."""
        return self.start + max(self.times.values()) + sum(self.alone.values())

    @property
    def seconds(self) -> float:
        """Seconds until the next operation of a trace."""
        return self.busy + self.gap


def cost(operation: DeviceOperation, on: Machine) -> Cost:
    """Returns what an operation should cost there."""
    chip, cycle = on.chip, 1e-9 / on.chip.clock
    work = work_of(operation, on)
    moved = traffic(operation)
    size = sum(size for _, size in moved)

    def streamed(moved: list[tuple[str, int]]) -> float:
        return sum(size / (on.dram * 1e9 * chip.dram[dtype]) for dtype, size in moved)

    # What comes last is a matmul's result, which is written when nothing is read any more; that of attention, unit by unit.
    read = moved[:-1] if work.rounds and work.result else moved
    reading = sum(size for _, size in read) / work.cores / chip.read
    times = {
        "compute": work.cycles * cycle,
        "vector": work.vector * cycle,
        "DRAM": streamed(read),
        "readers": max(reading, work.reading) * cycle,
        "multicast": work.feeding * cycle,
    }
    brought = max(times["DRAM"], times["readers"], times["multicast"])
    alone = {
        "first block": min(brought, times["compute"]) / work.rounds if work.rounds else work.first * cycle,
        "function": work.function * cycle,
        "result": max(work.result * cycle, streamed(moved[len(read) :])),
    }
    flops = 2 * TILE**3 * work.tile_products
    return Cost(flops, size, work.cores, times, alone, chip.start * 1e-6, chip.gap * 1e-6)
