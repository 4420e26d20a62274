"""What each architecture does, as others measured it: the constants of `cost.py`, each with its source.

Sources are files and issues of https://github.com/tenstorrent/tt-metal; GEMM_FLOPS.md is tech_reports/GEMM_FLOPS/GEMM_FLOPS.md.
What nobody has published is called an assumption.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """What an architecture does, as measured by others.

    Attributes:
        clock: GHz.
        dram_bank: GB/s of one DRAM bank by specification.
        matmul: which part of its peak a matmul of large matrices reaches, by fidelity.
        dram: which part of its peak DRAM reaches, by the dtype of interleaved tiles.
        read: bytes in a cycle that one core reads from DRAM.
        read_l1: bytes in a cycle that one core reads from the others' L1.
        multicast: bytes in a cycle that one core hands to all others.
        read_latency: cycles until the first bytes of DRAM arrive.
        write_latency: cycles until another core knows what one tells it.
        multicast_latency: cycles until all other cores have the first bytes.
        key_tile: cycles of attention for a tile of keys and a chunk of queries, besides the multiplications.
        mask_tile: cycles of attention for a tile of its mask.
        float32_attention: how much longer attention takes that accumulates float32.
        gap: us between two operations of a trace, from the last tile of one to the first of the next.
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
    key_tile: float
    mask_tile: float
    float32_attention: float
    gap: float
    host: float


_BOTH: dict[str, float] = {
    # #55761, p100a, chunks of 4 x 4 tiles, heads of 4, HiFi2: a step without a mask takes 8900 cycles, of which 4096 are
    # multiplications; a mask adds 200 for each of its tiles. #55756: what is not multiplication grows with the tiles of
    # keys, and hardly with the queries. Assumption: the same cycles on Wormhole, of which nobody has published any.
    "key_tile": (8900 - 4096) / 4,
    "mask_tile": 200,
    # #56942, p100a, 4096 keys: 2994 us with float32 accumulation, which has a kernel of its own, 2252 us without.
    "float32_attention": 2994.4 / 2251.6,
    # #54915, P300: a call of a binary operation takes the host 24 to 25 us. Assumption: any operation, any card.
    "host": 25,
}


def _with_hifi3(matmul: Mapping[str, float]) -> dict[str, float]:
    """Returns the parts of the peak with HiFi3 added, of which nobody has published a time.

    Assumption: it takes as long as the mean of HiFi2 and HiFi4, between which it lies in passes.
    """
    return {**matmul, "HiFi3": 3 / ((2 / matmul["HiFi2"] + 4 / matmul["HiFi4"]) / 2)}


CHIPS = {
    "wormhole_b0": Chip(
        clock=1.0,  # GEMM_FLOPS.md
        dram_bank=288 / 12,  # tech_reports/Saturating_DRAM_bandwidth/Saturating_DRAM_bandwidth.md: 12 banks, 288 GB/s
        # GEMM_FLOPS.md, n150, 4096 x 4096 x 4096, traced, all in DRAM, host's clock: by programs that ttnn chose, bfloat8_b
        # (LoFi) and bfloat16 (HiFi2); by a tuned one, bfloat16 (HiFi4).
        matmul=_with_hifi3({"LoFi": 0.565, "HiFi2": 0.522, "HiFi4": 0.773}),
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
        # tests/tt_metal/tt_metal/perf_microbenchmark/op_to_op_latency/op_to_op_golden.json: traced, pack to unpack.
        gap=4.72,
        **_BOTH,
    ),
    "blackhole": Chip(
        clock=1.35,  # GEMM_FLOPS.md
        dram_bank=512 / 8,  # #47885: 8 banks, 512 GB/s
        # GEMM_FLOPS.md, p150, 5120 x 6656 x 6656, traced: as above.
        matmul=_with_hifi3({"LoFi": 0.777, "HiFi2": 0.784, "HiFi4": 0.896}),
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
        gap=4.255,  # op_to_op_blackhole_golden.json
        **_BOTH,
    ),
}
