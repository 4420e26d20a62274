"""What a run of `group_matmul` takes."""

from collections.abc import Sequence
from math import ceil

from ....ttnn_api.own_program import Handed, Work
from .plan import NETWORKS, GroupMatmulPlan


def cost(plan: GroupMatmulPlan, tensors: Sequence[Handed]) -> Work:
    """Returns the work: a unit is a tile of the result.

    x is read once in each pass, the weight once, and handed from group to group. Blocks of x are handed to a group by two
    networks at the same time, each by one core while others read those that follow. In the end each sum is unpacked, added to
    the stream where there is one, and packed; what the last pass made is written when nothing else goes on.

    Args:
        plan: of the run.
        tensors: x, weight, stream where there is one, result.
    """
    x, weight, *stream, result = tensors
    handed = plan.passes * (
        plan.high * x.bytes / plan.rows + (plan.groups - 1) * plan.wide * weight.bytes / plan.columns
    )
    read = [(x, plan.passes * x.bytes), (weight, weight.bytes), *((one, one.bytes) for one in stream)]
    last = result.bytes // plan.passes
    moved = [*read, (result, result.bytes - last), (result, last)]
    return Work(
        plan.rows * plan.columns,
        tuple((tensor.dtype, size if tensor.memory == "DRAM" else 0) for tensor, size in moved),
        near=sum(size for tensor, size in moved[:-1] if tensor.memory == "L1"),
        waits=0,
        products=plan.inner,
        passes=1 + len(stream),
        fed=ceil(handed / NETWORKS),
        blocks=ceil(plan.passes * plan.blocks / NETWORKS),
        is_read_ahead=True,
        most=plan.tiles,
        last=last,
    )
