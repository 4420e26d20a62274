"""`programs=stock`: what runs where our own programs fail, and is as exact."""

from dataclasses import replace

import pytest
import torch

ttnn = pytest.importorskip("ttnn", reason="the TTNN backend's package is not installed")

from lerobot_pi0_ttnn.device.executor import PI0ModelTTNN  # noqa: E402
from lerobot_pi0_ttnn.model.config import TINY, TINY_PI05, GemmaConfig  # noqa: E402
from lerobot_pi0_ttnn.reference import PI0ModelTorch  # noqa: E402
from lerobot_pi0_ttnn.tt.gemma import KeyValueCache, rotary_tables  # noqa: E402
from lerobot_pi0_ttnn.tt.ops.heads import split_heads, split_heads_by_ttnn  # noqa: E402
from lerobot_pi0_ttnn.tt.precision import preset  # noqa: E402
from lerobot_pi0_ttnn.tt.weights import to_device  # noqa: E402
from lerobot_pi0_ttnn.ttnn_api.hook import add_layer, remove_layer  # noqa: E402

from ..oracle import make_noise  # noqa: E402
from ..quality import assert_quality  # noqa: E402
from .tt import random_inputs, random_weights  # noqa: E402

MODELS = pytest.mark.parametrize("config", [TINY, TINY_PI05], ids=["pi0", "pi05"])
LIMITS = {"accurate": {"pcc": 0.9999, "rel_rmse": 0.008}, "balanced": {"pcc": 0.9995, "rel_rmse": 0.03}}


@MODELS
@pytest.mark.parametrize("precision", LIMITS)
def test_whole(board, config, precision):
    """To the same limits as ours, and by no program of ours, nor by one that ttnn was told."""
    weights, inputs, noise = random_weights(config), random_inputs(config, 2, 23), make_noise(1)
    model = PI0ModelTTNN(config, weights, board.device, precision=precision, programs="stock")
    seen = []

    def watch(call, proceed):
        seen.append((call.name, call.program, call.kwargs.get("program_config")))
        return proceed(*call.args, **call.kwargs)

    add_layer(watch)
    try:
        got = model.sample_actions(**inputs, noise=noise, num_steps=10)
    finally:
        remove_layer(watch)
    assert_quality(got, PI0ModelTorch(config, weights).sample_actions(**inputs, noise=noise), **LIMITS[precision])
    assert "ttnn.generic_op" not in {name for name, *_ in seen}
    told = {name for name, program, chosen in seen if program is not None or chosen is not None}
    assert told == {"ttnn.transformer.scaled_dot_product_attention"}, (
        "its chunks keep clear of a fault of ttnn's kernel"
    )
    assert model.describe()["programs"] == "stock"


@pytest.mark.parametrize(("head_dim", "num_heads", "start"), [(32, 8, 0), (256, 8, 64), (64, 0, 32)])
def test_heads(board, head_dim, num_heads, start):
    """Ours and ttnn's, for the same tensors."""
    device, precision = board.device, preset("accurate", board.device.arch()).expert
    config = replace(GemmaConfig(width=64, mlp_dim=64), head_dim=head_dim)
    tables = rotary_tables(torch.arange(600, 664)[None], config, ttnn.float32)
    cos, sin = (ttnn.to_device(table, device) for table in (tables.cos, tables.sin))
    generator = torch.Generator().manual_seed(1)
    qkv = to_device(torch.randn(1, 1, 64, (num_heads + 2) * head_dim, generator=generator), ttnn.bfloat16, device)
    sign = torch.cat([-torch.ones(head_dim // 2), torch.ones(head_dim // 2)])[None, None, None]
    caches = [KeyValueCache(128, config, ttnn.bfloat16, device) for _ in range(2)]
    given = [(qkv, cos, sin, cache.keys, cache.values, start, num_heads) for cache in caches]
    queries = [
        split_heads(*given[0], fidelity=precision.exact_fidelity),
        split_heads_by_ttnn(*given[1], sign=to_device(sign, ttnn.float32, device), kernel=precision.exact_kernel),
    ]
    if num_heads:
        assert_quality(*(ttnn.to_torch(q).float() for q in reversed(queries)), pcc=0.99999, rel_rmse=0.004)
    else:
        assert queries == [None, None]
    for name in ("keys", "values"):
        ours, stock = (ttnn.to_torch(getattr(cache, name)).float() for cache in caches)
        assert_quality(stock, ours, pcc=0.99999, rel_rmse=0.004)
        assert not stock[:, :, :start].any()
