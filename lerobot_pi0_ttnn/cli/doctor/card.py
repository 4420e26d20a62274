"""The cards in this machine, seen without opening one: PCI devices, driver, device nodes, firmware, hugepages."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from .finding import Finding, Status

VENDOR = "0x1e52"
ARCHITECTURES = {"0x401e": "wormhole_b0", "0xb140": "blackhole"}

NOTED_DRIVER = Version("2.5.0")
NOTED_FIRMWARE = Version("19.2.0")
"""The newest that the table in ttnn's own README names."""
LEAST_FIRMWARE = Version("18.10.0")
"""Below it ttnn stops with `Firmware update is required`."""
HARVESTING_FIRMWARE = Version("19.5.0")
"""From it on, a p150 shows 120 of its 140 cores."""

CLOCK_MHZ = {"wormhole_b0": 1000, "blackhole": 1350}
"""Of the workers (AICLK) while a process has the card open; without one it is lower."""

GIB_PAGES = Path("kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages")
DRIVER_FIX = "install the driver (https://github.com/tenstorrent/tt-kmd, DKMS) and run `sudo modprobe tenstorrent`"
WITHOUT_CARD = (
    "put in a card, or go without: --policy.board=emulated:n150 (exact, slow), --policy.backend=torch (the CPU)"
)


@dataclass(frozen=True)
class Card:
    """One PCI device of Tenstorrent's. What the driver does not tell is an empty string."""

    address: str
    arch: str
    product: str
    firmware: str
    iommu: str
    """The kernel's name of its group's domain: `DMA`, `DMA-FQ`, `identity`."""
    clock: str = ""
    """MHz of the workers (AICLK) now."""

    @property
    def translated(self) -> bool:
        """Whether an IOMMU maps its memory accesses: ttnn then takes ordinary pages."""
        return self.iommu.startswith("DMA")

    @property
    def is_slow(self) -> bool:
        """Whether its clock is too low for a card that is open; False where the driver does not tell."""
        return self.clock.isdecimal() and int(self.clock) < 0.95 * CLOCK_MHZ.get(self.arch, 0)

    def __str__(self) -> str:
        return f"{self.product or self.arch} at {self.address}"


def read_cards(sys: Path) -> list[Card]:
    """Returns the cards that a tree like `/sys` shows, by PCI address; with the driver or without."""
    cards = []
    for device in sorted((sys / "bus/pci/devices").glob("*")):
        if _line(device / "vendor") != VENDOR:
            continue
        number = _line(device / "device")
        # The driver's own folder of the device, where its attributes are.
        driver = next(iter(sorted((device / "tenstorrent").glob("tenstorrent!*"))), device)
        cards.append(
            Card(
                address=device.name,
                arch=ARCHITECTURES.get(number, f"unknown device {number}"),
                product=_line(driver / "tt_card_type"),
                firmware=_line(driver / "tt_fw_bundle_ver"),
                iommu=_line(device / "iommu_group/type"),
                clock=_line(driver / "tt_aiclk"),
            )
        )
    return cards


def _line(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:  # absent, or an attribute that this card's firmware does not fill
        return ""


def check_card(cards: Sequence[Card], nodes: Sequence[Path], *, may_open: Callable[[Path], bool]) -> Finding:
    """Whether there is a card that this user may open. None is a warning: two ways to work without one remain."""
    if not nodes and not cards:
        return Finding("card", "warn", "no Tenstorrent card on the PCI bus, no device node", WITHOUT_CARD)
    names = ", ".join(str(card) for card in cards) or "the PCI bus is not visible"
    if not nodes:
        return Finding("card", "fail", f"{names}, but no device node /dev/tenstorrent/*", _node_fix())
    closed = [node for node in nodes if not may_open(node)]
    if closed:
        found = f"{names}; this user may not read and write {', '.join(map(str, closed))}"
        fix = f"tt-kmd's udev rule gives everybody access; for now `sudo chmod 666 {' '.join(map(str, closed))}`"
        return Finding("card", "fail", found, fix)
    return Finding("card", "ok", f"{names}; {', '.join(map(str, nodes))}")


def _node_fix() -> str:
    return f"{DRIVER_FIX}; in a container, start it with `--device /dev/tenstorrent`"


def check_driver(cards: Sequence[Card], nodes: Sequence[Path], module: Path) -> Finding:
    """Whether the kernel module is loaded, where there is something for it to drive.

    Args:
        cards: see `read_cards`.
        nodes: the device nodes.
        module: `/sys/module/tenstorrent`.
    """
    if not module.is_dir():
        if cards:
            return Finding(
                "driver", "fail", "there is a card, but the kernel module tenstorrent is not loaded", DRIVER_FIX
            )
        if nodes:
            fix = "make /sys of the host visible, or run doctor outside the container"
            return Finding("driver", "warn", f"device nodes, but no {module} to read its version from", fix)
        return Finding("driver", "ok", "not loaded; without a card there is nothing for it to do")
    text = _line(module / "version")
    version = _version(text)
    if version is None:
        return Finding(
            "driver", "warn", f"loaded, of unknown version {text!r}", f"2.5.0 or newer is known: {DRIVER_FIX}"
        )
    if version < NOTED_DRIVER:
        return Finding("driver", "warn", f"{text}; ttnn's notes name {NOTED_DRIVER}", f"update it: {DRIVER_FIX}")
    return Finding("driver", "ok", text)


def check_firmware(cards: Sequence[Card]) -> Finding:
    """Whether every card's firmware is one that ttnn takes; with the grid that it leaves, where that hangs on it."""
    if not cards:
        return Finding("firmware", "ok", "no card")
    status: Status = "ok"
    lines = []
    for card in cards:
        version = _version(card.firmware)
        lines.append(f"{card}: {card.firmware or 'unknown'}{_grid_note(card, version)}")
        if version is not None and version < LEAST_FIRMWARE:
            status = "fail"
        elif (version is None or version < NOTED_FIRMWARE) and status == "ok":
            status = "warn"
    if status == "ok":
        return Finding("firmware", "ok", "; ".join(lines))
    fix = (
        f"ttnn stops below {LEAST_FIRMWARE}, its notes name {NOTED_FIRMWARE}: `tt-smi -s` shows what a card has, tt-flash "
        "updates it (https://github.com/tenstorrent/tt-flash)"
    )
    return Finding("firmware", status, "; ".join(lines), fix)


def _grid_note(card: Card, version: Version | None) -> str:
    if version is None or not card.product.startswith("p150"):
        return ""
    return ", so 11 x 10 workers" if version >= HARVESTING_FIRMWARE else ", so 13 x 10 workers (11 x 10 from 19.5.0 on)"


def check_processes(
    nodes: Sequence[Path],
    environment: Mapping[str, str],
    *,
    visible: Callable[[Sequence[Path], Mapping[str, str]], Sequence[Path]],
    is_locked: Callable[[Path], bool],
) -> Finding:
    """Which cards a process here would see and keep to itself, and whether another has them now.

    Args:
        nodes: the device nodes.
        environment: of the process.
        visible: `device.cards.visible_nodes`.
        is_locked: `device.cards.is_locked`.
    """
    each = "TT_VISIBLE_DEVICES=0, TT_VISIBLE_DEVICES=1, ... and a TT_METAL_CACHE each"
    try:
        seen = visible(nodes, environment)
    except ValueError as error:
        return Finding("processes", "fail", str(error), "`unset TT_VISIBLE_DEVICES`, or name a card that is there")
    if not nodes:
        return Finding("processes", "ok", "no card")
    if not seen:
        found = "TT_VISIBLE_DEVICES is set and empty: a process sees no card"
        return Finding("processes", "fail", found, "`unset TT_VISIBLE_DEVICES`")
    taken = [str(node) for node in seen if is_locked(node)]
    if taken:
        fix = f"`fuser -v {' '.join(taken)}` names it; end it" + (f", or part the cards: {each}" if nodes[1:] else "")
        return Finding("processes", "warn", f"another process of this package has {', '.join(taken)}", fix)
    names = ", ".join(map(str, seen))
    if len(seen) < len(nodes) and not environment.get("TT_METAL_CACHE"):
        found = f"a process takes {names} of {len(nodes)} cards, but shares its kernel cache with those on the others"
        fix = "give each process a TT_METAL_CACHE: builds of two at a time collide in one (tt-metal #24087)"
        return Finding("processes", "warn", found, fix)
    found = f"a process takes {names}"
    return Finding("processes", "ok", f"{found}; for a process for each card: {each}" if seen[1:] else found)


def check_clock(cards: Sequence[Card]) -> Finding:
    """The clock of each card's workers; low is no fault while nobody has the card open."""
    if not cards:
        return Finding("clock", "ok", "no card")
    known = [f"{card}: {card.clock} MHz now, {CLOCK_MHZ[card.arch]} while it is open" for card in cards if card.clock]
    return Finding("clock", "ok", "; ".join(known) or "the driver does not tell")


def check_grid(described: Mapping[str, Any], tried: Container[tuple[int, int]]) -> Finding:
    """Whether an open board offers a grid that the model's tests have seen, at full clock.

    Args:
        described: see `device.board.Board.describe`; `slow` is text about cards whose clock was low while it was open.
        tried: the (x, y) grids of the emulated boards.
    """
    x, y = described["grid"]
    found = (
        f"{described['name']} ({described['kind']}, {described['arch']}): {x} x {y} workers, "
        f"{described['dram_bytes'] / 2**30:.1f} GiB of DRAM"
    )
    if slow := described.get("slow"):
        fix = "look at its temperature and power (`tt-smi`; a Wormhole slows down at 75 C), then update its firmware"
        return Finding("grid", "warn", f"{found}; its clock was low while it was open: {slow}", fix)
    if (x, y) not in tried:
        fix = "run `pytest tests/device -m device` on it before you rely on it, and report what it says"
        return Finding("grid", "warn", f"{found}; a grid that no test has seen", fix)
    return Finding("grid", "ok", found)


def slow_cards(cards: Sequence[Card]) -> str:
    """Returns the cards whose clock is too low for cards that are open, in words; empty where none is."""
    return "; ".join(f"{card}: {card.clock} of {CLOCK_MHZ[card.arch]} MHz" for card in cards if card.is_slow)


def check_hugepages(cards: Sequence[Card], mounts: str, sys: Path) -> Finding:
    """Whether the host has the 1 GiB pages through which a Wormhole reads and writes its memory.

    Args:
        cards: see `read_cards`.
        mounts: the text of `/proc/mounts`.
        sys: a tree like `/sys`.
    """
    needing = [card for card in cards if not card.translated]
    if not needing:
        why = "an IOMMU maps the cards' accesses" if cards else "no card; a Wormhole needs one of 1 GiB"
        return Finding("hugepages", "ok", why)
    count = int(_line(sys / GIB_PAGES) or 0)
    mounted = [
        fields[1]
        for fields in (line.split() for line in mounts.splitlines())
        if len(fields) > 3 and fields[2] == "hugetlbfs" and re.search(r"\bpagesize=(1024M|1G)\b", fields[3])
    ]
    if count >= len(needing) and mounted:
        return Finding("hugepages", "ok", f"{count} of 1 GiB, mounted at {mounted[0]}")
    status: Status = "fail" if any(card.arch == "wormhole_b0" for card in needing) else "warn"
    found = f"{count} of 1 GiB for {len(needing)} cards, " + (
        f"mounted at {mounted[0]}" if mounted else "no hugetlbfs with pagesize=1G mounted"
    )
    fix = (
        "install tt-system-tools (https://github.com/tenstorrent/tt-system-tools), then `sudo systemctl enable --now "
        "tenstorrent-hugepages.service 'dev-hugepages\\x2d1G.mount'` and reboot; in a container, mount the host's "
        "/dev/hugepages-1G"
    )
    return Finding("hugepages", status, found, fix)


def _version(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None
