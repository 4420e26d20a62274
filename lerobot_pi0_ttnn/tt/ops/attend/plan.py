"""How `attend` is laid out on the cores: a pure function of shapes, grid and memory, in tiles. No ttnn here."""

from dataclasses import dataclass
from functools import cache
from math import ceil

from ....ttnn_api.tiles import TILE_BYTES
from ..memory import MEMORY_SHARE

BFLOAT16, FLOAT32 = TILE_BYTES["BFLOAT16"], TILE_BYTES["FLOAT32"]


@dataclass(frozen=True)
class AttendPlan:
    """What each core does, in tiles: heads beside each other, below each its rows, and these once for each part of the keys.

    Attributes:
        heads: of the queries.
        rows: of queries in a head, each a core's of its own.
        width: of a head.
        keys: that are attended to.
        parts: in which the keys are divided, each a rectangle of `heads` x `rows` cores.
    """

    heads: int
    rows: int
    width: int
    keys: int
    parts: int

    def span(self, part: int) -> tuple[int, int]:
        """Returns where the keys of a part begin and end."""
        return part * self.keys // self.parts, (part + 1) * self.keys // self.parts

    def columns(self, part: int) -> int:
        """Returns how many columns of a head a core of this part puts together: every so many, from its number on."""
        return len(range(part, self.width, self.parts))

    @property
    def longest(self) -> int:
        """Tiles of keys of the longest part."""
        return ceil(self.keys / self.parts)


@cache
def attend_plan(
    batch: int, heads: int, rows: int, width: int, keys: int, grid: tuple[int, int], memory: int
) -> AttendPlan | None:
    """Returns the plan, or None where the keys would not be divided, or a core's part does not fit into its memory.

    Args:
        batch: that is attended at a time; only one is planned for.
        heads: as in `AttendPlan`, as are those that follow.
        rows: as there.
        width: as there.
        keys: as there.
        grid: columns and rows of workers.
        memory: bytes of a core's L1.
    """
    parts = min(grid[1] // rows, keys)
    if batch != 1 or not 2 <= heads <= grid[0] or parts < 2:
        return None
    plan = AttendPlan(heads, rows, width, keys, parts)
    bfloat16 = width + 2 * plan.longest * width + plan.longest + parts + 4 + plan.columns(0)
    float32 = 2 * plan.longest + (width + 1) + (1 + plan.columns(0)) * parts + 1
    return plan if bfloat16 * BFLOAT16 + float32 * FLOAT32 <= MEMORY_SHARE * memory else None
