"""What a run of `group_matmul` takes."""

from collections.abc import Sequence
from math import ceil

from ....ttnn_api.own_program import Handed, Work
from .plan import NETWORKS, GroupMatmulPlan


def cost(plan: GroupMatmulPlan, tensors: Sequence[Handed]) -> Work:
    """Returns the work: a unit is a tile of the result.

    x and the weight are read once, and the weight is handed from group to group. Blocks of x are handed to a group by two
    networks at the same time, each by one core while others read those that follow. In the end each sum is unpacked, added to
    the stream where there is one, and packed.

    Args:
        plan: of the run.
        tensors: x, weight, stream where there is one, result.
    """
    x, weight, *stream, _ = tensors
    handed = plan.high * x.bytes / plan.rows + (plan.groups - 1) * plan.wide * weight.bytes / plan.columns
    far = tuple((tensor.dtype, tensor.bytes) for tensor in tensors if tensor.memory == "DRAM")
    return Work(
        plan.rows * plan.columns,
        far,
        near=sum(tensor.bytes for tensor in tensors if tensor.memory == "L1"),
        waits=0,
        products=plan.inner,
        passes=1 + len(stream),
        fed=ceil(handed / NETWORKS),
        blocks=ceil(plan.blocks / NETWORKS),
        is_read_ahead=True,
        most=plan.high * plan.wide,
    )
