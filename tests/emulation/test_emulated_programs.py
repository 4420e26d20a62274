"""Programs of our own kernels on an emulated board; what ours compute is tested in tests/parity/test_tt_heads.py."""

from __future__ import annotations

import pytest
import torch

ttnn = pytest.importorskip("ttnn")


@pytest.fixture
def caches(upload):
    return [upload(torch.zeros(1, 1, 64, 64)) for _ in range(2)]


def run_split_heads(upload, caches):
    from lerobot_pi0_ttnn.tt.ops.heads import split_heads

    cos, sin = (upload(torch.ones(1, 1, 32, 64), dtype=ttnn.float32) for _ in range(2))
    qkv, fidelity = upload(torch.ones(1, 1, 32, 256)), ttnn.MathFidelity.HiFi3
    return split_heads(qkv, cos, sin, *caches, start=32, num_heads=2, fidelity=fidelity)


def test_what_a_program_writes_has_a_value(upload, caches):
    queries = run_split_heads(upload, caches)
    assert torch.equal(ttnn.to_torch(queries).float(), torch.full((1, 2, 32, 64), 2.0))
    for tensor, value in zip(caches, (2.0, 1.0), strict=True):
        assert ttnn.to_torch(tensor).float().mean(dim=(0, 1, 3)).tolist() == [0.0] * 32 + [value] * 32


def test_what_a_program_writes_while_only_shapes_are_followed_has_none(board, upload, caches):
    """Nor what it held before."""
    with board.shapes_only():
        queries = run_split_heads(upload, caches)
    for tensor in (queries, *caches):
        with pytest.raises(RuntimeError, match="has no value"):
            ttnn.to_torch(tensor)


def test_an_unknown_program_is_refused(upload):
    """Nobody could say what it computes."""
    kernel = ttnn.KernelDescriptor(
        kernel_source="/somewhere/mystery_reader.cpp",
        core_ranges=ttnn.num_cores_to_corerangeset(1, ttnn.CoreCoord(8, 8), row_wise=True),
        config=ttnn.ReaderConfigDescriptor(),
    )
    tensors = [upload(torch.ones(1, 1, 32, 32)) for _ in range(2)]
    with pytest.raises(NotImplementedError, match=r"does not know what /somewhere/mystery_reader\.cpp computes"):
        ttnn.generic_op(tensors, ttnn.ProgramDescriptor(kernels=[kernel]))
