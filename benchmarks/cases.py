"""What it takes to describe a measurement by others as operations of a machine, which the model then prices."""

from dataclasses import dataclass
from math import prod

from lerobot_pi0_ttnn.analysis.chips import CHIPS
from lerobot_pi0_ttnn.analysis.cost import Machine, cost
from lerobot_pi0_ttnn.analysis.graph import DeviceOperation
from lerobot_pi0_ttnn.ttnn_api.tiles import TILE_BYTES, tiles

BF16, BFP8, BFP4 = "BFLOAT16", "BFLOAT8_B", "BFLOAT4_B"

N150 = Machine(CHIPS["wormhole_b0"], 8, 8, 12)
N300 = Machine(CHIPS["wormhole_b0"], 8, 7, 12)
P150 = Machine(CHIPS["blackhole"], 11, 10, 8)
P150_130 = Machine(CHIPS["blackhole"], 13, 10, 8)
P100A = Machine(CHIPS["blackhole"], 11, 10, 7)


@dataclass(frozen=True)
class Case:
    """A measurement by others.

    Attributes:
        what: was measured.
        source: an issue or file of tt-metal.
        on: which machine.
        operations: that it is made of.
        milliseconds: as published.
        of: its class.
        calibrates: a constant of the model is this measurement.
        kernel: the published time is one kernel's, without the gap to the next operation.
    """

    what: str
    source: str
    on: Machine
    operations: list[DeviceOperation]
    milliseconds: float
    of: str
    calibrates: bool = False
    kernel: bool = False

    def predicted(self) -> float:
        """Returns the milliseconds that the model predicts."""
        costs = [cost(operation, self.on) for operation in self.operations]
        return 1e3 * sum(spent.busy if self.kernel else spent.seconds for spent in costs)


def stored(shape: tuple[int, ...], dtype: str) -> int:
    """Returns the bytes of a tensor in tiles."""
    return prod(tiles(shape)) * TILE_BYTES[dtype]
