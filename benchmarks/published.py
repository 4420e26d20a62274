"""What others have measured on cards, as lists of operations: `analysis/cost.py` predicts them by the same functions as ours.

Operations that a source does not describe are filled in by stock ttnn ones, which is said at each. Several cases calibrate a
constant of the model, and are marked: they show that it is put in rightly, no more.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator

from lerobot_pi0_ttnn.analysis.cost import Machine
from lerobot_pi0_ttnn.analysis.graph import DeviceOperation, Operand, Place
from lerobot_pi0_ttnn.analysis.markdown import markdown_table
from lerobot_pi0_ttnn.tt.blocking import Blocks, Matmul, matmul_blocks
from lerobot_pi0_ttnn.ttnn_api.tiles import TILE

from .cases import BF16, BFP4, BFP8, N150, N300, P100A, P150, P150_130, Case, stored
from .profiled import PROFILED

MANY_ROWS = "elsewhere, operations of many rows"
FEW_ROWS = "elsewhere, operations of few rows, and attention of another kind than what calibrates"
MODEL = "whole models"
"""Classes of what is not in the profile, by which the error of a prediction is told."""


def operation(
    name: str, handed: Iterable[tuple[tuple[int, ...], str]], made: int, **attributes: object
) -> DeviceOperation:
    """Returns an operation on tensors in DRAM.

    Args:
        name: ttnn's.
        handed: shape and dtype of each tensor.
        made: bytes of the result.
        attributes: further ones of `DeviceOperation`.
    """
    operands: dict[Place, Operand] = {("DRAM", place): Operand(*tensor) for place, tensor in enumerate(handed)}
    inputs = {place: stored(*tensor) for place, tensor in zip(operands, handed, strict=True)}
    return DeviceOperation(name, inputs, {("DRAM", -1): made}, operands, **attributes)  # type: ignore[arg-type]


def matmul(
    rows: int, inner: int, columns: int, a: str, b: str, fidelity: str, out: str = BF16, blocks: Blocks | None = None
) -> DeviceOperation:
    """Returns a matmul by the program that ttnn 0.81.1 chooses for that shape, as it does on emulated boards, or `blocks`."""
    is_1d = not blocks.is_2d if blocks else columns > 8 * rows or rows > 8 * columns
    program = f"MatmulMultiCoreReuseMcast{1 if is_1d else 2}DProgramFactory"
    handed = [((rows, inner), a), ((inner, columns), b)]
    made = stored((rows, columns), out)
    return operation("Matmul", handed, made, fidelity=fidelity, program=program, blocks=blocks)


def attention(
    shape: tuple[int, int, int, int], keys: tuple[int, int], dtype: str, fidelity: str, **attributes: object
) -> DeviceOperation:
    """Returns attention of queries of that shape to keys of so many heads and that length."""
    batch, _, _, width = shape
    key = ((batch, *keys, width), dtype)
    mask = attributes.pop("mask", None)
    masks = [((1, 1, shape[2], keys[1]), str(mask))] if mask else []
    handed = [(shape, dtype), key, key, *masks]
    return operation("SDPA", handed, stored(shape, dtype), fidelity=fidelity, **attributes)


def norm(rows: int, columns: int) -> DeviceOperation:
    """Returns a norm of bfloat16."""
    return operation("LayerNorm", [((rows, columns), BF16)], stored((rows, columns), BF16))


def pointwise(rows: int, columns: int, operands: int = 2) -> DeviceOperation:
    """Returns an elementwise operation on bfloat16, or a move, which has one operand."""
    return operation("BinaryNg", [((rows, columns), BF16)] * operands, stored((rows, columns), BF16))


def gemm(on: Machine, size: tuple[int, int, int], dtype: str, fidelity: str, us: float, **attributes: object) -> Case:
    """Returns a row of tt-metal's table of matmuls by programs that ttnn chose, traced, all in DRAM."""
    name = "n150" if on is N150 else "p150, 130 workers"
    what = f"matmul {size[0]} x {size[1]} x {size[2]}, {dtype.lower()}, {fidelity}, {name}"
    of = attributes.pop("of")
    operations = [matmul(*size, dtype, dtype, fidelity, dtype)]
    return Case(what, "GEMM_FLOPS.md", on, operations, us / 1e3, of, **attributes)  # type: ignore[arg-type]


Cut = Callable[[int, int, int], Blocks | None]
"""Says for a matmul of so many rows, inner columns and columns how its authors blocked it; None where they left it to ttnn."""


def by_ttnn(rows: int, inner: int, columns: int) -> None:
    """Leaves a matmul to ttnn."""


def by_hand(rows: int, inner: int, columns: int) -> Blocks | None:
    """Cuts a matmul up as ours are on a p150, where authors tuned and do not say how."""
    return matmul_blocks(Matmul(rows // TILE, inner // TILE, columns // TILE), (11, 10), 1_461_120)


def siglip(cameras: int, fidelity: str, cut: Cut = by_ttnn) -> Iterator[DeviceOperation]:
    """Yields the vision tower as all the published designs have it: heads padded to 96, an MLP of 4304 padded to 4608."""
    rows = 256 * cameras

    def linear(inner: int, columns: int) -> DeviceOperation:
        return matmul(rows, inner, columns, BF16, BFP8, fidelity, blocks=cut(rows, inner, columns))

    for _ in range(27):
        yield norm(rows, 1152)
        yield linear(1152, 4608)
        yield operation("NlpCreateHeads", [((rows, 4608), BF16)], stored((rows, 4608), BF16))
        yield attention((cameras, 16, 256, 96), (16, 256), BF16, "HiFi2", chunks=(128, 128))
        yield pointwise(rows, 1536, 1)
        yield linear(1536, 1152)
        yield pointwise(rows, 1152)
        yield norm(rows, 1152)
        yield linear(1152, 4608)
        yield linear(4608, 1152)
        yield pointwise(rows, 1152)


def gemma(
    rows: int,
    keys: int,
    width: int,
    mlp: int,
    fidelities: tuple[str, str, str],
    chunk: int,
    moves: int,
    cut: Cut = by_ttnn,
    **attributes: object,
) -> Iterator[DeviceOperation]:
    """Yields one Gemma layer of fused stock operations.

    Args:
        rows: tokens, padded.
        keys: that they attend to.
        width: of the stream.
        mlp: of the hidden layer.
        fidelities: of the projections, of gate and up, of attention.
        chunk: rows that the MLP takes at a time, reading its weights again.
        moves: further operations, each moving the stream once.
        cut: of the matmuls.
        attributes: of the attention.
    """
    projections, gates, scores = fidelities

    def linear(rows: int, inner: int, columns: int, fidelity: str) -> DeviceOperation:
        return matmul(rows, inner, columns, BF16, BFP8, fidelity, blocks=cut(rows, inner, columns))

    yield norm(rows, width)
    yield linear(rows, width, 2560, projections)
    yield attention((1, 8, rows, 256), (1, keys), BF16, scores, **attributes)
    yield linear(rows, 2048, width, projections)
    yield pointwise(rows, width)
    yield norm(rows, width)
    for start in range(0, rows, chunk):
        some = min(chunk, rows - start)
        yield linear(some, width, mlp, gates)
        yield linear(some, width, mlp, gates)
        yield pointwise(some, mlp)
        yield linear(some, mlp, width, projections)
    yield pointwise(rows, width)
    for _ in range(moves):
        yield pointwise(rows, width, 1)


def tuned(cores: int, inner: int, columns: int, rows: int = 1) -> Blocks:
    """Returns the blocks of a matmul of few rows of tiles on so many cores, so many tiles of the inner dimension at a time."""
    return Blocks((cores, 1), rows, -(-columns // TILE // cores), inner, (1, 1), is_2d=False)


def pi0_of_tt_metal(mlp_chunk: int) -> list[DeviceOperation]:
    """Returns tt-metal's pi0: two cameras, 32 tokens, ten steps, no masks; an expert layer of 29 operations, so 17 moves."""
    calls = list(siglip(2, "HiFi2"))
    for _ in range(18):
        calls += gemma(544, 544, 2048, 16384, ("HiFi2", "HiFi2", "HiFi4"), mlp_chunk, 6, chunks=(32, 32))
    for _ in range(10 * 18):
        calls += gemma(64, 608, 1024, 4096, ("HiFi2", "HiFi2", "HiFi4"), 64, 17, chunks=(64, 32))
    return calls


def pi05_on_p150(steps: int) -> list[DeviceOperation]:
    """Returns pi0_5/p150: two cameras, 256 tokens, a last layer that only makes keys; a step of 439 operations, so 219 moves.

    Its own C++ operations and its tensors in L1 are stock operations on DRAM here. Its matmuls of the
    suffix are blocked as it says, the others as ours are.
    """
    suffix = {
        (1024, 2560): tuned(64, 8, 2560, rows=2),
        (2048, 1024): tuned(120, 32, 1024, rows=2),
        (1024, 4096): tuned(64, 8, 4096, rows=2),
        (4096, 1024): tuned(24, 32, 1024, rows=2),
    }
    calls = list(siglip(2, "HiFi2", by_hand))
    for _ in range(17):
        calls += gemma(768, 768, 2048, 16384, ("HiFi2", "LoFi", "HiFi2"), 768, 2, by_hand, chunks=(64, 256))
    for _ in range(steps):
        for _ in range(18):
            calls += gemma(
                64,
                832,
                1024,
                4096,
                ("HiFi2", "HiFi2", "HiFi2"),
                64,
                0,
                lambda _, *shape: suffix[shape],
                chunks=(64, 64),
            )
        calls += [pointwise(64, 1024, 1)] * (439 - 18 * 11)
    return calls


def llama_decode() -> list[DeviceOperation]:
    """Returns a token of Llama 3.1 8B at 128 keys: 32 rows, attention in bfloat8_b, MLP in bfloat4_b; 12 moves in a layer.

    Its matmuls read weights that are sharded over the DRAM banks; here they are stock ones.
    """
    calls = []
    for _ in range(32):
        calls += [
            norm(32, 4096),
            matmul(32, 4096, 6144, BF16, BFP8, "HiFi2"),
            matmul(32, 4096, 4096, BF16, BFP8, "HiFi2"),
        ]
        calls += [pointwise(32, 4096), norm(32, 4096), *[matmul(32, 4096, 14336, BF16, BFP4, "LoFi")] * 2]
        calls += [pointwise(32, 14336), matmul(32, 14336, 4096, BF16, BFP4, "LoFi"), pointwise(32, 4096)]
        calls += [pointwise(32, 4096, 1)] * 12
    return [*calls, norm(32, 4096), matmul(32, 4096, 128256, BF16, BFP8, "HiFi2")]


def native(inner: int, columns: int, us: float, blocks: Blocks) -> Case:
    """Returns a tuned matmul of the expert at 32 rows, which the authors of pi0_5/p150 compared with one of their own."""
    operations = [matmul(32, inner, columns, BF16, BFP8, "HiFi2", blocks=blocks)]
    what = f"matmul 32 x {inner} x {columns}, bfloat8_b weights, tuned, p150"
    return Case(what, "pi0_5/p150, matmul_decode", P150, operations, us / 1e3, FEW_ROWS, kernel=True)


def dense(length: int, heads: tuple[int, int], us: float, *, mask: str | None) -> Case:
    """Returns attention as tt-metal's issues on its cost have it."""
    chunks = (128, 128)
    operations = [attention((1, heads[0], length, 128), (heads[1], length), BFP8, "HiFi2", chunks=chunks, mask=mask)]
    what = f"attention, {heads[0]} heads, {length} keys, {'masked' if mask else 'no mask'}, p100a"
    return Case(what, "#55761" if mask else "#55756", P100A, operations, us / 1e3, MANY_ROWS, True, True)


CASES = [
    gemm(N150, (4096, 4096, 4096), BF16, "HiFi2", 2008.53, of=MANY_ROWS, calibrates=True),
    gemm(N150, (2048, 2048, 2048), BF16, "HiFi2", 298.92, of=MANY_ROWS),
    gemm(N150, (1024, 2048, 2048), BF16, "HiFi2", 159.68, of=MANY_ROWS),
    gemm(N150, (512, 1024, 2048), BF16, "HiFi2", 140.73, of=FEW_ROWS),
    gemm(N150, (512, 1024, 1024), BFP8, "LoFi", 72.39, of=FEW_ROWS),
    gemm(P150_130, (5120, 6656, 6656), BF16, "HiFi2", 1609.77, of=MANY_ROWS, calibrates=True),
    gemm(P150_130, (2560, 3328, 3328), BFP8, "LoFi", 126.97, of=MANY_ROWS),
    gemm(P150_130, (1280, 3328, 3328), BF16, "HiFi2", 127.11, of=MANY_ROWS),
    gemm(P150_130, (640, 1664, 3328), BF16, "HiFi2", 54.37, of=MANY_ROWS),
    native(1024, 2560, 9.1, tuned(64, 8, 2560)),
    native(1024, 4096, 12.5, tuned(64, 8, 4096)),  # of this one they do not say the blocks
    native(2048, 1024, 9.3, tuned(120, 32, 1024)),
    native(4096, 1024, 14.4, tuned(24, 32, 1024)),
    dense(4096, (32, 8), 2104, mask=None),
    dense(8192, (16, 16), 5716.8, mask=BFP4),
    Case(
        "attention, 2 x 24 heads of 64, 4096 keys, float32 accumulation, Wormhole",
        "#17793",
        N150,
        [attention((2, 24, 4096, 64), (24, 4096), BFP8, "HiFi4", chunks=(256, 512), accumulates_float32=True)],
        12.96,
        FEW_ROWS,
        kernel=True,
    ),
    Case("Llama 3.1 8B, one token, n150", "tt_transformers/PERF.md", N150, llama_decode(), 1e3 / 28.3, MODEL),
    Case("Llama 3.1 8B, one token, p150", "#54242", P150, llama_decode(), 1e3 / 42, MODEL),
    Case("pi0 of tt-metal, 10 steps, p150, 130 workers", "#41431", P150_130, pi0_of_tt_metal(1024), 140.6, MODEL),
    Case("pi0 of tt-metal, 10 steps, n300", "#38174", N300, pi0_of_tt_metal(256), 326.27, MODEL),
    Case("pi0_5/p150, 10 steps, 110 workers", "pi0_5/p150/README.md", P150, pi05_on_p150(10), 51.83, MODEL),
    Case("pi0_5/p150, 5 steps, 110 workers", "pi0_5/p150/README.md", P150, pi05_on_p150(5), 36.87, MODEL),
    *PROFILED,
]


BOUNDS = {MANY_ROWS: (-0.10, 0.15), FEW_ROWS: (-0.66, 0.20), MODEL: (-0.50, 0.30)}
"""As `errors.ERRORS`, of what is not in the profile."""


def published_table() -> str:
    """Returns all cases as a Markdown table."""
    rows = []
    for case in CASES:
        predicted = case.predicted()
        off = f"{predicted / case.milliseconds - 1:+.0%}"
        calibrates = "calibrates" if case.calibrates else ""
        rows.append([case.what, case.source, f"{case.milliseconds:.3g}", f"{predicted:.3g}", off, calibrates])
    header = ["what others measured", "where from", "published, ms", "predicted, ms", "off by", ""]
    return markdown_table(header, rows, text=["where from", ""])


def errors() -> str:
    """Returns the least and the greatest error of each class, what calibrates left out, as Markdown."""
    lines = []
    for of in dict.fromkeys(case.of for case in CASES):
        off = [case.predicted() / case.milliseconds - 1 for case in CASES if case.of == of and not case.calibrates]
        lines.append(f"- {of}: {min(off):+.0%} to {max(off):+.0%}")
    return "\n".join(lines)


def main() -> None:
    """Prints the errors and the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(f"{errors()}\n\n{published_table()}")


if __name__ == "__main__":
    main()
