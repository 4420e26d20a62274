"""Cores that share keys and values in attention never fall out of step: docs/errata.md, tt-metal #52284.

Where no query is causal, ttnn lets the cores of one head hand keys and values on from one to the next. Each writes into its
neighbour's L1 at *its own* slot of two, so that members of a chain whose slots alternate unlike would overwrite what has
not been read yet: other results each time, on silicon only. Which cores form a chain follows from how chunks of queries are
dealt out; it is modelled here for all shapes that pi0 meets. Source: tt-metal, `sdpa_chain_utils.hpp` of 2026.
"""

from dataclasses import dataclass
from itertools import pairwise, product

import pytest

pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

from lerobot_pi0_ttnn.device.executor import MAX_ROWS
from lerobot_pi0_ttnn.device.uploads import cache_length, token_layout
from lerobot_pi0_ttnn.model.config import PI0_BASE
from lerobot_pi0_ttnn.tt.program import KEY_CHUNKS, TILE, key_chunk, query_chunk

GRIDS = {"n150": 64, "n300": 56, "p150 and p100a": 110, "p150, other firmware": 120, "p150-130": 130}
SLOTS = 2


@dataclass(frozen=True)
class Segment:
    """The chunks of one head that one core does, one after the other."""

    core: int
    head: int
    before: int
    """Chunks of other heads that it has done by then."""


def evenly(chunks: int, cores: int) -> list[range]:
    """The first cores do one chunk more than the others."""
    each, more = divmod(chunks, cores)
    ends = [core * each + min(core, more) for core in range(cores + 1)]
    return [range(*pair) for pair in pairwise(ends)]


def rounded_up(chunks: int, cores: int) -> list[range]:
    """All cores do equally many, as long as there are any."""
    each = -(-chunks // cores)
    return [range(min(core * each, chunks), min((core + 1) * each, chunks)) for core in range(cores)]


def segments(heads: int, chunks: int, cores: int, deal) -> list[Segment]:
    """What each core does, head by head; `chunks` are those of a head."""
    return [
        Segment(core, head, max(head * chunks - work.start, 0))
        for core, work in enumerate(deal(heads * chunks, cores))
        if work
        for head in range(work.start // chunks, (work.stop - 1) // chunks + 1)
    ]


def chains(heads: int, chunks: int, cores: int, deal) -> list[list[Segment]]:
    """The chains that ttnn builds: from the first core that has this head alone, on to the first that is in a chain already."""
    work = segments(heads, chunks, cores, deal)
    taken: set[int] = set()
    found = []
    for head in range(heads):
        members = [segment for segment in work if segment.head == head]
        alone = [
            number
            for number, member in enumerate(members[:-1])
            if member.core not in taken and sum(other.core == member.core for other in work) == 1
        ]
        if not alone:
            continue
        chain = []
        for member in members[alone[0] :] + members[: alone[0]]:
            if member.core in taken:
                break
            chain.append(member)
        if len(chain) > 1:
            found.append(chain)
            taken |= {member.core for member in chain}
    return found


def out_of_step(heads: int, queries: int, keys: int, cores: int, deal, rule=query_chunk, in_step=True):
    """The chains whose members write to unlike slots at a time."""
    chunks = queries // rule(queries, heads, cores)
    rounds = keys // key_chunk(keys, in_step=in_step and heads * chunks > cores)
    return [
        chain
        for chain in chains(heads, chunks, cores, deal)
        if len({member.before * rounds % SLOTS for member in chain}) > 1
    ]


def shapes() -> dict[tuple[int, int, int], str]:
    """(heads, queries, keys) of every attention of pi0_base: four cameras at most, prompts up to 800 tokens, whole batches."""
    vision, expert = PI0_BASE.vision, PI0_BASE.expert
    found = {
        (vision.num_attention_heads * images, vision.num_patches, vision.num_patches): f"SigLIP, {images} images"
        for images in range(1, 4 * MAX_ROWS + 1)
    }
    for rows, cameras, prompt in product(range(1, MAX_ROWS + 1), range(5), range(TILE, 801, TILE)):
        layout = token_layout(cameras, prompt, PI0_BASE)
        for queries in {block.size for block in layout}:
            what = f"{rows} rows, {cameras} cameras, {prompt} tokens"
            found[rows * expert.num_heads, queries, cache_length(layout)] = what
    return found


@pytest.mark.parametrize("cores", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("deal", [evenly, rounded_up])
def test_no_chain_falls_out_of_step(cores, deal):
    bad = {what: shape for shape, what in shapes().items() if out_of_step(*shape, cores, deal)}
    assert bad == {}


@pytest.mark.parametrize("deal", [evenly, rounded_up])
def test_whole_batches_would_fall_out_of_step(deal):
    """A control: four rows, two cameras and 96 tokens, in three chunks of 256 keys."""
    assert out_of_step(32, 608, 768, GRIDS["n300"], deal, in_step=False)
    assert not out_of_step(32, 608, 768, GRIDS["n300"], deal)


@pytest.mark.parametrize("deal", [evenly, rounded_up])
def test_the_model_finds_a_chain_that_does(deal):
    """A control: 31 heads of 11 chunks on 56 cores and an odd number of key chunks. With an even one all slots agree."""
    shape = {"heads": 31, "queries": 11 * TILE, "cores": GRIDS["n300"], "deal": deal, "rule": lambda *_: TILE}
    assert out_of_step(keys=5 * max(KEY_CHUNKS), in_step=False, **shape)
    assert not out_of_step(keys=6 * max(KEY_CHUNKS), in_step=False, **shape)


def test_a_chain_by_hand():
    """Two heads of three chunks on four cores: 2, 2, 1 and 1. The second core has a chunk of each head."""
    assert segments(2, 3, 4, evenly) == [
        Segment(0, 0, 0),
        Segment(1, 0, 0),
        Segment(1, 1, 1),
        Segment(2, 1, 0),
        Segment(3, 1, 0),
    ]
    assert chains(2, 3, 4, evenly) == [[Segment(0, 0, 0), Segment(1, 0, 0)], [Segment(2, 1, 0), Segment(3, 1, 0)]]
