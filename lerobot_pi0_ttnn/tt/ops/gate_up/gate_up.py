"""One op for the first half of Gemma's MLP: gelu_tanh(x @ gate) * (x @ up), of few rows.

ttnn has two matmuls and a multiplication for it: x is handed to all cores twice, and three tensors of the MLP's width go
through L1. This is one program of three kernels of our own (`kernels/`), run by `ttnn.generic_op`. The cores that have the
shards of x hand them to all cores, one after the other; meanwhile each core reads its own columns of both weights, once. A
column of both is summed over its whole length in the float32 registers, where it is activated, multiplied, and rounded once.
"""

from functools import lru_cache
from pathlib import Path

import ttnn

from ....ttnn_api.own_program import OwnProgram
from ....ttnn_api.tiles import TILE
from ..descriptors import PROGRAMS_KEPT, Buffer, circular_buffer, compute_config, on_network, throttle_defines
from .cost import cost
from .golden import golden
from .plan import GateUpPlan

GATE_UP = OwnProgram("gate_up", Path(__file__).parent / "kernels", writes=1, golden=golden, cost=cost)

X, WEIGHTS, PRODUCT = 0, 1, 16
"""Circular buffers, as the kernels number them."""


def gate_up(
    x: ttnn.Tensor,
    gate: ttnn.Tensor,
    up: ttnn.Tensor,
    plan: GateUpPlan,
    fidelity: ttnn.MathFidelity,
    throttle: ttnn.ThrottleLevel = ttnn.ThrottleLevel.NO_THROTTLE,
) -> ttnn.Tensor:
    """Returns gelu_tanh(x @ gate) * (x @ up), (..., T, N) bfloat16, interleaved in L1.

    Args:
        x: (..., T, D), in L1, each of the first cores of a row has whole columns of it.
        gate: (D, N), interleaved.
        up: (D, N), interleaved, in the dtype of `gate`.
        plan: for these shapes and this device.
        fidelity: of the products, which are added in float32.
        throttle: how much the products are slowed down, see `precision.throttled`.
    """
    _check(x, gate, up, plan)
    device = x.device()
    shape = ttnn.Shape([*tuple(x.shape)[:-1], gate.shape[-1]])
    product = ttnn.allocate_tensor_on_device(shape, ttnn.bfloat16, ttnn.TILE_LAYOUT, device, ttnn.L1_MEMORY_CONFIG)
    far = (plan.grid[0] - 1, plan.grid[1] - 1)
    corners = on_network(device, [(0, 0), far, *((shard, 0) for shard in range(plan.shards))])
    tensors = [x, gate, up, product]
    buffers = tuple(Buffer.of(tensor) for tensor in tensors)
    GATE_UP.run(tensors, _program(*buffers, plan, corners, fidelity, throttle))
    return product


@lru_cache(maxsize=PROGRAMS_KEPT)
def _program(
    x: Buffer,
    gate: Buffer,
    up: Buffer,
    product: Buffer,
    plan: GateUpPlan,
    corners: tuple[tuple[int, int], ...],
    fidelity: ttnn.MathFidelity,
    throttle: ttnn.ThrottleLevel,
) -> ttnn.ProgramDescriptor:
    """Returns the program for tensors that lie there, kept: a step allocates in the same places as the one before."""
    width, height = plan.grid
    workers = width * height
    cores = ttnn.CoreRangeSet([ttnn.CoreRange(ttnn.CoreCoord(0, 0), ttnn.CoreCoord(width - 1, height - 1))])
    read, moved, computed = ttnn.RuntimeArgs(), ttnn.RuntimeArgs(), ttnn.RuntimeArgs()
    for worker in range(workers):
        begin, end = worker * plan.columns // workers, (worker + 1) * plan.columns // workers
        row, column = divmod(worker, width)
        read[column][row] = [begin, end]
        moved[column][row] = [begin, end, min(worker, plan.shards)]
        computed[column][row] = [end - begin]

    first, last, *senders = corners
    shard_tiles = plan.rows * plan.shard_columns
    # The second network's multicast runs from the far corner to the near one.
    rectangle = [*last, *first]
    return ttnn.ProgramDescriptor(
        kernels=[
            ttnn.KernelDescriptor(
                kernel_source=str(GATE_UP.kernels / "gate_up_reader.cpp"),
                core_ranges=cores,
                compile_time_args=[plan.inner, plan.block, plan.columns, *gate.accessor, *up.accessor],
                runtime_args=read,
                common_runtime_args=[gate.address, up.address],
                config=ttnn.DataMovementConfigDescriptor(ttnn.DataMovementProcessor.RISCV_1, ttnn.NOC.NOC_0),
            ),
            ttnn.KernelDescriptor(
                kernel_source=str(GATE_UP.kernels / "gate_up_writer.cpp"),
                core_ranges=cores,
                compile_time_args=[plan.shards, shard_tiles, plan.rows, plan.columns, workers, *product.accessor],
                runtime_args=moved,
                common_runtime_args=[x.address, product.address, *rectangle, *(at for core in senders for at in core)],
                config=ttnn.DataMovementConfigDescriptor(ttnn.DataMovementProcessor.RISCV_0, ttnn.NOC.NOC_1),
            ),
            ttnn.KernelDescriptor(
                kernel_source=str(GATE_UP.kernels / "gate_up_compute.cpp"),
                core_ranges=cores,
                compile_time_args=[plan.shards, plan.shard_columns, plan.rows, plan.block],
                defines=throttle_defines(throttle),
                runtime_args=computed,
                config=compute_config(fidelity),
            ),
        ],
        # One for each shard of x that has arrived, and one for the cores that are ready for them.
        semaphores=[
            ttnn.SemaphoreDescriptor(id=number, core_ranges=cores, initial_value=0) for number in range(plan.shards + 1)
        ],
        cbs=[
            circular_buffer(X, x.dtype, plan.rows * plan.inner, cores),
            circular_buffer(WEIGHTS, gate.dtype, plan.depth * 2 * plan.inner, cores),
            circular_buffer(PRODUCT, product.dtype, 2 * plan.rows, cores),
        ],
    )


def _check(x: ttnn.Tensor, gate: ttnn.Tensor, up: ttnn.Tensor, plan: GateUpPlan) -> None:
    """Raises ValueError where the kernels would read or write something else than they are meant to: nobody else looks."""
    if x.layout != ttnn.TILE_LAYOUT or not x.is_sharded() or x.dtype not in (ttnn.float32, ttnn.bfloat16):
        raise ValueError(
            f"gate_up: expected x bfloat16 or float32, in tiles and shards, got {x.dtype.name}, {x.layout.name}, "
            f"{x.memory_config()}"
        )
    shards = x.memory_config().shard_spec
    row = ttnn.CoreRangeSet([ttnn.CoreRange(ttnn.CoreCoord(0, 0), ttnn.CoreCoord(plan.shards - 1, 0))])
    if shards.grid != row or tuple(shards.shape) != (TILE * plan.rows, TILE * plan.shard_columns):
        raise ValueError(
            f"gate_up: expected {plan.rows} x {plan.shard_columns} tiles of x on each of the first {plan.shards} cores, "
            f"got {tuple(shards.shape)} on {shards.grid}"
        )
    shape = (TILE * plan.inner, TILE * plan.columns)
    for name, weight in (("gate", gate), ("up", up)):
        got = (tuple(weight.shape), weight.dtype, weight.layout, weight.is_sharded())
        if got != (shape, gate.dtype, ttnn.TILE_LAYOUT, False):
            raise ValueError(
                f"gate_up: expected {name} {shape} {gate.dtype.name} in tiles, not sharded, got {tuple(weight.shape)} "
                f"{weight.dtype.name}, {weight.layout.name}"
            )
