"""One op for a matmul of many rows: x @ weight, added to the stream where there is one.

ttnn gives rows of cores whole rows of tiles: of 17 on 8 rows of cores each has three, and two rows of cores have none. This is
one program of two kernels of our own (`kernels/`), run by `ttnn.generic_op`. The cores are divided into groups, of which each
makes some rows and all columns. Blocks of the inner dimension come by both networks in turn: of x one core of a group reads a
block and hands it to all of them; the weight is read once, for the same columns of each group. Each core keeps its sums in L1,
in float32, adds the stream, and rounds once.
"""

from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path

import ttnn

from ....ttnn_api.own_program import OwnProgram
from ....ttnn_api.tiles import TILE, tiles
from ..descriptors import PROGRAMS_KEPT, Buffer, circular_buffer, compute_config, on_network, throttle_defines
from .cost import cost
from .golden import golden
from .plan import NETWORKS, SLOTS, GroupMatmulPlan

GROUP_MATMUL = OwnProgram("group_matmul", Path(__file__).parent / "kernels", writes=1, golden=golden)

X, WEIGHT, STAGED, SUMS, STREAM, RESULT = 0, 2, 4, 5, 6, 16
"""Circular buffers, as the kernels number them: of x and of the weight one for each network."""

SEMAPHORES = 4 * NETWORKS
"""For each network: that all are ready for a block of x, that it has arrived, and the same of the weight."""


def group_matmul(
    x: ttnn.Tensor,
    weight: ttnn.Tensor,
    plan: GroupMatmulPlan,
    fidelity: ttnn.MathFidelity,
    throttle: ttnn.ThrottleLevel = ttnn.ThrottleLevel.NO_THROTTLE,
    *,
    output: ttnn.DataType,
    memory: ttnn.MemoryConfig,
    stream: ttnn.Tensor | None = None,
    into: ttnn.Tensor | None = None,
) -> ttnn.Tensor:
    """Returns x @ weight, or stream + x @ weight, (..., T, N).

    Args:
        x: (..., T, D) bfloat16, interleaved.
        weight: (D, N), interleaved.
        plan: for these shapes and this device.
        fidelity: of the products, which are added in float32.
        throttle: how much the products are slowed down, see `precision.throttled`.
        output: dtype of the result.
        memory: where it goes, interleaved.
        stream: (..., T, N) in the dtype of the result, interleaved; None for none.
        into: the result as it is to be, whose values do not matter; newly allocated by default.
    """
    device = x.device()
    shape = ttnn.Shape([*tuple(x.shape)[:-1], weight.shape[-1]])
    _check(x, weight, plan, output, memory, {"stream": stream, "into": into}, tuple(shape))
    result = into
    if result is None:
        result = ttnn.allocate_tensor_on_device(shape, output, ttnn.TILE_LAYOUT, device, memory)
    width, height = plan.grid
    cores = [(x, y) for y in range(plan.groups * height) for x in range(width)]
    tensors = [x, weight, *([] if stream is None else [stream]), result]
    handed = None if stream is None else Buffer.of(stream)
    program = _program(
        *(Buffer.of(tensor) for tensor in (x, weight, result)),
        handed,
        plan,
        on_network(device, cores),
        fidelity,
        throttle,
    )
    GROUP_MATMUL.run(tensors, program, partial(cost, plan))
    return result


@lru_cache(maxsize=PROGRAMS_KEPT)
def _program(
    x: Buffer,
    weight: Buffer,
    result: Buffer,
    stream: Buffer | None,
    plan: GroupMatmulPlan,
    places: tuple[tuple[int, int], ...],
    fidelity: ttnn.MathFidelity,
    throttle: ttnn.ThrottleLevel,
) -> ttnn.ProgramDescriptor:
    """Returns the program for tensors that lie there, kept: a chunk allocates in the same places as the one before.

    `places` are those of the workers on the network, row by row: group after group.
    """
    width, height = plan.grid
    cores = ttnn.CoreRangeSet(
        [ttnn.CoreRange(ttnn.CoreCoord(0, 0), ttnn.CoreCoord(width - 1, plan.groups * height - 1))]
    )
    moved, computed = [ttnn.RuntimeArgs() for _ in range(NETWORKS)], ttnn.RuntimeArgs()
    for at in range(len(places)):
        group, worker = divmod(at, plan.workers)
        own = places[group * plan.workers : (group + 1) * plan.workers]
        row, row_end = plan.rows_of(group)
        columns = [plan.columns_of(worker, number) for number in range(plan.passes)]
        others = [*places[worker :: plan.workers], *own[: plan.senders]]
        y, x_of_core = divmod(at, width)
        # The second network's multicast runs from the far corner to the near one.
        for network, corners in enumerate(((own[0], own[-1]), (own[-1], own[0]))):
            moved[network][x_of_core][y] = [
                worker,
                group,
                row,
                row_end - row,
                *(at for corner in corners for at in corner),
                *(at for begin, end in columns for at in (begin, end - begin)),
                *(at for core in others for at in core),
            ]
        computed[x_of_core][y] = [row_end - row, *(end - begin for begin, end in columns)]

    added = stream or result
    sizes = [plan.inner, plan.block, plan.high, plan.wide]
    options = [plan.passes, int(stream is not None)]
    moves = [*sizes, plan.columns, plan.groups, plan.workers, plan.senders, *options]
    accessors = [number for buffer in (x, weight, added, result) for number in buffer.accessor]
    processors = (
        (ttnn.DataMovementProcessor.RISCV_1, ttnn.NOC.NOC_0),
        (ttnn.DataMovementProcessor.RISCV_0, ttnn.NOC.NOC_1),
    )
    exact = [SUMS, STREAM] if added.dtype == ttnn.float32 else [SUMS]
    brought = [
        circular_buffer(first + network, buffer.dtype, SLOTS * plan.block * share, cores)
        for first, buffer, share in ((X, x, plan.high), (WEIGHT, weight, plan.wide))
        for network in range(NETWORKS)
    ]
    most = plan.high * plan.wide
    return ttnn.ProgramDescriptor(
        kernels=[
            *(
                ttnn.KernelDescriptor(
                    kernel_source=str(GROUP_MATMUL.kernels / "group_matmul_feeder.cpp"),
                    core_ranges=cores,
                    compile_time_args=[network, *moves, *accessors],
                    runtime_args=moved[network],
                    common_runtime_args=[x.address, weight.address, added.address, result.address],
                    config=ttnn.DataMovementConfigDescriptor(*processor),
                )
                for network, processor in enumerate(processors)
            ),
            ttnn.KernelDescriptor(
                kernel_source=str(GROUP_MATMUL.kernels / "group_matmul_compute.cpp"),
                core_ranges=cores,
                compile_time_args=[*sizes, *options],
                defines=throttle_defines(throttle),
                runtime_args=computed,
                config=compute_config(fidelity, exact),
            ),
        ],
        semaphores=[
            ttnn.SemaphoreDescriptor(id=number, core_ranges=cores, initial_value=0) for number in range(SEMAPHORES)
        ],
        cbs=[
            *brought,
            circular_buffer(STAGED, x.dtype, plan.block * plan.high, cores),
            circular_buffer(SUMS, ttnn.float32, most, cores),
            *([] if stream is None else [circular_buffer(STREAM, stream.dtype, most, cores)]),
            circular_buffer(RESULT, result.dtype, plan.waiting, cores),
        ],
    )


def _check(
    x: ttnn.Tensor,
    weight: ttnn.Tensor,
    plan: GroupMatmulPlan,
    output: ttnn.DataType,
    memory: ttnn.MemoryConfig,
    alike: Mapping[str, ttnn.Tensor | None],
    shape: tuple[int, ...],
) -> None:
    """Raises ValueError where the kernels would read or write something else than they are meant to: nobody else looks."""
    (rows, inner), columns = tiles(tuple(x.shape)), shape[-1] // TILE
    if (rows, inner, columns) != (plan.rows, plan.inner, plan.columns) or any(size % TILE for size in shape[-2:]):
        raise ValueError(
            f"group_matmul: expected {plan.rows} x {plan.inner} tiles of x and {plan.columns} columns, as planned, "
            f"got x of {tuple(x.shape)} for a result of {shape}"
        )
    if memory.is_sharded() or output not in (ttnn.bfloat16, ttnn.float32):
        raise ValueError(
            f"group_matmul: expected an interleaved bfloat16 or float32 result, got {output.name}, {memory}"
        )
    like_result = [(name, tensor, (output,), shape) for name, tensor in alike.items() if tensor is not None]
    for name, tensor, dtypes, expected in (
        ("x", x, (ttnn.bfloat16,), (*shape[:-1], inner * TILE)),
        ("weight", weight, (ttnn.bfloat16, ttnn.bfloat8_b, ttnn.bfloat4_b), (inner * TILE, shape[-1])),
        *like_result,
    ):
        is_tiled = tensor.layout == ttnn.TILE_LAYOUT and not tensor.is_sharded()
        if tensor.dtype not in dtypes or tuple(tensor.shape) != expected or not is_tiled:
            raise ValueError(
                f"group_matmul: expected {name} {expected} {dtypes[0].name} in tiles, interleaved, "
                f"got {tuple(tensor.shape)} {tensor.dtype.name}, {tensor.layout.name}, {tensor.memory_config()}"
            )
