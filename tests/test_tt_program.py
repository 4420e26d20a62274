"""Sizes that the device computes in, and the table of precisions: no board needed."""

import pytest

ttnn = pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

from lerobot_pi0_ttnn.device.uploads import cache_length, token_layout  # noqa: E402
from lerobot_pi0_ttnn.model.config import PI0_BASE  # noqa: E402
from lerobot_pi0_ttnn.tt.precision import PRESETS, preset  # noqa: E402
from lerobot_pi0_ttnn.tt.program import Programs, fused, query_chunk, round_up  # noqa: E402
from lerobot_pi0_ttnn.ttnn_api.tiles import TILE  # noqa: E402


@pytest.mark.parametrize(("size", "multiple", "rounded"), [(0, 32, 0), (1, 32, 32), (32, 32, 32), (4304, 256, 4352)])
def test_round_up(size, multiple, rounded):
    assert round_up(size, multiple) == rounded


@pytest.mark.parametrize(
    ("queries", "heads", "chunks"),
    [
        # On 8x8, 8x7, 11x10, 12x10 and 13x10 workers.
        pytest.param(256, 16, (64, 128, 64, 64, 32), id="one-image"),
        pytest.param(256, 32, (128, 128, 128, 128, 64), id="two-images"),
        pytest.param(544, 8, (32, 32, 32, 32, 32), id="prefix-of-two"),
        pytest.param(640, 8, (128, 128, 64, 64, 64), id="whole-chunks"),
        pytest.param(64, 8, (32, 32, 32, 32, 32), id="suffix"),
    ],
)
def test_query_chunk(queries, heads, chunks):
    assert tuple(query_chunk(queries, heads, workers) for workers in (64, 56, 110, 120, 130)) == chunks


@pytest.mark.parametrize(
    ("cameras", "language", "prefix", "suffix", "length"),
    [
        pytest.param(2, 23, 535, 544, 640, id="two-cameras"),
        pytest.param(2, 32, 544, 544, 640, id="whole-tile"),
        pytest.param(3, 48, 816, 832, 896, id="three-cameras"),
        pytest.param(0, 1, 1, 32, 128, id="no-camera"),
        pytest.param(1, 0, 256, 256, 384, id="no-prompt"),
    ],
)
def test_layout(cameras, language, prefix, suffix, length):
    layout = token_layout(cameras, language, PI0_BASE)
    assert layout[0].tokens == prefix
    assert [block.start for block in layout] == [0, suffix]
    assert cache_length(layout) == length


WORMHOLE, BLACKHOLE = ttnn.device.Arch.WORMHOLE_B0, ttnn.device.Arch.BLACKHOLE
ROLES = ("patches", "vision", "vlm", "expert", "suffix")


@pytest.mark.parametrize("arch", [WORMHOLE, BLACKHOLE])
@pytest.mark.parametrize("name", PRESETS)
def test_suffix_is_exact_in_every_preset(name, arch):
    suffix = preset(name, arch).suffix
    assert {suffix.weights, suffix.activations} == {ttnn.float32}
    assert suffix.fidelity == {WORMHOLE: ttnn.MathFidelity.HiFi3, BLACKHOLE: ttnn.MathFidelity.HiFi4}[arch]


@pytest.mark.parametrize("arch", [WORMHOLE, BLACKHOLE])
@pytest.mark.parametrize("name", PRESETS)
def test_kernels_neither_approximate_nor_accumulate_in_bfloat16(name, arch):
    for role in ROLES:
        kernel = getattr(preset(name, arch), role).kernel
        assert kernel.fp32_dest_acc_en
        assert not kernel.math_approx_mode


def test_an_architecture_without_known_fidelities_is_rejected():
    with pytest.raises(ValueError, match="expected a board of WORMHOLE_B0, BLACKHOLE, got QUASAR"):
        preset("balanced", ttnn.device.Arch.QUASAR)


def test_a_tile_is_as_large_as_ttnns():
    assert TILE == ttnn.TILE_SIZE


def test_functions_that_programs_apply():
    """The tanh GELU by the kernel that is quick, exact for bfloat16; the lookup table of GELU itself is off by 0.02."""
    assert fused(ttnn.UnaryOpType.GELU_TANH).params == [1.0]
    assert fused(ttnn.UnaryOpType.SILU).params == []


class Described:
    """As much of a tensor as says where and how large it is."""

    def __init__(self, rows, columns, memory=ttnn.DRAM_MEMORY_CONFIG):
        self.padded_shape, self.dtype, self.memory = (1, 1, rows, columns), ttnn.bfloat16, memory

    def memory_config(self):
        return self.memory


@pytest.mark.parametrize(
    ("rows", "columns", "grid", "fits"),
    [
        # Two of 5.3 MB in 94 MB of an n150's cores; of 17.8 MB; of 27.3 MB, and in 161 MB of a p150's; of 35.7 MB.
        (512, 4608, (8, 8), True),
        (544, 16384, (8, 8), True),
        (832, 16384, (8, 8), False),
        (832, 16384, (11, 10), True),
        (1088, 16384, (11, 10), False),
        # Of two rows of a batch, of four.
        (1088, 2048, (11, 10), True),
        (2176, 2048, (11, 10), False),
    ],
)
def test_a_result_is_handed_on_in_l1_where_it_fits(rows, columns, grid, fits):
    programs = Programs.__new__(Programs)
    programs.grid, programs.memory, programs.stock = grid, 1_461_120, False
    x = Described(rows, 2048)
    expected = ttnn.L1_MEMORY_CONFIG if fits else ttnn.DRAM_MEMORY_CONFIG
    assert programs.near(x, columns, ttnn.bfloat16) == expected
    programs.stock = True
    assert programs.near(x, columns, ttnn.bfloat16) == ttnn.DRAM_MEMORY_CONFIG, "beside x"


def test_a_matmul_leaves_room_for_what_lies_in_l1():
    """Gate of two cameras on a p150: eight tiles of the inner dimension at a time from DRAM to DRAM, four where it stays."""
    programs = Programs.__new__(Programs)
    programs.grid, programs.memory, programs.stock = (11, 10), 1_461_120, False
    weight = Described(2048, 16384)
    weight.dtype = ttnn.bfloat8_b
    blocks = [
        programs.matmul(Described(544, 2048, memory), weight, ttnn.bfloat16, memory, None).in0_block_w
        for memory in (ttnn.DRAM_MEMORY_CONFIG, ttnn.L1_MEMORY_CONFIG)
    ]
    assert blocks == [8, 4]
