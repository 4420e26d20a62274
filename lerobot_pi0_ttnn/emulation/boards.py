"""The boards that can be emulated, and the cluster descriptor that makes ttnn see each."""

from __future__ import annotations

from dataclasses import dataclass

PREFIX = "emulated:"


@dataclass(frozen=True)
class EmulatedBoard:
    """One kind of board.

    Attributes:
        name: What the user calls it, after `emulated:`.
        arch: `wormhole_b0` or `blackhole`.
        board_type: ttnn's name of the product.
        product: Its number, which ttnn reads from the upper bits of the board's serial number.
        harvesting: Units fused off in each chip, as the descriptor spells them. A Wormhole has 10 rows of 8 workers and
            spends one row on dispatch; a Blackhole has 14 columns of 10 and spends one column.
        grid: (x, y) workers of a chip that are left to the ops; checked when the board opens.
        chips_on_board: How many it has: the first at PCIe, the second behind it, over two ethernet links.
        chips: How many of them are opened, the first ones.
    """

    name: str
    arch: str
    board_type: str
    product: int
    harvesting: str
    grid: tuple[int, int]
    chips_on_board: int = 1
    chips: int = 1

    @property
    def cluster_descriptor(self) -> str:
        """Returns the YAML that TT_METAL_MOCK_CLUSTER_DESC_PATH is to name: one board, its first chip at PCIe."""
        chips = range(self.chips_on_board)
        positions = [f"{chip}: [{chip}, 0, 0, 0]" for chip in chips if self.arch == "wormhole_b0"]
        links = [f"[{{chip: 0, chan: {8 + link}}}, {{chip: 1, chan: {link}}}]" for link in range(2) if len(chips) == 2]

        def each(value: str) -> str:
            return ", ".join(f"{chip}: {value}" for chip in chips)

        return "\n".join(
            [
                f"arch: {{{each(self.arch)}}}",
                f"chips: {{{', '.join(positions)}}}",
                f"chip_unique_ids: {{{', '.join(f'{chip}: {chip + 1}' for chip in chips)}}}",
                f"ethernet_connections: [{', '.join(links)}]",
                "ethernet_connections_to_remote_devices: []",
                "chips_with_mmio: [{0: 0}]",
                f"harvesting: {{{each(f'{{noc_translation: true, {self.harvesting}}}')}}}",
                f"boards: [[{{board_id: {self.product << 36}}}, {{board_type: {self.board_type}}}, "
                f"{{chips: {list(chips)}}}]]",
                "",
            ]
        )


def _blackhole_harvesting(*, columns: int, dram: int, eth: int) -> str:
    masks = f"harvest_mask: {columns}, dram_harvesting_mask: {dram}, eth_harvesting_mask: {eth}"
    return f"{masks}, pcie_harvesting_mask: 2, l2cpu_harvesting_mask: 0"


BOARDS = {
    board.name: board
    for board in (
        EmulatedBoard("n150", "wormhole_b0", "n150", 0x18, "harvest_mask: 32", (8, 8)),
        *(
            EmulatedBoard(
                name,
                "wormhole_b0",
                "n300",
                0x14,
                "harvest_mask: 33",
                (8, 7),
                chips_on_board=2,
                chips=chips,
            )
            for name, chips in (("n300", 1), ("n300x2", 2))
        ),
        EmulatedBoard(
            "p100a", "blackhole", "p100", 0x43, _blackhole_harvesting(columns=3, dram=1, eth=0x3FFF), (11, 10)
        ),
        EmulatedBoard("p150", "blackhole", "p150", 0x40, _blackhole_harvesting(columns=3, dram=0, eth=288), (11, 10)),
        EmulatedBoard(
            "p150-130", "blackhole", "p150", 0x40, _blackhole_harvesting(columns=0, dram=0, eth=288), (13, 10)
        ),
    )
}
"""By name. `n300` is one of its two chips, `n300x2` both; `p150` has today's firmware, `p150-130` the former one."""


def emulated_board(name: str) -> EmulatedBoard:
    """Returns the board of that name, given with or without the prefix `emulated:`."""
    short = name.removeprefix(PREFIX)
    if short not in BOARDS:
        raise ValueError(f"emulated board {short!r}: expected one of {', '.join(PREFIX + known for known in BOARDS)}")
    return BOARDS[short]
