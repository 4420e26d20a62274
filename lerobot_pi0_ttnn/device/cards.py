"""The cards in this machine, those of them that this process may see, and the lock that keeps a card to one process."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..ttnn_api.process import open_files

logger = logging.getLogger(__name__)

NODES = Path("/dev/tenstorrent")
"""Where the driver makes a device node for each card."""
SYS = Path("/sys")
VISIBLE = "TT_VISIBLE_DEVICES"
"""Which cards ttnn's driver library (UMD) opens: it reads this variable, and locks and numbers follow it."""
PCI_ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")


def card_nodes() -> list[Path]:
    """Returns the device nodes of the cards, in the order of their numbers."""
    if not NODES.is_dir():
        return []
    return sorted((node for node in NODES.iterdir() if node.name.isdecimal()), key=lambda node: int(node.name))


def pci_address(node: Path, sys: Path = SYS) -> str | None:
    """Returns the PCI address of the card behind a device node, as `0000:01:00.0`; None where `/sys` does not tell.

    By the node's device number: in a container a node may have another name than on the host.
    """
    status = node.stat()
    if not stat.S_ISCHR(status.st_mode):
        return None
    folder = sys / "dev/char" / f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    addresses = [part for part in folder.resolve().parts if PCI_ADDRESS.fullmatch(part)]
    return addresses[-1] if addresses else None


def visible_nodes(nodes: Sequence[Path], environment: Mapping[str, str]) -> list[Path]:
    """Returns the device nodes that ttnn will open in this environment: all, or those that TT_VISIBLE_DEVICES names.

    Read as UMD 0.9.14 does (tt-umd, `pci_device.cpp::PCIDevice::enumerate_devices`): parted by commas, a number counts cards
    in the order of their PCI addresses, and what has a colon or a dot is a part of such an address.

    Args:
        nodes: all that there are.
        environment: of the process.

    Raises:
        ValueError: the variable names a card that is not there.
    """
    value = environment.get(VISIBLE)
    if value is None:
        return list(nodes)
    addresses = {node: pci_address(node) for node in nodes}
    known = {address: node for node, address in addresses.items() if address is not None}
    if len(known) < len(nodes):
        if value.strip():
            logger.warning(
                "%s=%s: /sys does not tell the PCI addresses of %s, so that all of them are kept to this process.",
                VISIBLE,
                value,
                ", ".join(str(node) for node, address in addresses.items() if address is None),
            )
            return list(nodes)
        return []
    ordered = [known[address] for address in sorted(known)]
    chosen: set[Path] = set()
    for token in filter(None, (token.strip() for token in value.split(","))):
        if token.isdecimal() and int(token) < len(ordered):
            chosen.add(ordered[int(token)])
        elif matches := [known[address] for address in known if set(token) & set(":.") and token in address]:
            chosen.update(matches)
        else:
            raise ValueError(
                f"{VISIBLE}={value}: expected numbers below {len(nodes)}, in the order of the PCI addresses, or parts of "
                f"{', '.join(sorted(known)) or 'such an address'}, got {token!r}"
            )
    return [node for node in ordered if node in chosen]


def is_one_open() -> bool:
    """Returns whether this process has a card's device node open."""
    return any(target.is_relative_to(NODES) for target in open_files())


def is_locked(node: Path) -> bool:
    """Returns whether a process, of those that share this device node, has the card locked by `CardLock`."""
    try:
        CardLock([node]).release()
    except RuntimeError:
        return True
    except OSError:  # one that this user may not open
        return False
    return False


class CardLock:
    """An exclusive lock on cards: ttnn opens every card that a process can see, whichever is asked for.

    It is a lock on the device nodes, and holds among processes that share them: two containers do not (docs/robot.md).

    Args:
        nodes: of the cards.

    Raises:
        RuntimeError: another process has one of them locked.
    """

    def __init__(self, nodes: Sequence[Path]) -> None:
        self._descriptors: list[int] = []
        for node in nodes:
            descriptor = os.open(node, os.O_RDONLY | os.O_CLOEXEC)
            self._descriptors.append(descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.release()
                raise RuntimeError(
                    f"{node}: another process has this card open through lerobot_pi0_ttnn (`fuser -v {node}` names "
                    f"it): end it, or use its policy. With several cards, start each process with cards of its own: "
                    f"{VISIBLE}=0, {VISIBLE}=1, ... and a TT_METAL_CACHE each"
                ) from None

    def release(self) -> None:
        """Lets other processes have the cards. The end of the process does so, too."""
        while self._descriptors:
            os.close(self._descriptors.pop())
