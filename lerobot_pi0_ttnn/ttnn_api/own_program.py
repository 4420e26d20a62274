"""A program of our own kernels as one object: what runs it, emulates it, checks its kernels and prices it finds all here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .hook import own_program

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Handed:
    """A tensor that a program was handed.

    Attributes:
        shape: its logical shape.
        dtype: as ttnn spells it (`BFLOAT8_B`).
        memory: `DRAM` or `L1`.
        bytes: as stored, the padding of tiles included.
        shards: cores that have it in their L1, whole columns each; 0 where it is interleaved.
    """

    shape: tuple[int, ...]
    dtype: str
    memory: str
    bytes: int
    shards: int = 0


@dataclass(frozen=True)
class Work:
    """What one run of a program asks of a chip.

    Attributes:
        units: equal parts of the work, of which a core takes whole ones.
        traffic: dtype and bytes of all that it reads and writes in DRAM; what is read nine times counts nine times.
        products: of two tiles, in a unit, at the fidelity of its compute kernel.
        handed: bytes that cores which have them in L1 hand to all others, one core after the other, and how many cores.
    """

    units: int
    traffic: tuple[tuple[str, int], ...]
    products: int = 0
    handed: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class OwnProgram:
    """A program of our own kernels, which `ttnn.generic_op` runs.

    Attributes:
        name: for messages.
        kernels: the folder of its sources.
        writes: how many of its tensors, the last ones, it writes.
        golden: what it computes, in torch: gets the values of all of its tensors and ttnn's descriptor, returns those of the
            written ones.
        cost: what a run takes, from the tensors that it is handed (each buffer once).
    """

    name: str
    kernels: Path
    writes: int
    golden: Callable[[Sequence[Tensor], Any], tuple[Tensor, ...]]
    cost: Callable[[Sequence[Handed]], Work]

    def run(self, tensors: Sequence[Any], descriptor: Any) -> None:
        """Enqueues the program; whoever follows ttnn's calls sees this object as the call's `program`.

        Args:
            tensors: on one device, those that it writes last.
            descriptor: a `ttnn.ProgramDescriptor`.
        """
        import ttnn

        with own_program(self):
            ttnn.generic_op(list(tensors), descriptor)
