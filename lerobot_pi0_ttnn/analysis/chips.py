"""What each architecture does, as others measured it: the constants of `cost.py`, each with its source.

Sources are files and issues of https://github.com/tenstorrent/tt-metal; GEMM_FLOPS.md is tech_reports/GEMM_FLOPS/GEMM_FLOPS.md.
"changh95" is a profile of pi0.5 on one p150a, operation by operation, of 30 September 2026: https://github.com/changh95/tt-pi-0.5,
docs/megakernel/PROFILE.md at f7f173bd.
What nobody has published is called an assumption.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Chip:
    """What an architecture does, as measured by others.

    Attributes:
        clock: GHz.
        dram_bank: GB/s of one DRAM bank by specification.
        matmul: which part of its peak a matmul of large matrices reaches while it multiplies, by fidelity.
        dram: which part of its peak DRAM reaches, by the dtype of interleaved tiles.
        read: bytes in a cycle that one core reads from DRAM.
        read_l1: bytes in a cycle that one core reads from the others' L1.
        multicast: bytes in a cycle that one core hands to all others.
        read_latency: cycles until the first bytes of DRAM arrive.
        write_latency: cycles until another core knows what one tells it.
        multicast_latency: cycles until all other cores have the first bytes.
        tile_pass: cycles for a tile to go through a core once: unpacked, computed with, packed.
        vector: cycles of the vector unit for a tile, by ttnn's name of the function.
        attention_step: cycles of attention for a chunk of queries and a chunk of keys, besides what follows.
        score_tile: cycles of attention for a tile of scores, besides the multiplications.
        mask_tile: cycles of attention for a tile of its mask.
        float32_attention: how much longer attention takes that accumulates float32.
        start: us from a program's first kernel until it works, and from its last tile until its last kernel ends.
        gap: us between two operations of a trace, from the last kernel of one to the first of the next.
        host: us that the host takes to start an operation without a trace.
    """

    clock: float
    dram_bank: float
    matmul: Mapping[str, float]
    dram: Mapping[str, float]
    read: float
    read_l1: float
    multicast: float
    read_latency: float
    write_latency: float
    multicast_latency: float
    tile_pass: float
    vector: Mapping[str, float]
    attention_step: float
    score_tile: float
    mask_tile: float
    float32_attention: float
    start: float
    gap: float
    host: float


_PASS = ((21.04 - 1.30) * 1350) / (64 * 4)
"""changh95: the norm of 544 x 2048, a row of 64 tiles for each of 17 cores, in four passes (squares, their sum, the product
with its root, the product with a weight), takes 21.04 us."""

_GELU = (76.01 - 66.26) / (38 - 33) * 1350 - _PASS
"""changh95: GELU of 38 tiles for a core takes 76.01 us, of 33 tiles 66.26 us; a pass is in that."""

_STEPS = {
    # Queries and keys of a chunk in tiles: cycles that are no multiplications.
    # #55761, p100a, heads of four tiles, HiFi2: 8900 cycles without a mask, of which 4096 are multiplications.
    (4, 4): 8900 - 4096,
    # changh95: 8 heads of 544 queries, 136 chunks for 110 cores, so two for a core, of 17 chunks of keys each: 99.02 us, of
    # which 1.3 us are the start, and 0.9 us the first block and the last result.
    (1, 1): (99.02 - 1.30 - 0.86) * 1350 / (2 * 17) - 512,
}
_SCORE_TILE = (_STEPS[4, 4] - _STEPS[1, 1]) / (4 * 4 - 1)

_BOTH: dict[str, Any] = {
    "tile_pass": _PASS,
    "attention_step": _STEPS[1, 1] - _SCORE_TILE,
    "score_tile": _SCORE_TILE,
    # #55761: a mask adds 200 for each of its tiles. Assumption for all of attention, passes and functions: the same cycles on
    # Wormhole, whose units are as wide, and of which nobody has published any.
    "mask_tile": 200,
    # #56942, p100a, 4096 keys: 2994 us with float32 accumulation, which has a kernel of its own, 2252 us without.
    "float32_attention": 2994.4 / 2251.6,
    # #54915, P300: a call of a binary operation takes the host 24 to 25 us. Assumption: any operation, any card.
    "host": 25,
}


def _vector(gelu_tanh: int, quick: int) -> dict[str, float]:
    """Returns the cycles of a tile by function. Only GELU has been measured.

    Assumptions: others take longer or shorter as their kernels have more or fewer instructions of the vector unit than GELU's
    507, eight times unrolled, as the simulator's compiler makes them of ttnn 0.81.1; SiLU, exact as well, takes as long; EXP,
    which tanh takes besides a reciprocal, half of `GELU_TANH`.

    Args:
        gelu_tanh: instructions of `GELU_TANH`.
        quick: instructions of `GELU_TANH` with a parameter of 1, for bfloat16.
    """
    exact = _GELU * gelu_tanh / 507
    return {
        "GELU": _GELU,
        "GELU_TANH": exact,
        "GELU_TANH(1)": _GELU * quick / 507,
        "SILU": _GELU,
        "EXP": exact / 2,
    }


def _multiplying(utilization: Mapping[str, float], written: Mapping[str, float]) -> dict[str, float]:
    """Returns which part of the peak a matmul reaches while it multiplies, HiFi3 added.

    Nobody has published a time at HiFi3. Assumption: it takes as long as the mean of HiFi2 and HiFi4, between which it lies in
    passes.

    Args:
        utilization: which part of the peak it reached as a whole, by fidelity.
        written: which part of that time it takes to write the result, which a core does after it.
    """
    matmul = {fidelity: part / (1 - written[fidelity]) for fidelity, part in utilization.items()}
    return {**matmul, "HiFi3": 3 / ((2 / matmul["HiFi2"] + 4 / matmul["HiFi4"]) / 2)}


_WORMHOLE = 4.72 / 4.255
"""tests/tt_metal/tt_metal/perf_microbenchmark/op_to_op_latency/op_to_op_golden.json and op_to_op_blackhole_golden.json: from
the last tile of an operation to the first of the next, traced, on a Wormhole and on a Blackhole."""

CHIPS = {
    "wormhole_b0": Chip(
        clock=1.0,  # GEMM_FLOPS.md
        dram_bank=288 / 12,  # tech_reports/Saturating_DRAM_bandwidth/Saturating_DRAM_bandwidth.md: 12 banks, 288 GB/s
        # GEMM_FLOPS.md, n150, 4096 x 4096 x 4096, traced, all in DRAM, host's clock: by programs that ttnn chose, bfloat8_b
        # (LoFi) and bfloat16 (HiFi2); by a tuned one, bfloat16 (HiFi4).
        # Results: 17.8 and 33.6 MB at what this DRAM reaches.
        matmul=_multiplying(
            {"LoFi": 0.565, "HiFi2": 0.522, "HiFi4": 0.773}, {"LoFi": 0.100, "HiFi2": 0.066, "HiFi4": 0.049}
        ),
        # #6729: 22, 21, 16 and 10 bytes in a cycle and bank of 24.
        dram={"FLOAT32": 22 / 24, "UINT32": 22 / 24, "BFLOAT16": 21 / 24, "BFLOAT8_B": 16 / 24, "BFLOAT4_B": 10 / 24},
        # tests/tt_metal/tt_metal/data_movement/documentation/ideal_performance.md: DRAM Read; One From All; One To All,
        # Multicast + Linked.
        read=22,
        read_l1=30,
        multicast=22,
        # tests/tt_metal/tt_metal/data_movement/noc_estimator/noc_latencies.yaml, one transaction of 64 bytes: read from
        # interleaved DRAM; one to one; linked multicast with loopback to 64 cores.
        read_latency=381,
        write_latency=296,
        multicast_latency=596,
        vector=_vector(474, 434),
        # Nobody has published any. Assumption: they are longer than a Blackhole's as that time is.
        start=1.30 * _WORMHOLE,
        gap=0.53 * _WORMHOLE,
        **_BOTH,
    ),
    "blackhole": Chip(
        clock=1.35,  # GEMM_FLOPS.md
        dram_bank=512 / 8,  # #47885: 8 banks, 512 GB/s
        # GEMM_FLOPS.md, p150, 5120 x 6656 x 6656, traced: as above.
        # Results: 36.2 and 68.2 MB.
        matmul=_multiplying(
            {"LoFi": 0.777, "HiFi2": 0.784, "HiFi4": 0.896}, {"LoFi": 0.108, "HiFi2": 0.106, "HiFi4": 0.061}
        ),
        # #55898: 400 (matmul, bfloat16), 411 (neg, bfloat8_b) and 279 GB/s (matmul, bfloat4_b) of 512. Assumption: float32 as
        # bfloat16.
        dram={
            "FLOAT32": 400 / 512,
            "UINT32": 400 / 512,
            "BFLOAT16": 400 / 512,
            "BFLOAT8_B": 411 / 512,
            "BFLOAT4_B": 279 / 512,
        },
        read=33,  # ideal_performance.md
        read_l1=60,
        multicast=41,
        read_latency=486,  # noc_latencies.yaml
        write_latency=360,
        multicast_latency=643,
        vector=_vector(466, 290),
        # changh95: 64 tiles on as many cores take 1.67 us from the first kernel's start to the last one's end, of which 0.37 us
        # go by while a core reads a tile and computes; 0.53 us, the median of 2551 operations, until the next one.
        start=1.30,
        gap=0.53,
        **_BOTH,
    ),
}
