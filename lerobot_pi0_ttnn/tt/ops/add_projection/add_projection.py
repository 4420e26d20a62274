"""One op for the end of a branch: stream + gate * (x @ weight), of few rows, the heads of x joined on the way.

ttnn has a matmul and an addition for it, and an op that joins heads. This is one program of three kernels of our own
(`kernels/`), run by `ttnn.generic_op`. Each column of the result is summed by a few cores, each of which reads its part of the
weight's column and of x, once; the first of them adds what the others have summed, gates it, and adds the stream, in float32.
"""

from functools import lru_cache
from pathlib import Path

import ttnn

from ....ttnn_api.own_program import OwnProgram
from ....ttnn_api.tiles import TILE
from ..descriptors import PROGRAMS_KEPT, Buffer, circular_buffer, compute_config, on_network, throttle_defines
from .cost import cost
from .golden import golden
from .plan import READ_AT_ONCE, AddProjectionPlan

ADD_PROJECTION = OwnProgram("add_projection", Path(__file__).parent / "kernels", writes=1, golden=golden, cost=cost)

X, WEIGHT, ADDENDS, GATE, SUM = 0, 1, 2, 3, 16
"""Circular buffers, as the kernels number them."""


def add_projection(
    stream: ttnn.Tensor,
    x: ttnn.Tensor,
    weight: ttnn.Tensor,
    gate: ttnn.Tensor | None,
    plan: AddProjectionPlan,
    fidelity: ttnn.MathFidelity,
    throttle: ttnn.ThrottleLevel = ttnn.ThrottleLevel.NO_THROTTLE,
) -> ttnn.Tensor:
    """Returns stream + gate * (x @ weight), (B, 1, T, D) float32, where the stream is.

    Args:
        stream: (B, 1, T, D) float32.
        x: (B, N, T, H) bfloat16, interleaved; the N heads are joined.
        weight: (N * H, D), interleaved.
        gate: (1, D) float32, interleaved; None for none.
        plan: for these shapes and this device.
        fidelity: of the products, which are added in float32.
        throttle: how much the products are slowed down, see `precision.throttled`.
    """
    _check(stream, x, weight, gate, plan)
    device = x.device()
    total = ttnn.allocate_tensor_on_device(stream.shape, ttnn.float32, ttnn.TILE_LAYOUT, device, stream.memory_config())
    workers = (divmod(number, plan.grid[0]) for number in range(plan.columns * plan.parts))
    places = on_network(device, ((column, row) for row, column in workers))
    tensors = [x, weight, stream, *([] if gate is None else [gate]), total]
    buffers = tuple(Buffer.of(tensor) for tensor in (x, weight, stream, total))
    gating = None if gate is None else Buffer.of(gate)
    _, heads, length, width = tuple(x.shape)
    ADD_PROJECTION.run(
        tensors, _program(*buffers, gating, plan, (heads, length // TILE, width // TILE), places, fidelity, throttle)
    )
    return total


@lru_cache(maxsize=PROGRAMS_KEPT)
def _program(
    x: Buffer,
    weight: Buffer,
    stream: Buffer,
    total: Buffer,
    gate: Buffer | None,
    plan: AddProjectionPlan,
    heads: tuple[int, int, int],
    places: tuple[tuple[int, int], ...],
    fidelity: ttnn.MathFidelity,
    throttle: ttnn.ThrottleLevel,
) -> ttnn.ProgramDescriptor:
    """Returns the program for tensors that lie there, kept: a step allocates in the same places as the one before.

    `heads` are the number, rows and columns of the heads of x, in tiles; `places` those of the workers on the network: first
    those that write a column, then those that sum a further part of it.
    """
    cores = ttnn.num_cores_to_corerangeset(len(places), ttnn.CoreCoord(*plan.grid), row_wise=True)
    read, moved, computed = ttnn.RuntimeArgs(), ttnn.RuntimeArgs(), ttnn.RuntimeArgs()
    for worker in range(len(places)):
        part, column = divmod(worker, plan.columns)
        begin, end = plan.span(part)
        # The first worker of a column knows the others, and they it.
        others = places[column + plan.columns :: plan.columns] if part == 0 else places[column : column + 1]
        row_of_cores, column_of_cores = divmod(worker, plan.grid[0])
        read[column_of_cores][row_of_cores] = [column, begin, end, part]
        moved[column_of_cores][row_of_cores] = [column, begin, end, part, *(at for place in others for at in place)]
        computed[column_of_cores][row_of_cores] = [end - begin, part]

    sizes = [plan.rows, plan.parts, plan.columns, READ_AT_ONCE, int(gate is not None)]
    return ttnn.ProgramDescriptor(
        kernels=[
            ttnn.KernelDescriptor(
                kernel_source=str(ADD_PROJECTION.kernels / "add_projection_reader.cpp"),
                core_ranges=cores,
                compile_time_args=[*sizes, *weight.accessor, *(gate or weight).accessor],
                runtime_args=read,
                common_runtime_args=[weight.address, (gate or weight).address],
                config=ttnn.DataMovementConfigDescriptor(ttnn.DataMovementProcessor.RISCV_1, ttnn.NOC.NOC_0),
            ),
            ttnn.KernelDescriptor(
                kernel_source=str(ADD_PROJECTION.kernels / "add_projection_writer.cpp"),
                core_ranges=cores,
                compile_time_args=[*sizes, *heads, *x.accessor, *stream.accessor, *total.accessor],
                runtime_args=moved,
                common_runtime_args=[x.address, stream.address, total.address],
                config=ttnn.DataMovementConfigDescriptor(ttnn.DataMovementProcessor.RISCV_0, ttnn.NOC.NOC_1),
            ),
            ttnn.KernelDescriptor(
                kernel_source=str(ADD_PROJECTION.kernels / "add_projection_compute.cpp"),
                core_ranges=cores,
                compile_time_args=sizes,
                defines=throttle_defines(throttle),
                runtime_args=computed,
                config=compute_config(fidelity, exact=[ADDENDS, GATE]),
            ),
        ],
        # Parts of a column that have arrived where it is written, and whether that core is ready for them.
        semaphores=[ttnn.SemaphoreDescriptor(id=number, core_ranges=cores, initial_value=0) for number in range(2)],
        cbs=[
            circular_buffer(X, x.dtype, plan.rows * plan.longest, cores),
            circular_buffer(WEIGHT, weight.dtype, plan.longest, cores),
            circular_buffer(ADDENDS, stream.dtype, plan.parts * plan.rows, cores),
            circular_buffer(GATE, stream.dtype, 1, cores),
            circular_buffer(SUM, total.dtype, plan.rows, cores),
        ],
    )


def _check(
    stream: ttnn.Tensor, x: ttnn.Tensor, weight: ttnn.Tensor, gate: ttnn.Tensor | None, plan: AddProjectionPlan
) -> None:
    """Raises ValueError where the kernels would read or write something else than they are meant to: nobody else looks."""
    batch, _, length, width = tuple(stream.shape)
    rows, inner = batch * length // TILE, weight.shape[0] // TILE
    if (rows, inner, width // TILE) != (plan.rows, plan.inner, plan.columns) or length % TILE or width % TILE:
        raise ValueError(
            f"add_projection: expected {plan.rows} x {plan.columns} tiles of a stream and {plan.inner} of x, as planned, "
            f"got a stream of {tuple(stream.shape)}, and {weight.shape[0]} of x"
        )
    heads, size = tuple(x.shape)[1], tuple(x.shape)[-1]
    gates = [] if gate is None else [("gate", gate, (ttnn.float32,), (1, width))]
    for name, tensor, dtypes, shape in (
        ("stream", stream, (ttnn.float32,), (batch, 1, length, width)),
        ("x", x, (ttnn.bfloat16,), (batch, heads, length, weight.shape[0] // heads)),
        ("weight", weight, (ttnn.bfloat16, ttnn.bfloat8_b, ttnn.bfloat4_b), (weight.shape[0], width)),
        *gates,
    ):
        is_apart = name == "stream" or not tensor.is_sharded()
        if (
            tensor.dtype not in dtypes
            or tuple(tensor.shape) != shape
            or tensor.layout != ttnn.TILE_LAYOUT
            or not is_apart
        ):
            raise ValueError(
                f"add_projection: expected {name} {shape} {dtypes[0].name} in tiles, got {tuple(tensor.shape)} "
                f"{tensor.dtype.name}, {tensor.layout.name}, {tensor.memory_config()}"
            )
    if size % TILE:
        raise ValueError(f"add_projection: expected heads of whole tiles, got {size}")
