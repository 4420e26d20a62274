"""How exact the operations of pi0 are by fidelity and accumulation, on real kernels: the table of docs/errata.md.

    uv run python -m benchmarks.fidelity --board auto     # a card, or the simulator (README)

Relative RMSE against float64 arithmetic on the operands as they are stored. An emulated board knows nothing of fidelities.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
import ttnn
from torch import Tensor

from lerobot_pi0_ttnn.analysis.markdown import markdown_lines
from lerobot_pi0_ttnn.device.board import open_board
from lerobot_pi0_ttnn.model.config import GEMMA_2B, GEMMA_300M
from lerobot_pi0_ttnn.tt.gemma import KeyValueCache, rotary_tables
from lerobot_pi0_ttnn.tt.ops.heads import split_heads
from lerobot_pi0_ttnn.tt.program import TILE, Programs, norm_program, sdpa_program
from lerobot_pi0_ttnn.tt.weights import to_device

CHOICES = [("HiFi4", True), ("HiFi3", True), ("HiFi2", True), ("HiFi4", False), ("HiFi2", False)]
"""Fidelity, and whether accumulation is float32 (else bfloat16)."""

EPSILON = 1e-6
Kernel = ttnn.WormholeComputeKernelConfig
Operation = Callable[[Any], ttnn.Tensor]


def operations(device: Any, rows: int) -> Iterator[tuple[str, Operation, Tensor]]:
    """Yields what an operation is called, the operation, and what it should give, float64.

    Args:
        device: an open ttnn device.
        rows: of the operands, a multiple of 32.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, dtype: ttnn.DataType = ttnn.bfloat16) -> tuple[Tensor, ttnn.Tensor]:
        there = to_device(torch.randn(shape, generator=generator), dtype, device)
        return ttnn.to_torch(there).double(), there

    for name, width, norm in (
        ("layer_norm, 1152 wide", 1152, ttnn.layer_norm),
        ("rms_norm, 2048 wide", 2048, ttnn.rms_norm),
    ):
        x, there = draw(1, 1, rows, width)
        centred = x - x.mean(dim=-1, keepdim=True) if norm is ttnn.layer_norm else x
        yield (
            name,
            lambda kernel, norm=norm, there=there: norm(there, epsilon=EPSILON, compute_kernel_config=kernel),  # type: ignore[misc]
            centred * torch.rsqrt(centred.square().mean(dim=-1, keepdim=True) + EPSILON),
        )

    x, there = draw(1, 1, rows, GEMMA_300M.width, dtype=ttnn.float32)
    sharded = ttnn.to_memory_config(there, Programs(device).in_shards(rows, GEMMA_300M.width))
    yield (
        "rms_norm, 1024 wide, float32 in shards",
        lambda kernel: ttnn.rms_norm(
            sharded,
            epsilon=EPSILON,
            memory_config=sharded.memory_config(),
            program_config=norm_program(sharded),
            compute_kernel_config=kernel,
        ),
        x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + EPSILON),
    )

    keys = 8 * TILE
    (q, at_q), (k, at_k), (v, at_v) = draw(1, 8, rows, 256), draw(1, 1, keys, 256), draw(1, 1, keys, 256)
    yield (
        f"attention, {keys} keys",
        lambda kernel: ttnn.transformer.scaled_dot_product_attention(
            at_q,
            at_k,
            at_v,
            is_causal=False,
            scale=1 / 16,
            program_config=sdpa_program(device, 8, rows, keys),
            compute_kernel_config=kernel,
        ),
        F.scaled_dot_product_attention(q, k, v, scale=1 / 16),
    )

    for first, second in (
        (ttnn.bfloat16, ttnn.bfloat16),
        (ttnn.bfloat16, ttnn.bfloat8_b),
        (ttnn.float32, ttnn.float32),
    ):
        (x, at_x), (w, at_w) = draw(1, 1, rows, 1024, dtype=first), draw(1024, 128, dtype=second)
        yield (
            f"linear, 1024 wide, {first.name} x {second.name}".lower(),
            lambda kernel, x=at_x, w=at_w: ttnn.linear(x, w, dtype=ttnn.float32, compute_kernel_config=kernel),  # type: ignore[misc]
            x @ w,
        )

    heads, size = GEMMA_2B.num_heads, GEMMA_2B.head_dim
    x, at_qkv = draw(1, 1, rows, (heads + 2) * size)
    rotary = rotary_tables(torch.arange(rows)[None], GEMMA_2B, ttnn.float32).moved(lambda t: ttnn.to_device(t, device))
    cache = KeyValueCache(rows, GEMMA_2B, ttnn.bfloat16, device)
    q = x[..., : heads * size].reshape(1, rows, heads, size).transpose(1, 2)
    cos, sin = (ttnn.to_torch(table).double() for table in (rotary.cos, rotary.sin))
    yield (
        "split_heads, our own program",
        lambda kernel: split_heads(
            at_qkv, rotary.cos, rotary.sin, cache.keys, cache.values, 0, heads, fidelity=kernel.math_fidelity
        ),
        q * cos + q.roll(size // 2, dims=-1) * sin,
    )


def error(result: ttnn.Tensor, expected: Tensor) -> float:
    """Returns the root mean square error, relative to the spread of what is expected."""
    difference = ttnn.to_torch(result).double() - expected
    return float(difference.square().mean().sqrt() / expected.std())


def measured(device: Any, rows: int) -> Iterator[list[str]]:
    """Yields for each operation its name and its error by each of the choices."""
    for name, operation, expected in operations(device, rows):
        cells = []
        for fidelity, is_float32 in CHOICES:
            if "our own" in name and not is_float32:
                cells.append("")  # it always accumulates float32
                continue
            kernel = Kernel(
                math_fidelity=getattr(ttnn.MathFidelity, fidelity),
                math_approx_mode=False,
                fp32_dest_acc_en=is_float32,
                packer_l1_acc=True,
            )
            cells.append(f"{error(operation(kernel), expected):.4f}")
        yield [name, *cells]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--board", default="auto", help="auto, or emulated:NAME to try the command out")
    parser.add_argument("--rows", type=int, default=2 * TILE, help="of the operands, a multiple of 32")
    options = parser.parse_args()
    titles = [f"{fidelity}, {'float32' if is_float32 else 'bfloat16'}" for fidelity, is_float32 in CHOICES]
    with open_board(options.board) as board, board.in_use("comparing fidelities"):
        for line in markdown_lines(["operation", *titles], measured(board.device, options.rows)):
            print(line, flush=True)


if __name__ == "__main__":
    main()
