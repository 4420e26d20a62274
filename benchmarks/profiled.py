"""changh95's profile of pi0.5 on one p150a, operation by operation, as cases: the model is calibrated by a few of them.

Source: https://github.com/changh95/tt-pi-0.5, docs/megakernel/PROFILE.md at f7f173bd (30 September 2026): two cameras, traced,
11 x 10 workers at 1350 MHz, median over the layers, from the first kernel's start to the last one's end. Mostly stock
operations of tt-metal 668c2907575, of pi0's own sizes. Where tensors lie, their dtypes, and how matmuls are blocked is in its
models/experimental/pi0_5/tt/ttnn_{siglip,gemma}.py at 21411b3a: activations in L1, interleaved, but for what attention returns.

Left out are its own programs and `minimal_matmul`, which we do not run.
"""

from collections.abc import Iterable
from dataclasses import replace
from math import ceil

from lerobot_pi0_ttnn.analysis.errors import class_of
from lerobot_pi0_ttnn.analysis.graph import DeviceOperation, Operand
from lerobot_pi0_ttnn.tt.blocking import Blocks

from .cases import BF16, BFP8, P150, Case, stored

Tensor = tuple[tuple[int, ...], str, str]
"""Shape, dtype and memory."""


def operation(
    name: str, handed: Iterable[Tensor], made: int, memory: str = "L1", **attributes: object
) -> DeviceOperation:
    """Returns an operation on tensors that lie where is said, and that puts its result in that memory."""
    tensors = list(enumerate(handed))
    operands = {(memory, at): Operand(shape, dtype) for at, (shape, dtype, memory) in tensors}
    inputs = {(memory, at): stored(shape, dtype) for at, (shape, dtype, memory) in tensors}
    return DeviceOperation(name, inputs, {(memory, -1): made}, operands, **attributes)  # type: ignore[arg-type]


def matmul(
    size: tuple[int, int, int], fidelity: str, down: int, across: int, inner: int, x: str = BF16, w: str = BFP8
) -> DeviceOperation:
    """Returns a matmul on so many cores, so many tiles of the inner dimension at a time; in one dimension where `down` is 1."""
    rows, k, columns = size
    blocks = Blocks((11, 10), ceil(rows / 32 / down), ceil(columns / 32 / across), inner, (1, 1), is_2d=down > 1)
    return operation(
        "Matmul",
        [((rows, k), x, "L1"), ((k, columns), w, "DRAM")],
        stored((rows, columns), x),
        fidelity=fidelity,
        program=f"MatmulMultiCoreReuseMcast{2 if down > 1 else 1}DProgramFactory",
        blocks=blocks,
    )


def norm(rows: int, columns: int, given: int, *, centred: bool = False) -> DeviceOperation:
    """Returns a norm with so many of a weight and a bias."""
    x, row = (rows, columns), (1, columns)
    return operation("LayerNorm", [(x, BF16, "L1"), *[(row, BF16, "DRAM")] * given], stored(x, BF16), centred=centred)


def one(name: str, shape: tuple[int, ...], dtype: str = BF16, memory: str = "L1", times: int = 1) -> DeviceOperation:
    """Returns an operation on so many tensors of a shape."""
    return operation(name, [(shape, dtype, memory)] * times, stored(shape, dtype))


def attention(shape: tuple[int, ...], keys: int, heads: int, chunks: tuple[int, int], dtype: str) -> DeviceOperation:
    """Returns attention without a mask, at HiFi2."""
    batch, _, _, width = shape
    kept: Tensor = ((batch, heads, keys, width), dtype, "L1")
    return operation(
        "SDPA", [(shape, dtype, "L1"), kept, kept], stored(shape, dtype), "DRAM", fidelity="HiFi2", chunks=chunks
    )


def gelu(rows: int) -> DeviceOperation:
    """Returns GELU of rows of the prefix' MLP."""
    return replace(one("Unary", (rows, 16384), BFP8), functions=("GELU",))


fc1 = replace(matmul((512, 1152, 4320), "HiFi2", 8, 11, 4), functions=("GELU",))

ROWS: list[tuple[str, DeviceOperation, float, bool]] = [
    ("SigLIP qkv 512 x 1152 x 4608", matmul((512, 1152, 4608), "HiFi2", 8, 11, 4), 39.47, False),
    ("SigLIP out 512 x 1536 x 1152", matmul((512, 1536, 1152), "HiFi2", 8, 9, 8), 17.52, False),
    ("SigLIP fc1 512 x 1152 x 4320 with GELU", fc1, 85.94, False),
    (
        "SigLIP fc2 512 x 4320 x 1152, a tile at a time",
        matmul((512, 4320, 1152), "HiFi2", 8, 9, 1),
        98.11,
        False,
    ),
    ("prefix qkv 544 x 2048 x 2560", matmul((544, 2048, 2560), "LoFi", 9, 10, 8), 31.32, False),
    ("prefix qkv 736 x 2048 x 2560", matmul((736, 2048, 2560), "LoFi", 8, 10, 8), 32.93, False),
    ("prefix out 544 x 2048 x 2048", matmul((544, 2048, 2048), "LoFi", 9, 11, 8), 25.30, False),
    ("prefix out 736 x 2048 x 2048", matmul((736, 2048, 2048), "LoFi", 8, 11, 8), 26.23, False),
    ("prefix gate 256 x 2048 x 16384", matmul((256, 2048, 16384), "LoFi", 1, 103, 2), 101.66, False),
    ("prefix gate 32 x 2048 x 16384", matmul((32, 2048, 16384), "LoFi", 1, 103, 2), 93.09, False),
    ("prefix down 256 x 16384 x 2048", matmul((256, 16384, 2048), "LoFi", 1, 64, 2, BFP8), 391.02, False),
    ("prefix down 32 x 16384 x 2048", matmul((32, 16384, 2048), "LoFi", 1, 64, 2, BFP8), 285.56, False),
    ("expert qkv 64 x 1024 x 2560", matmul((64, 1024, 2560), "LoFi", 1, 40, 8), 9.49, False),
    ("expert qkv 32 x 1024 x 2560", matmul((32, 1024, 2560), "LoFi", 1, 40, 8), 8.84, False),
    ("expert up and gate 64 x 1024 x 8192", matmul((64, 1024, 8192), "LoFi", 1, 64, 8), 26.65, False),
    ("expert up and gate 32 x 1024 x 8192", matmul((32, 1024, 8192), "LoFi", 1, 64, 8), 25.76, False),
    ("actions 64 x 32 x 1024", matmul((64, 32, 1024), "HiFi2", 1, 32, 1), 3.21, False),
    ("prefix RMS norm 544 x 2048", norm(544, 2048, 1), 21.04, True),
    ("prefix RMS norm 736 x 2048", norm(736, 2048, 1), 21.58, False),
    ("SigLIP layer norm 512 x 1152", norm(512, 1152, 2, centred=True), 22.70, False),
    ("expert RMS norm 64 x 1024", norm(64, 1024, 2), 14.20, False),
    ("expert RMS norm 32 x 1024", norm(32, 1024, 2), 13.65, False),
    ("SigLIP heads 512 x 4608 split", one("NlpCreateHeads", (512, 4608)), 45.58, False),
    ("SigLIP heads 512 x 1536 joined", one("NLPConcatHeads", (512, 1536), memory="DRAM"), 21.48, False),
    ("prefix heads 544 x 2560 split", one("NlpCreateHeads", (544, 2560), BFP8), 24.11, False),
    ("prefix heads 544 x 2048 joined", one("NLPConcatHeads", (544, 2048), BFP8, "DRAM"), 26.50, False),
    ("prefix RoPE of a key 544 x 256", one("RotaryEmbedding", (544, 256), BFP8), 12.89, False),
    ("prefix RoPE of queries 8 x 544 x 256", one("RotaryEmbedding", (8, 544, 256), BFP8), 36.51, False),
    ("typecast 32 x 2048", one("Typecast", (32, 2048)), 1.67, True),
    ("typecast 64 x 2048", one("Typecast", (64, 2048)), 1.95, False),
    ("addition 64 x 1024, in DRAM", one("BinaryNg", (64, 1024), memory="DRAM", times=2), 2.48, False),
    ("SigLIP addition 512 x 1152", one("BinaryNg", (512, 1152), times=2), 5.25, False),
    ("prefix addition 544 x 2048", one("BinaryNg", (544, 2048), BFP8, times=2), 7.13, False),
    ("prefix product 256 x 16384", one("BinaryNg", (256, 16384), BFP8, times=2), 16.15, False),
    ("prefix product 32 x 16384", one("BinaryNg", (32, 16384), BFP8, times=2), 3.69, False),
    ("prefix keys stored 544 x 256", one("UpdateKVCache", (544, 256), BFP8), 3.56, False),
    ("slice 256 x 2048", one("Slice", (256, 2048)), 3.01, False),
    ("concatenation 544 x 2048", one("Concat", (544, 2048), BFP8), 4.65, False),
    ("tilize 512 x 608", one("Tilize", (512, 608), memory="DRAM"), 8.50, False),
    ("GELU 256 x 16384", gelu(256), 76.01, True),
    ("GELU 224 x 16384", gelu(224), 66.26, True),
    ("GELU 32 x 16384", gelu(32), 11.40, False),
    ("prefix attention 8 x 544 x 256", attention((1, 8, 544, 256), 544, 1, (32, 32), BFP8), 99.02, True),
    ("prefix attention 8 x 736 x 256", attention((1, 8, 736, 256), 736, 1, (32, 32), BFP8), 139.59, False),
    (
        "SigLIP attention 2 x 16 x 256 x 96",
        attention((2, 16, 256, 96), 256, 16, (256, 256), BF16),
        25.14,
        False,
    ),
]
"""What, operation, us as published, and whether a constant of the model is this measurement."""

PROFILED = [
    Case(f"{what}, p150", "changh95", P150, [priced], us / 1e3, class_of(priced), calibrates, kernel=True)
    for what, priced, us, calibrates in ROWS
]
