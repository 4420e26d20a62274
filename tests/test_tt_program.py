"""Sizes that the device computes in, and the table of precisions: no board needed."""

import pytest

ttnn = pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

from lerobot_pi0_ttnn.device.uploads import cache_length, token_layout  # noqa: E402
from lerobot_pi0_ttnn.model.config import PI0_BASE  # noqa: E402
from lerobot_pi0_ttnn.tt.precision import PRESETS, preset  # noqa: E402
from lerobot_pi0_ttnn.tt.program import query_chunk, round_up  # noqa: E402
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
        pytest.param(64, 8, (32, 32, 32, 32, 32), id="actions"),
        pytest.param(32, 8, (32, 32, 32, 32, 32), id="state"),
    ],
)
def test_query_chunk(queries, heads, chunks):
    assert tuple(query_chunk(queries, heads, workers) for workers in (64, 56, 110, 120, 130)) == chunks


@pytest.mark.parametrize(
    ("cameras", "language", "prefix", "state", "actions", "length"),
    [
        pytest.param(2, 23, 535, 544, 576, 640, id="two-cameras"),
        pytest.param(2, 32, 544, 544, 576, 640, id="whole-tile"),
        pytest.param(3, 48, 816, 832, 864, 1024, id="three-cameras"),
        pytest.param(0, 1, 1, 32, 64, 128, id="no-camera"),
        pytest.param(1, 0, 256, 256, 288, 384, id="no-prompt"),
    ],
)
def test_layout(cameras, language, prefix, state, actions, length):
    layout = token_layout(cameras, language, PI0_BASE)
    assert layout[0].tokens == prefix
    assert [block.start for block in layout] == [0, state, actions]
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
