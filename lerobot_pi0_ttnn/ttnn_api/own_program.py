"""A program of our own kernels as one object: what runs it, emulates it, checks its kernels and prices it finds all here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    """What one run of a program asks of a chip. All but `units`, `traffic`, `near` and what follows `vector` is of one unit.

    A core that moves, one that computes and one that is handed something do so at the same time.

    Attributes:
        units: equal parts of the work, of which a core takes whole ones.
        traffic: dtype and bytes of all that it reads and writes in DRAM; what is read nine times counts nine times.
        near: bytes of all that it reads and writes in the L1 of other cores.
        waits: how often a unit waits until something that it asked for has arrived.
        products: of two tiles, by the matrix engine.
        passes: tiles unpacked, computed with otherwise and packed, each time that one is.
        vector: tiles that a function of the vector unit is applied to, by ttnn's name of the function.
        fed: bytes that one core reads and hands to all others; of several such cores, the one that hands most.
        blocks: in which it does so, one after the other.
        is_read_ahead: whether a core has read what it hands on while others handed on theirs.
        first: bytes that a core needs before it begins, which another reads and hands to it and others.
        exchanges: how often all cores wait for what others have computed.
        most: units of the core that has most; 0 where they are divided evenly.
        last: bytes that all cores write when nothing else goes on any more: the last entry of `traffic`, or that is 0, in L1.
    """

    units: int
    traffic: tuple[tuple[str, int], ...]
    near: int = 0
    waits: int = 1
    products: int = 0
    passes: int = 0
    vector: Mapping[str, int] = field(default_factory=dict)
    fed: int = 0
    blocks: int = 0
    is_read_ahead: bool = False
    first: int = 0
    exchanges: int = 0
    most: int = 0
    last: int = 0


@dataclass(frozen=True)
class OwnProgram:
    """A program of our own kernels, which `ttnn.generic_op` runs.

    Attributes:
        name: for messages.
        kernels: the folder of its sources.
        writes: how many of its tensors, the last ones, it writes.
        golden: what it computes, in torch: gets the values of all of its tensors and ttnn's descriptor, returns those of the
            written ones.
        cost: what a run takes, from the tensors that it is handed (each buffer once); None where each run brings its own.
    """

    name: str
    kernels: Path
    writes: int
    golden: Callable[[Sequence[Tensor], Any], tuple[Tensor, ...]]
    cost: Callable[[Sequence[Handed]], Work] | None = None

    def run(
        self, tensors: Sequence[Any], descriptor: Any, cost: Callable[[Sequence[Handed]], Work] | None = None
    ) -> None:
        """Enqueues the program; whoever follows ttnn's calls sees this object as the call's `program`.

        Args:
            tensors: on one device, those that it writes last.
            descriptor: a `ttnn.ProgramDescriptor`.
            cost: of this run, where it depends on more than the tensors.
        """
        import ttnn

        with own_program(replace(self, cost=cost) if cost else self):
            ttnn.generic_op(list(tensors), descriptor)
