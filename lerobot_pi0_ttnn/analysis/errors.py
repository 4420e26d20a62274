"""How far off predictions are for what others measured, by class of operation: what stands beside every prediction.

The measurements are a profile of pi0.5 on a p150 (`benchmarks/profiled.py`), less the rows that calibrate a constant; a test
holds the model to these bounds. On a Wormhole nobody has published any but of matmuls: with it a prediction is less certain.
"""

from __future__ import annotations

from .graph import DeviceOperation

MATMULS = "matmuls, four tiles and more at a time"
SMALL_BLOCKS = "matmuls, fewer tiles at a time"
NORMS = "norms"
HEADS = "heads split and joined, RoPE"
MOVES = "additions, products, moves"
FUNCTIONS = "GELU by itself"
ATTENTION = "attention"
OWN = "programs of our own"

ERRORS: dict[str, tuple[float, float] | None] = {
    MATMULS: (-0.20, 0.05),
    SMALL_BLOCKS: (-0.30, 0.45),
    NORMS: (-0.10, 0.05),
    HEADS: (-0.35, 0.05),
    MOVES: (-0.35, 0.10),
    FUNCTIONS: (-0.05, 0.05),
    ATTENTION: (-0.25, 0.05),
    OWN: None,
}
"""The least and the greatest error, a part of what was measured: -0.2 is a prediction of 80 us for what took 100. None where
nobody has measured any."""

MANY_TILES = 4
"""Of the inner dimension of a matmul at a time: with fewer, it is waits, which the model knows least of."""

_CLASSES = {
    "SDPA": ATTENTION,
    "LayerNorm": NORMS,
    "NlpCreateHeads": HEADS,
    "NLPConcatHeads": HEADS,
    "RotaryEmbedding": HEADS,
    "RotaryEmbeddingHf": HEADS,
    "GenericOp": OWN,
}


def class_of(operation: DeviceOperation) -> str:
    """Returns the class of an operation, a key of `ERRORS`."""
    if operation.name == "Matmul":
        return MATMULS if operation.blocks and operation.blocks.inner >= MANY_TILES else SMALL_BLOCKS
    if operation.name in ("BinaryNg", "Unary") and operation.functions:
        return FUNCTIONS
    return _CLASSES.get(operation.name, MOVES)


def span(name: str) -> str:
    """Returns the error of a class for people to read: `-20% to +5%`."""
    bounds = ERRORS[name]
    return "not measured" if bounds is None else f"{bounds[0]:+.0%} to {bounds[1]:+.0%}"


def between(name: str, milliseconds: float) -> tuple[float, float]:
    """Returns from what to what it takes if the class is off as far as it has been; as predicted where nobody measured any."""
    least, most = ERRORS[name] or (0.0, 0.0)
    return milliseconds / (1 + most), milliseconds / (1 + least)
