"""Masks and positions against matrices written by hand, and against LeRobot's on the same tokens."""

import pytest
import torch
from lerobot.policies.common.vla_utils import make_att_2d_masks
from torch import Tensor

from lerobot_pi0_ttnn.model.blocks import lay_out, live_columns, positions, present_cameras, real_tokens, visible_keys
from lerobot_pi0_ttnn.model.config import PI0ModelConfig, as_pi05


def bits(*rows: str) -> Tensor:
    """`bits("11 0", "01 1")` as a (2, 3) bool matrix; the spaces are for the reader."""
    return torch.tensor([[bit == "1" for bit in row.replace(" ", "")] for row in rows])


# Cameras of two patches, a prompt of up to three tokens, the state, three actions.
STARTS_BLOCK = bits("00 00 000 1 100")[0]

ALL_PRESENT = (
    "11 11 111 1 111",
    bits(
        "11 11 111 0 000",
        "11 11 111 0 000",
        "11 11 111 0 000",
        "11 11 111 0 000",
        "11 11 111 0 000",
        "11 11 111 0 000",
        "11 11 111 0 000",
        "11 11 111 1 000",
        "11 11 111 1 111",
        "11 11 111 1 111",
        "11 11 111 1 111",
    ),
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
)
FIRST_ABSENT = (
    "00 11 110 1 111",
    bits(
        "00 11 110 0 000",
        "00 11 110 0 000",
        "00 11 110 0 000",
        "00 11 110 0 000",
        "00 11 110 0 000",
        "00 11 110 0 000",
        "00 11 110 0 000",
        "00 11 110 1 000",
        "00 11 110 1 111",
        "00 11 110 1 111",
        "00 11 110 1 111",
    ),
    [-1, -1, 0, 1, 2, 3, 3, 4, 5, 6, 7],
)
SECOND_ABSENT = (
    "11 00 100 1 111",
    bits(
        "11 00 100 0 000",
        "11 00 100 0 000",
        "11 00 100 0 000",
        "11 00 100 0 000",
        "11 00 100 0 000",
        "11 00 100 0 000",
        "11 00 100 0 000",
        "11 00 100 1 000",
        "11 00 100 1 111",
        "11 00 100 1 111",
        "11 00 100 1 111",
    ),
    [0, 1, 1, 1, 2, 2, 2, 3, 4, 5, 6],
)

CASES = pytest.mark.parametrize(
    "rows",
    [
        pytest.param([ALL_PRESENT], id="all-present"),
        pytest.param([FIRST_ABSENT], id="first-camera-absent-prompt-padded"),
        pytest.param([SECOND_ABSENT], id="second-camera-absent-prompt-padded"),
        pytest.param([FIRST_ABSENT, SECOND_ABSENT], id="rows-that-differ"),
    ],
)


CONFIG = PI0ModelConfig(horizon=3)


def block_mask(is_real: Tensor) -> Tensor:
    """(B, S, S), the keys of each query."""
    return torch.cat([visible_keys(block, is_real) for block in lay_out(7, CONFIG)], dim=1)


@CASES
def test_block_mask(rows):
    is_real = bits(*(row for row, _, _ in rows))
    want = torch.stack([mask for _, mask, _ in rows])
    assert torch.equal(block_mask(is_real), want)


@CASES
def test_block_mask_is_lerobots_in_the_rows_of_real_tokens(rows):
    is_real = bits(*(row for row, _, _ in rows))
    lerobot = make_att_2d_masks(is_real, STARTS_BLOCK[None].expand(len(rows), -1))
    assert torch.equal(block_mask(is_real)[is_real], lerobot[is_real])


@CASES
def test_positions(rows):
    is_real = bits(*(row for row, _, _ in rows))
    assert positions(is_real).tolist() == [want for _, _, want in rows]


def test_blocks_on_whole_tiles_go_on_from_the_real_prefix():
    blocks = lay_out(5, CONFIG, multiple=4)
    assert [(block.name, block.start, block.tokens, block.end) for block in blocks] == [
        ("prefix", 0, 5, 8),
        ("suffix", 8, 4, 12),
    ]
    is_real = real_tokens(blocks, 16)
    assert torch.equal(is_real, bits("11111000 1111 0000"))
    assert positions(is_real)[0, :12].tolist() == [0, 1, 2, 3, 4, 4, 4, 4, 5, 6, 7, 8]
    prefix, suffix = (visible_keys(block, is_real)[0] for block in blocks)
    assert torch.equal(prefix, bits(*["11111000 0000 0000"] * 8))
    assert torch.equal(suffix, bits("11111000 1000 0000", *["11111000 1111 0000"] * 3))


def test_queries_that_are_padding_see_a_key_and_no_later_block():
    config = PI0ModelConfig(horizon=2)
    _, suffix = blocks = lay_out(4, config, multiple=4)
    visible = visible_keys(suffix, real_tokens(blocks, 8))[0]
    assert torch.equal(visible, bits("1111 1000", "1111 1110", "1111 1110", "1111 1110"))


def test_without_a_state_the_suffix_is_one_group():
    _, suffix = blocks = lay_out(4, as_pi05(CONFIG), multiple=4)
    assert (suffix.start, suffix.tokens, suffix.end) == (4, 3, 8)
    assert torch.equal(visible_keys(suffix, real_tokens(blocks, 8))[0], bits(*["1111 1110"] * 4))


@pytest.mark.parametrize(
    ("is_real", "want"),
    [
        pytest.param(bits("111", "111"), [0, 1, 2], id="no-padding"),
        pytest.param(bits("1100", "1000"), [0, 1], id="longest-prompt-counts"),
        pytest.param(bits("0110", "0001"), [1, 2, 3], id="gap-in-one-row"),
        pytest.param(bits("000"), [], id="nothing"),
    ],
)
def test_live_columns(is_real, want):
    assert live_columns(is_real).tolist() == want


@pytest.mark.parametrize(
    ("masks", "want"),
    [
        pytest.param(["11", "11", "11"], [0, 1, 2], id="all"),
        pytest.param(["00", "11", "11"], [1, 2], id="first-absent"),
        pytest.param(["11", "00", "11"], [0, 2], id="middle-absent"),
        pytest.param(["01", "00", "10"], [0, 2], id="present-in-one-row"),
        pytest.param(["00", "00"], [], id="none"),
    ],
)
def test_present_cameras(masks, want):
    assert present_cameras(list(bits(*masks))) == want
