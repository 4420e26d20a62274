"""One op for attention of few queries to many keys of one head: softmax(q @ k.T + mask) @ v, the keys divided among cores.

ttnn gives a core a row of tiles of a head and all keys, which of 64 queries and eight heads keeps 16 cores busy. This is one
program of three kernels of our own (`kernels/`), run by `ttnn.generic_op`. A core has a row of tiles of a head and a part of
the keys. One core of a part reads its keys, another its values, and hand them to the others. Cores of the same queries tell
each other the maxima of their scores, so that all take the same off; then sums of different keys may simply be added, and are,
in float32, each core for some columns of the head.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import ttnn

from ....ttnn_api.own_program import OwnProgram
from ....ttnn_api.tiles import TILE
from ..descriptors import PROGRAMS_KEPT, Buffer, circular_buffer, compute_config, on_network
from .cost import cost
from .golden import golden
from .plan import AttendPlan

ATTEND = OwnProgram("attend", Path(__file__).parent / "kernels", writes=1, golden=golden, cost=cost)

(
    QUERIES,
    KEYS,
    VALUES,
    MASK,
    SCALER,
    ONES,
    SCORES,
    EXACT_SCORES,
    MAXIMUM,
    MAXIMA,
    SHIFT,
    WEIGHTS,
    SUMS,
    ADDENDS,
    INVERSE,
    _,
    RESULT,
) = range(17)
"""Circular buffers, as the kernels number them."""

SEMAPHORES = 6
"""A core is ready for keys and values; keys have come; values have; it is ready for its peers; maxima have come; sums have."""


def attend(
    queries: ttnn.Tensor,
    keys: ttnn.Tensor,
    values: ttnn.Tensor,
    mask: ttnn.Tensor,
    plan: AttendPlan,
    fidelity: ttnn.MathFidelity,
) -> ttnn.Tensor:
    """Returns softmax(queries @ keys.T + mask) @ values, (1, N, T, H) bfloat16, where the queries are.

    Args:
        queries: (1, N, T, H) bfloat16, interleaved, scaled.
        keys: (1, 1, S, H) bfloat16, interleaved.
        values: as the keys.
        mask: (1, 1, T, S) bfloat16, interleaved, finite.
        plan: for these shapes and this device.
        fidelity: of the products, which are added in float32.
    """
    _check(queries, keys, values, mask, plan)
    device = queries.device()
    result = ttnn.allocate_tensor_on_device(
        queries.shape, ttnn.bfloat16, ttnn.TILE_LAYOUT, device, queries.memory_config()
    )
    places = on_network(device, ((head, row) for row in range(plan.rows * plan.parts) for head in range(plan.heads)))
    tensors = [queries, keys, values, mask, result]
    ATTEND.run(tensors, _program(tuple(Buffer.of(tensor) for tensor in tensors), plan, places, fidelity))
    return result


@lru_cache(maxsize=PROGRAMS_KEPT)
def _program(
    buffers: tuple[Buffer, ...],
    plan: AttendPlan,
    places: tuple[tuple[int, int], ...],
    fidelity: ttnn.MathFidelity,
) -> ttnn.ProgramDescriptor:
    """Returns the program for tensors that lie there, kept: a step allocates in the same places as the one before.

    `places` are those of the cores on the network, row after row.
    """
    queries, keys, values, mask, result = buffers
    corner = ttnn.CoreCoord(plan.heads - 1, plan.rows * plan.parts - 1)
    cores = ttnn.CoreRangeSet([ttnn.CoreRange(ttnn.CoreCoord(0, 0), corner)])
    read, moved, computed = ttnn.RuntimeArgs(), ttnn.RuntimeArgs(), ttnn.RuntimeArgs()
    for number in range(len(places)):
        down, head = divmod(number, plan.heads)
        part, row = divmod(down, plan.rows)
        begin, end = plan.span(part)
        group = places[part * plan.rows * plan.heads : (part + 1) * plan.rows * plan.heads]
        peers = places[row * plan.heads + head :: plan.rows * plan.heads]
        # The first core of a part reads its keys, the second its values.
        role = 1 + head if row == 0 and head < 2 else 0
        read[head][down] = [begin, end - begin, role, *group[0], *group[-1], *group[0], *group[1]]
        moved[head][down] = [
            head,
            row,
            begin,
            end - begin,
            part,
            plan.columns(part),
            *(at for place in peers for at in place),
        ]
        computed[head][down] = [end - begin, plan.columns(part)]

    def mover(
        name: str, sizes: list[int], handed: Sequence[Buffer], arguments: ttnn.RuntimeArgs, config: object
    ) -> ttnn.KernelDescriptor:
        return ttnn.KernelDescriptor(
            kernel_source=str(ATTEND.kernels / name),
            core_ranges=cores,
            compile_time_args=[*sizes, *(arg for buffer in handed for arg in buffer.accessor)],
            runtime_args=arguments,
            common_runtime_args=[buffer.address for buffer in handed],
            config=config,
        )

    return ttnn.ProgramDescriptor(
        kernels=[
            mover(
                "attend_reader.cpp",
                [plan.width, plan.heads * plan.rows],
                [keys, values],
                read,
                ttnn.DataMovementConfigDescriptor(ttnn.DataMovementProcessor.RISCV_1, ttnn.NOC.NOC_0),
            ),
            mover(
                "attend_writer.cpp",
                [plan.rows, plan.width, plan.keys, plan.parts],
                [queries, mask, result],
                moved,
                ttnn.DataMovementConfigDescriptor(ttnn.DataMovementProcessor.RISCV_0, ttnn.NOC.NOC_1),
            ),
            ttnn.KernelDescriptor(
                kernel_source=str(ATTEND.kernels / "attend_compute.cpp"),
                core_ranges=cores,
                compile_time_args=[plan.width, plan.parts],
                runtime_args=computed,
                config=compute_config(fidelity, exact=[EXACT_SCORES, ADDENDS, INVERSE]),
            ),
        ],
        semaphores=[
            ttnn.SemaphoreDescriptor(id=number, core_ranges=cores, initial_value=0) for number in range(SEMAPHORES)
        ],
        cbs=[
            circular_buffer(indices, dtype, tiles, cores)
            for indices, dtype, tiles in (
                ([QUERIES], ttnn.bfloat16, plan.width),
                ([KEYS], ttnn.bfloat16, plan.longest * plan.width),
                ([VALUES], ttnn.bfloat16, plan.longest * plan.width),
                ([MASK], ttnn.bfloat16, plan.longest),
                ([SCALER], ttnn.bfloat16, 1),
                ([ONES], ttnn.bfloat16, 1),
                # The same tiles under two numbers: for the multiplier, and for the registers.
                ([SCORES, EXACT_SCORES], ttnn.float32, plan.longest),
                ([MAXIMUM], ttnn.bfloat16, 1),
                ([MAXIMA], ttnn.bfloat16, plan.parts),
                ([SHIFT], ttnn.bfloat16, 1),
                ([WEIGHTS], ttnn.float32, plan.longest),
                ([SUMS], ttnn.float32, plan.width + 1),
                ([ADDENDS], ttnn.float32, (1 + plan.columns(0)) * plan.parts),
                ([INVERSE], ttnn.float32, 1),
                ([RESULT], ttnn.bfloat16, plan.columns(0)),
            )
        ],
    )


def _check(queries: ttnn.Tensor, keys: ttnn.Tensor, values: ttnn.Tensor, mask: ttnn.Tensor, plan: AttendPlan) -> None:
    """Raises ValueError where the kernels would read or write something else than they are meant to: nobody else looks."""
    length, tokens, size = (TILE * tiles for tiles in (plan.rows, plan.keys, plan.width))
    for name, tensor, shape in (
        ("queries", queries, (1, plan.heads, length, size)),
        ("keys", keys, (1, 1, tokens, size)),
        ("values", values, (1, 1, tokens, size)),
        ("mask", mask, (1, 1, length, tokens)),
    ):
        got = (tensor.dtype, tuple(tensor.shape), tensor.layout, tensor.is_sharded())
        if got != (ttnn.bfloat16, shape, ttnn.TILE_LAYOUT, False):
            raise ValueError(
                f"attend: expected {name} {shape} BFLOAT16 in tiles, not sharded, got {tuple(tensor.shape)} "
                f"{tensor.dtype.name}, {tensor.layout.name}"
            )
