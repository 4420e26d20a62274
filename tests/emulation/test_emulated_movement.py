"""Moving, reshaping and writing tensors: no value may change, and each must land where ttnn puts it."""

from __future__ import annotations

import pytest
import torch

ttnn = pytest.importorskip("ttnn")


def test_shapes(draw, upload, agrees):
    value = draw(1, 2, 64, 96)
    on_board = upload(value)
    agrees(ttnn.reshape(on_board, [1, 1, 128, 96]), value.view(1, 1, 128, 96), exact=True)
    agrees(ttnn.reshape(on_board, [1, 4, 32, 96]), value.view(1, 4, 32, 96), exact=True)
    agrees(ttnn.reshape(on_board, (2, 96, 64)), value.view(2, 96, 64), exact=True)
    agrees(ttnn.permute(on_board, [0, 2, 1, 3]), torch.stack([value[:, 0], value[:, 1]], dim=2), exact=True)
    agrees(ttnn.transpose(on_board, -2, -1), value.mT, exact=True)
    agrees(ttnn.slice(on_board, [0, 1, 3, 32], [1, 2, 40, 96]), value[:, 1:2, 3:40, 32:96], exact=True)
    agrees(on_board[:, 1:2, 3:40, 32:96], value[:, 1:2, 3:40, 32:96], exact=True)
    agrees(ttnn.unsqueeze_to_4D(upload(value[0])), value, exact=True)
    agrees(ttnn.squeeze(on_board, 0), value[0], exact=True)
    agrees(ttnn.concat([on_board, on_board], dim=2), torch.cat([value, value], dim=2), exact=True)
    halves = ttnn.split(on_board, 48, dim=3)
    agrees(halves[0], value[..., :48], exact=True)
    agrees(halves[1], value[..., 48:], exact=True)


def test_layouts_and_placements(draw, upload, agrees):
    value = draw(1, 1, 64, 64)
    on_board = upload(value)
    row_major = ttnn.to_layout(on_board, ttnn.ROW_MAJOR_LAYOUT)
    assert row_major.layout == ttnn.ROW_MAJOR_LAYOUT
    agrees(row_major, value, exact=True)
    agrees(ttnn.to_layout(row_major, ttnn.TILE_LAYOUT), value, exact=True)
    in_l1 = ttnn.to_memory_config(on_board, ttnn.L1_MEMORY_CONFIG)
    assert in_l1.memory_config().buffer_type == ttnn.BufferType.L1
    agrees(in_l1, value, exact=True)
    sharded = ttnn.to_memory_config(
        on_board, ttnn.create_sharded_memory_config((1, 1, 64, 64), ttnn.CoreGrid(x=2, y=1), ttnn.ShardStrategy.WIDTH)
    )
    assert sharded.is_sharded()
    agrees(ttnn.sharded_to_interleaved(sharded), value, exact=True)


def test_typecast_rounds(upload):
    value = torch.randn(1, 1, 32, 64)
    as_float32 = upload(value, dtype=ttnn.float32)
    assert torch.equal(ttnn.to_torch(as_float32), value)
    assert torch.equal(ttnn.to_torch(ttnn.typecast(as_float32, ttnn.bfloat16)), value.bfloat16())
    packed = ttnn.from_torch(value, dtype=ttnn.bfloat8_b, layout=ttnn.TILE_LAYOUT).to_torch()
    assert torch.equal(ttnn.to_torch(ttnn.typecast(as_float32, ttnn.bfloat8_b)), packed)


def test_round_trips(draw, upload, board, tmp_path):
    value = draw(1, 1, 40, 64)
    on_board = upload(value)
    on_host = ttnn.from_device(on_board)
    assert torch.equal(on_host.to_torch().float(), value)
    assert torch.equal(on_board.cpu().to_torch().float(), value)
    assert torch.equal(torch.tensor(on_board.to_list()), value)
    again = ttnn.to_device(on_host, board.device, memory_config=ttnn.L1_MEMORY_CONFIG)
    assert torch.equal(ttnn.to_torch(again).float(), value)
    assert torch.equal(ttnn.to_torch(on_host.to(board.device)).float(), value)
    assert ttnn.to_torch(on_board, dtype=torch.float64).dtype == torch.float64
    assert "-" in repr(on_board)
    assert "bfloat16" in repr(on_board).lower()

    path = tmp_path / "tensor.tensorbin"
    ttnn.dump_tensor(path, on_board)
    assert torch.equal(ttnn.to_torch(ttnn.load_tensor(path)).float(), value)
    assert torch.equal(ttnn.to_torch(ttnn.load_tensor(path, device=board.device)).float(), value)


@pytest.mark.parametrize("dtype", ["bfloat16", "bfloat8_b"])
def test_as_tensor_gives_the_same_with_and_without_its_cache(upload, board, tmp_path, dtype):
    value = torch.randn(64, 64)
    packed = ttnn.from_torch(value, dtype=getattr(ttnn, dtype), layout=ttnn.TILE_LAYOUT).to_torch()
    options = {
        "dtype": getattr(ttnn, dtype),
        "layout": ttnn.TILE_LAYOUT,
        "device": board.device,
        "memory_config": ttnn.DRAM_MEMORY_CONFIG,
    }
    for cache in (None, tmp_path / "weight", tmp_path / "weight"):
        assert torch.equal(ttnn.to_torch(ttnn.as_tensor(value, cache_file_name=cache, **options)), packed)
    assert list(tmp_path.iterdir())


def test_the_uploaded_value_is_a_copy(upload):
    value = torch.ones(32, 32, dtype=torch.bfloat16)
    on_board = upload(value, layout=ttnn.ROW_MAJOR_LAYOUT)
    on_host = ttnn.from_torch(value, layout=ttnn.ROW_MAJOR_LAYOUT)
    uploaded = ttnn.to_device(on_host, on_board.device())
    value.zero_()
    assert ttnn.to_torch(on_board).sum() == 32 * 32
    ttnn.to_torch(uploaded).zero_()
    assert ttnn.to_torch(uploaded).sum() == 32 * 32


def test_copy_host_to_device_tensor(draw, upload, agrees):
    buffer, value = upload(draw(1, 1, 40, 64)), draw(1, 1, 40, 64)
    view = ttnn.reshape(buffer, [40, 64])
    on_host = ttnn.from_torch(value, dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT)
    ttnn.copy_host_to_device_tensor(on_host, buffer)
    agrees(buffer, value, exact=True)
    agrees(view, value[0, 0], exact=True)


def test_outputs_land_in_the_given_tensor(draw, upload, agrees):
    a, b = draw(1, 1, 40, 64), draw(1, 1, 40, 64)
    on_a, on_b, output = upload(a), upload(b), upload(torch.zeros(1, 1, 40, 64))
    ttnn.add(on_a, on_b, output_tensor=output)
    agrees(output, a + b)
    ttnn.add_(output, on_a)
    agrees(output, (a + b).bfloat16() + a)
    ttnn.multiply_(on_a, 2.0)
    agrees(on_a, 2 * a, exact=True)
    ttnn.copy(on_b, output)
    agrees(output, b, exact=True)
    ttnn.assign(on_a, output)
    agrees(output, 2 * a, exact=True)
    weight = upload(torch.eye(64))
    ttnn.linear(on_b, weight, optional_output_tensor=output)
    agrees(output, b, exact=True)


def test_a_write_is_seen_through_a_view_and_not_through_a_copy(draw, upload, agrees):
    value = draw(1, 2, 32, 64)
    buffer = upload(value)
    view, copy = ttnn.reshape(buffer, [1, 1, 64, 64]), ttnn.slice(buffer, [0, 0, 0, 0], [1, 1, 32, 64])
    assert view.buffer_address() == buffer.buffer_address()
    ttnn.multiply_(buffer, 2.0)
    agrees(view, 2 * value.view(1, 1, 64, 64), exact=True)
    agrees(copy, value[:, :1], exact=True)


def test_a_write_in_float32_spares_the_tensor_it_was_copied_from(upload):
    zeros = upload(torch.zeros(1, 1, 64, 64), dtype=ttnn.float32)
    moved = ttnn.to_memory_config(zeros, ttnn.L1_MEMORY_CONFIG)
    ttnn.fill_cache(moved, upload(torch.ones(1, 1, 32, 64), dtype=ttnn.float32), 0)
    assert ttnn.to_torch(moved).sum() == 32 * 64
    assert ttnn.to_torch(zeros).sum() == 0


@pytest.mark.parametrize("dtype", ["bfloat16", "bfloat8_b", "float32"])
def test_cache_writes(upload, dtype):
    cache_value, row = torch.zeros(1, 1, 128, 64), torch.ones(1, 1, 64, 64)
    cache = upload(cache_value, dtype=getattr(ttnn, dtype))
    part = upload(row, dtype=getattr(ttnn, dtype))
    ttnn.fill_cache(cache, part, 0, update_idx=64)
    assert ttnn.to_torch(cache)[0, 0].float().sum(1).tolist() == [0.0] * 64 + [64.0] * 64
    ttnn.kv_cache.fill_cache_for_user_(cache, part, 0)
    assert ttnn.to_torch(cache).float().sum() == 128 * 64


def test_made_tensors(board, upload, agrees):
    options = {"dtype": ttnn.bfloat16, "layout": ttnn.TILE_LAYOUT, "device": board.device}
    agrees(ttnn.zeros([1, 1, 40, 64], **options), torch.zeros(1, 1, 40, 64), exact=True)
    agrees(ttnn.ones([1, 1, 40, 64], **options), torch.ones(1, 1, 40, 64), exact=True)
    agrees(ttnn.full([1, 1, 40, 64], 0.1, **options), torch.full((1, 1, 40, 64), 0.1).bfloat16(), exact=True)
    agrees(ttnn.zeros_like(upload(torch.ones(32, 32))), torch.zeros(32, 32), exact=True)
    agrees(ttnn.full_like(upload(torch.ones(32, 32)), 3.0), torch.full((32, 32), 3.0), exact=True)


def test_memory_that_was_never_written_is_not_a_number(board):
    empty = ttnn.empty([32, 32], ttnn.bfloat16, ttnn.TILE_LAYOUT, board.device, ttnn.DRAM_MEMORY_CONFIG)
    assert ttnn.to_torch(empty).isnan().all()
    empty = ttnn.allocate_tensor_on_device(
        ttnn.Shape([32, 32]), ttnn.bfloat16, ttnn.TILE_LAYOUT, board.device, ttnn.DRAM_MEMORY_CONFIG
    )
    assert ttnn.to_torch(ttnn.add(empty, 1.0)).isnan().all()


def test_integers_are_kept_as_they_are(board):
    value = torch.tensor([[0, 1, 257151, 2**31 - 1] * 8], dtype=torch.int32)
    for dtype in (ttnn.int32, ttnn.uint32):
        on_board = ttnn.from_torch(value, dtype=dtype, layout=ttnn.ROW_MAJOR_LAYOUT, device=board.device)
        assert ttnn.to_torch(on_board).to(torch.int64).tolist() == value.tolist()
        assert ttnn.to_torch(ttnn.reshape(on_board, [4, 8])).to(torch.int64).tolist() == value.view(4, 8).tolist()
