"""What int8 would give the torch backend on this CPU: its matmuls, chunks with them, and how exact those would be.

    uv run python -m benchmarks.int8_cpu           # 6 minutes, one core, 3 GB of memory

int8 is torch's own `quantized::linear_dynamic` on oneDNN, in the layers of SigLIP and Gemma: a scale for each row of the
weights, one for all activations of a call. A scale for each token can be more exact; torch has no kernel for that but
`_int_mm`, around which tokens are to be scaled. Its errors are computed here, in float32. Everything is timed in turn, by the
process's own time; the least counts. Prints three Markdown tables.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from lerobot_pi0_ttnn.analysis.markdown import markdown_table
from lerobot_pi0_ttnn.checkpoint.files import CheckpointSource
from lerobot_pi0_ttnn.checkpoint.loader import PI0WeightLoader
from lerobot_pi0_ttnn.config_loading import load_config
from lerobot_pi0_ttnn.demo import LEARNED_CHECKPOINT
from lerobot_pi0_ttnn.deviation import deviation
from lerobot_pi0_ttnn.model.observation import blank_calls
from lerobot_pi0_ttnn.model.tensors import Weights
from lerobot_pi0_ttnn.reference import PI0ModelTorch, gemma, siglip
from lerobot_pi0_ttnn.reference.layers import Linear

from .learned_parity import ACTIONS, observations
from .scaling_cpu import random_model, shallow

MATMULS = [
    (800, 2048, 16384),
    (800, 16384, 2048),
    (800, 2048, 2048),
    (768, 1152, 4304),
    (51, 1024, 4096),
    (51, 4096, 1024),
]
"""Tokens, inputs and outputs of pi0_base's: gate or up, down, q; SigLIP's fc1; the expert's."""

LIMIT = 0.999
"""Of a chunk's PCC."""


def quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Returns a weight, (out, in), as int8, and the scale of each row."""
    scale = weight.float().abs().amax(dim=1).clamp_min(1e-12) / 127
    return (weight.float() / scale[:, None]).round().to(torch.int8), scale


def packed(weight: Tensor, bias: Tensor | None) -> Any:
    """Returns a weight as `quantized::linear_dynamic` takes it."""
    _, scale = quantized(weight)
    zero = torch.zeros(len(scale), dtype=torch.long)
    rows = torch.quantize_per_channel(weight.float(), scale.double(), zero, 0, torch.qint8)
    return torch.ops.quantized.linear_prepack(rows, None if bias is None else bias.float())


class Timed(Linear):
    """A Linear that counts the seconds that all of its kind have taken."""

    seconds = 0.0

    def compute(self, x: Tensor) -> Tensor:
        """Returns what the layer does."""
        return super().__call__(x)

    def __call__(self, x: Tensor) -> Tensor:
        """Returns what `compute` does."""
        start = time.process_time()
        out = self.compute(x)
        Timed.seconds += time.process_time() - start
        return out


class PerTensor(Timed):
    """A Linear on torch's int8 kernel."""

    def __init__(self, weights: Weights, dtype: torch.dtype, *, bias: bool) -> None:
        super().__init__(weights, dtype, bias=bias)
        self.packed = packed(self.weight, self.bias)

    def compute(self, x: Tensor) -> Tensor:
        """Returns (..., out) in the layer's dtype."""
        out: Tensor = torch.ops.quantized.linear_dynamic(x.float(), self.packed, reduce_range=False)
        return out.to(self.weight.dtype)


class RoundedWeights(Linear):
    """A Linear with the errors of int8 in its weights, a scale for each row."""

    def __init__(self, weights: Weights, dtype: torch.dtype, *, bias: bool) -> None:
        super().__init__(weights, dtype, bias=bias)
        whole, scale = quantized(self.weight)
        self.weight = whole * scale[:, None]


class RoundedTokens(Linear):
    """A Linear with the errors of int8 in its activations, a scale for each token."""

    def __call__(self, x: Tensor) -> Tensor:
        """Returns (..., out)."""
        step = x.abs().amax(dim=-1, keepdim=True).clamp_min(1e-12) / 127
        return super().__call__((x / step).round() * step)


class PerToken(RoundedTokens, RoundedWeights):
    """A Linear with the errors of int8 in both."""


@contextmanager
def linears(kind: type[Linear]) -> Iterator[None]:
    """Has SigLIP's and Gemma's layers made of these."""
    with patch.object(gemma, "Linear", kind), patch.object(siglip, "Linear", kind):
        yield


def least(functions: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Returns the least seconds of one core that each takes, timed in turn, after a call that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds + 1):
        for name, function in functions.items():
            start = time.process_time()
            function()
            if number:
                seconds[name].append(time.process_time() - start)
    return {name: min(values) for name, values in seconds.items()}


def matmul_rows(shapes: Sequence[tuple[int, int, int]], rounds: int) -> list[list[str]]:
    """Returns the first table: bfloat16, int8 with its rounding, and int8 alone, which no scheme undercuts."""
    rows = []
    for tokens, width, out in shapes:
        x, weight = torch.randn(tokens, width), torch.randn(out, width) / width**0.5
        half, half_weight, pack, whole = x.bfloat16(), weight.bfloat16(), packed(weight, None), quantized(weight)[0]
        zero, one = torch.zeros(out, dtype=torch.int32), torch.ones(out)
        inner, x8 = torch.ops.onednn.qlinear_prepack(whole, [tokens, width]), x.mul(30).add(128).clamp(0, 255).byte()
        kernel: tuple[Any, ...] = (x8, 1 / 30, 128, inner, one, zero, None, 1.0, 0, torch.bfloat16, "none", [], "")
        seconds = least(
            {
                "bfloat16": lambda half=half, w=half_weight: F.linear(half, w),  # type: ignore[misc]
                "int8": lambda x=x, pack=pack: torch.ops.quantized.linear_dynamic(x, pack),  # type: ignore[misc]
                "alone": lambda kernel=kernel: torch.ops.onednn.qlinear_pointwise(*kernel),  # type: ignore[misc]
            },
            rounds,
        )
        times = [f"{1e3 * value:.2f}" for value in seconds.values()]
        ratios = [f"{seconds['bfloat16'] / seconds[name]:.2f}" for name in ("int8", "alone")]
        rows.append([f"{tokens} x {width} x {out}", *times, *ratios])
    return rows


def chunk_rows(depths: Sequence[int], rounds: int, cameras: int = 2) -> list[list[str]]:
    """Returns the second table: what a layer of each kind costs a chunk, by the difference of two depths."""
    few, many = depths
    spent: dict[tuple[str, int], float] = {}
    matmuls: dict[tuple[str, int], float] = {}
    for depth in depths:
        for name, kind in {"bfloat16": Timed, "int8": PerTensor}.items():
            with linears(kind):
                model = random_model(shallow(depth))
            observation = blank_calls(model.config, [(cameras, 12)])[0][0]
            for _ in range(rounds):
                Timed.seconds, start = 0.0, time.process_time()
                model.sample_actions(observation)
                if (taken := time.process_time() - start) < spent.get((name, depth), math.inf):
                    spent[name, depth], matmuls[name, depth] = taken, Timed.seconds
    rows = []
    for name in ("bfloat16", "int8"):
        layer, part = ((found[name, many] - found[name, few]) / (many - few) for found in (spent, matmuls))
        rows.append([name, f"{layer:.3f}", f"{part:.3f}"])
    return rows


def exactness_rows(count: int) -> list[list[str]]:
    """Returns the third table: whole chunks of the learned model against float32."""
    config = load_config(CheckpointSource(LEARNED_CHECKPOINT)).model_config()
    weights, seen = PI0WeightLoader(LEARNED_CHECKPOINT), observations(count)

    def chunks(kind: type[Linear], dtype: torch.dtype = torch.float32) -> Tensor:
        with linears(kind):
            model = PI0ModelTorch(config, weights, dtype=dtype)
        noises = (torch.Generator().manual_seed(number) for number in range(len(seen)))
        found = [model.sample_actions(o, generator=g) for o, g in zip(seen, noises, strict=True)]
        return torch.cat(found)[:, :, :ACTIONS]

    want = chunks(Linear)
    found = {
        "bfloat16": chunks(Linear, torch.bfloat16),
        "int8, a scale for the activations of a call": chunks(PerTensor),
        "int8, a scale for each token": chunks(PerToken),
        "the same, weights alone": chunks(RoundedWeights),
        "the same, activations alone": chunks(RoundedTokens),
    }
    rows = []
    for name, got in found.items():
        each = sorted(deviation(a, b).pcc for a, b in zip(got, want, strict=True))
        below = sum(pcc < LIMIT for pcc in each)
        rows.append(
            [name, f"{deviation(got, want).pcc:.5f}", f"{statistics.median(each):.5f}", f"{each[0]:.5f}", str(below)]
        )
    return rows


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--depths", type=int, nargs=2, default=[1, 3], help="layers in each transformer")
    parser.add_argument("--observations", type=int, default=48)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.backends.quantized.engine = "onednn"
    with torch.no_grad():
        header = ["tokens x inputs x outputs", "bfloat16, ms", "int8", "int8's kernel alone", "ratio", "alone"]
        print(markdown_table(header, matmul_rows(MATMULS, options.rounds)), end="\n\n")
        header = ["a layer of each kind, s", "chunk", "of which matmuls"]
        print(markdown_table(header, chunk_rows(options.depths, options.rounds)), end="\n\n")
        header = [f"{options.observations} chunks against float32", "PCC", "median chunk", "worst", f"below {LIMIT}"]
        print(markdown_table(header, exactness_rows(options.observations)))


if __name__ == "__main__":
    main()
