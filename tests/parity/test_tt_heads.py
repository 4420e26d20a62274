"""Our own program for heads, RoPE and caches against transformers' RoPE, on whatever board there is."""

import pytest
import torch
from transformers.models.gemma.modeling_gemma import apply_rotary_pos_emb

ttnn = pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

from lerobot_pi0_ttnn.model.config import GemmaConfig  # noqa: E402
from lerobot_pi0_ttnn.tt.gemma import KeyValueCache, rotary_tables  # noqa: E402
from lerobot_pi0_ttnn.tt.ops import heads  # noqa: E402
from lerobot_pi0_ttnn.tt.precision import HIGHEST_FIDELITY  # noqa: E402
from lerobot_pi0_ttnn.tt.weights import to_device  # noqa: E402

from ..quality import assert_quality  # noqa: E402


def split_heads(qkv, *arguments, **options):
    return heads.split_heads(qkv, *arguments, **options, fidelity=HIGHEST_FIDELITY[qkv.device().arch()])


def configuration(head_dim: int, num_heads: int = 8) -> GemmaConfig:
    return GemmaConfig(width=64, mlp_dim=64, depth=1, num_heads=num_heads, head_dim=head_dim)


def expected(heads: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """(1, N, T, H) rotated by transformers, whose caller makes the tables: angles of each pair, twice."""
    size = heads.shape[-1]
    angles = positions[0, :, None].double() / 10000 ** (torch.arange(0, size, 2).double() / size)
    angles = torch.cat([angles, angles], dim=-1)[None].float()
    rotated, _ = apply_rotary_pos_emb(heads, heads, angles.cos(), angles.sin())
    return rotated


@pytest.mark.parametrize(
    ("head_dim", "length", "start", "cached"),
    [
        pytest.param(256, 64, 576, 640, id="actions"),
        pytest.param(256, 32, 544, 640, id="state"),
        pytest.param(256, 544, 0, 640, id="more-rows-than-workers"),
        pytest.param(64, 96, 32, 128, id="two-tiles-wide"),
        pytest.param(32, 64, 32, 128, id="one-tile-wide"),
    ],
)
def test_queries_keys_and_values(board, head_dim, length, start, cached):
    torch.manual_seed(0)
    config, device = configuration(head_dim), board.device
    positions = torch.arange(length)[None] + 700
    rotary = rotary_tables(positions, config, ttnn.float32).moved(lambda table: ttnn.to_device(table, device))
    qkv = torch.randn(1, 1, length, 10 * head_dim).bfloat16().float()
    parts = torch.stack(qkv[0, 0].split(head_dim, dim=-1))[None]
    cache = KeyValueCache(cached, config, ttnn.bfloat16, device)
    queries = split_heads(
        to_device(qkv, ttnn.bfloat16, device), rotary.cos, rotary.sin, cache.keys, cache.values, start, num_heads=8
    )
    want = expected(parts, positions)
    # Rounding to bfloat16 costs 1.7e-3.
    assert_quality(ttnn.to_torch(queries).float(), want[:, :8], pcc=0.9999, rel_rmse=0.002)
    keys, values = (ttnn.to_torch(x).float() for x in (cache.keys, cache.values))
    block = slice(start, start + length)
    assert_quality(keys[:, :, block], want[:, 8:9], pcc=0.9999, rel_rmse=0.002)
    assert torch.equal(values[:, :, block], parts[:, 9:])
    for x in (keys, values):
        x[:, :, block] = 0.0
        assert not x.any(), "tokens of another block were written"


@pytest.mark.parametrize("shared", [True, False], ids=["same-positions", "own-positions"])
@pytest.mark.parametrize("num_heads", [8, 0])
def test_rows_of_a_batch(board, shared, num_heads):
    """Each row's queries, keys and values are its own, as if it had been alone; the tables may be the same for all."""
    torch.manual_seed(0)
    config, device, rows, length, start = configuration(64), board.device, 3, 64, 32
    positions = torch.arange(length)[None] + (torch.zeros(rows, 1) if shared else torch.tensor([[5], [90], [0]])).long()
    tables = rotary_tables(positions[:1] if shared else positions, config, ttnn.float32)
    rotary = tables.moved(lambda table: ttnn.to_device(table, device))
    qkv = torch.randn(1, 1, rows * length, (num_heads + 2) * 64).bfloat16().float()
    parts = qkv.view(rows, length, -1, 64).transpose(1, 2)
    cache = KeyValueCache(128, config, ttnn.bfloat16, device, rows=rows)
    queries = split_heads(
        to_device(qkv, ttnn.bfloat16, device),
        rotary.cos,
        rotary.sin,
        cache.keys,
        cache.values,
        start,
        num_heads=num_heads,
    )
    want = torch.cat([expected(parts[row : row + 1], positions[row : row + 1]) for row in range(rows)])
    if num_heads:
        assert_quality(ttnn.to_torch(queries).float(), want[:, :-2], pcc=0.9999, rel_rmse=0.002)
    keys, values = (ttnn.to_torch(x).float() for x in (cache.keys, cache.values))
    block = slice(start, start + length)
    assert_quality(keys[:, :, block], want[:, -2:-1], pcc=0.9999, rel_rmse=0.002)
    assert torch.equal(values[:, :, block], parts[:, -1:])
    for x in (keys, values):
        x[:, :, block] = 0.0
        assert not x.any(), "tokens of another block were written"


def test_no_queries(board):
    """The last layer of the prefix leaves keys and values only; a second block runs the same program elsewhere."""
    torch.manual_seed(0)
    config, device = configuration(64), board.device
    cache = KeyValueCache(128, config, ttnn.bfloat16, device)
    blocks = torch.randn(2, 1, 1, 32, 128).bfloat16().float()
    for block, start in zip(blocks, (96, 32), strict=True):
        rotary = rotary_tables(torch.arange(32)[None] + start, config, ttnn.float32).moved(
            lambda table: ttnn.to_device(table, device)
        )
        kv = to_device(block, ttnn.bfloat16, device)
        assert split_heads(kv, rotary.cos, rotary.sin, cache.keys, cache.values, start, num_heads=0) is None
    keys, values = (ttnn.to_torch(x).float() for x in (cache.keys, cache.values))
    for block, start in zip(blocks, (96, 32), strict=True):
        at = slice(start, start + 32)
        want = expected(block[..., :64], torch.arange(32)[None] + start)
        assert_quality(keys[:, :, at], want, pcc=0.9999, rel_rmse=0.002)
        assert torch.equal(values[:, :, at], block[..., 64:])


@pytest.mark.parametrize(
    ("width", "length", "start"),
    [
        pytest.param(9 * 64, 32, 0, id="a-head-is-missing"),
        pytest.param(10 * 64, 33, 0, id="part-of-a-tile"),
        pytest.param(10 * 64, 32, 16, id="into-a-tile"),
        pytest.param(10 * 64, 32, 128, id="behind-the-cache"),
    ],
)
def test_what_it_cannot_do_is_refused(board, width, length, start):
    config = configuration(64)
    rotary = rotary_tables(torch.arange(32)[None], config, ttnn.float32).moved(
        lambda table: ttnn.to_device(table, board.device)
    )
    cache = KeyValueCache(128, config, ttnn.bfloat16, board.device)
    qkv = to_device(torch.zeros(1, 1, length, width), ttnn.bfloat16, board.device)
    with pytest.raises(ValueError, match="split_heads: expected"):
        split_heads(qkv, rotary.cos, rotary.sin, cache.keys, cache.values, start, num_heads=8)


def test_heads_of_an_odd_number_of_tiles_are_refused(board):
    table, cache = torch.zeros(1, 1, 32, 96), torch.zeros(1, 1, 64, 96)
    qkv = to_device(torch.zeros(1, 1, 32, 960), ttnn.bfloat16, board.device)
    cos, sin = (to_device(table, ttnn.float32, board.device) for _ in range(2))
    keys, values = (to_device(cache, ttnn.bfloat16, board.device) for _ in range(2))
    with pytest.raises(ValueError, match="multiple of 64, got 96"):
        split_heads(qkv, cos, sin, keys, values, start=0, num_heads=8)


@pytest.mark.parametrize("wrong", ["qkv", "cos", "keys"])
def test_other_dtypes_are_refused(board, wrong):
    """The kernels read what they are given as bfloat16, and tables as float32: nobody else would notice."""
    dtypes = {name: ttnn.bfloat16 for name in ("qkv", "keys", "values")} | {"cos": ttnn.float32, "sin": ttnn.float32}
    dtypes[wrong] = ttnn.float32 if dtypes[wrong] == ttnn.bfloat16 else ttnn.bfloat16
    shapes = {"qkv": (1, 1, 32, 640), "cos": (1, 1, 32, 64), "keys": (1, 1, 64, 64)}
    shapes |= {"sin": shapes["cos"], "values": shapes["keys"]}
    tensors = {name: to_device(torch.zeros(shapes[name]), dtypes[name], board.device) for name in shapes}
    with pytest.raises(ValueError, match=f"split_heads: expected {wrong} "):
        split_heads(**tensors, start=0, num_heads=8)
