"""How the emulation keeps values, counts calls, follows shapes alone, and refuses what it cannot do."""

from __future__ import annotations

import threading

import pytest
import torch

ttnn = pytest.importorskip("ttnn")


@pytest.fixture
def memory(board):
    return board._emulator.memory


def test_ten_thousand_ops_leave_nothing_behind(upload, memory):
    x = upload(torch.ones(32, 64))
    memory.sweep()
    kept, held = len(memory), memory.bytes
    most = 0
    for _ in range(2_500):
        parts = [ttnn.multiply(x, 0.5), ttnn.add(x, 1.0), ttnn.slice(x, [0, 0], [32, 32])]
        x = ttnn.multiply(parts[0], 2.0)
        most = max(most, len(memory))
    del parts
    assert most < kept + 100
    memory.sweep()
    assert len(memory) <= kept + 1
    assert memory.bytes <= held + 32 * 64 * 2
    assert torch.equal(ttnn.to_torch(x).float(), torch.ones(32, 64))


def test_values_live_as_long_as_any_tensor_of_their_buffer(upload, memory):
    value = torch.arange(64.0).repeat(32, 1)
    x = upload(value)
    view = ttnn.reshape(x, [1, 32, 64])
    del x
    memory.sweep()
    assert torch.equal(ttnn.to_torch(view)[0].float(), value)
    before = len(memory)
    del view
    memory.sweep()
    assert len(memory) == before - 1


def most_bytes_held(board, memory, *, tensors, tile_rows, width):
    """The most bytes of values while sets of tensors came and went, each set at other addresses."""
    most = 0
    for rows in tile_rows:
        spec = ttnn.TensorSpec((rows * 32, width), ttnn.bfloat16, ttnn.TILE_LAYOUT, buffer_type=ttnn.BufferType.DRAM)
        held = [ttnn.allocate_tensor_on_device(spec, board.device) for _ in range(tensors)]
        most = max(most, memory.bytes)
        del held
    return most


def test_values_are_freed_before_large_ones_pile_up(board, memory):
    memory.sweep()
    before = memory.bytes
    most = most_bytes_held(board, memory, tensors=4, tile_rows=range(16, 176, 16), width=2048)
    # The largest set has 4 x 20 MiB; as much again may await the next sweep.
    assert most - before < 180 << 20


def test_a_slice_does_not_keep_the_whole(upload, memory):
    whole = upload(torch.ones(1024, 64), dtype=ttnn.float32)
    part = ttnn.slice(whole, [0, 0], [32, 64])
    assert memory.read(part).untyped_storage().nbytes() == 32 * 64 * 4


def test_a_tensor_that_was_made_unseen_does_not_get_the_value_that_was_there_before(upload):
    x = upload(torch.ones(32, 32))
    seen = ttnn.add(x, x)
    place = seen.buffer_address()
    del seen
    unseen = ttnn.add.function(x, x)
    assert unseen.buffer_address() == place
    with pytest.raises(RuntimeError, match="has no value"):
        ttnn.to_torch(unseen)


def test_a_deallocated_tensor_loses_its_value_and_ttnn_refuses_it(upload, memory):
    x = upload(torch.ones(32, 32))
    y = ttnn.add(x, x)
    before = len(memory)
    ttnn.deallocate(x)
    assert len(memory) == before - 1
    with pytest.raises(RuntimeError, match="allocated"):
        ttnn.add(x, y)
    # The allocator gives the place to the next tensor, which must not find the former value there.
    z = ttnn.empty([32, 32], ttnn.bfloat16, ttnn.TILE_LAYOUT, y.device(), ttnn.DRAM_MEMORY_CONFIG)
    assert ttnn.to_torch(z).isnan().all()
    assert torch.equal(ttnn.to_torch(y).float(), torch.full((32, 32), 2.0))


def test_a_moved_tensor_keeps_its_value(upload):
    value = torch.randn(64, 64).bfloat16()
    x = upload(value)
    assert torch.equal(ttnn.to_torch(ttnn.reallocate(x)), value)


def test_ttnn_validates_each_call(upload):
    with pytest.raises(RuntimeError, match=r"width of the first tensor must be equal"):
        ttnn.linear(upload(torch.ones(32, 64)), upload(torch.ones(32, 64)))
    with pytest.raises(RuntimeError, match=r"Out of Memory"):
        ttnn.zeros(
            [64 * 1024, 1024], ttnn.bfloat16, ttnn.TILE_LAYOUT, upload(torch.ones(1)).device(), ttnn.L1_MEMORY_CONFIG
        )


def test_an_op_without_a_golden_function_is_named(board, upload):
    with pytest.raises(NotImplementedError, match=r"ttnn\.experimental\.nlp_concat_heads_decode.*golden"):
        ttnn.experimental.nlp_concat_heads_decode(upload(torch.ones(1, 1, 32, 64)), num_heads=1)
    x = ttnn.from_torch(torch.ones(32, 32), dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT)
    with pytest.raises(NotImplementedError, match=r"ttnn\.copy_device_to_host_tensor"):
        ttnn.copy_device_to_host_tensor(upload(torch.ones(32, 32)), x)


def test_trace_capture_is_refused(board):
    with pytest.raises(RuntimeError, match=r"cannot capture a trace"):
        ttnn.begin_trace_capture(board.device, cq_id=0)


def test_recording_counts_operations_and_traffic(board, upload):
    weight = upload(torch.ones(64, 64))
    with board.record() as counts:
        x = upload(torch.ones(40, 64))
        for _ in range(3):
            x = ttnn.linear(x, weight, activation="gelu")
        x = x + x
        ttnn.to_torch(x)
        on_host = ttnn.from_torch(torch.ones(40, 64), dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT)
        ttnn.copy_host_to_device_tensor(on_host, x)
        ttnn.to_torch(on_host)
        ttnn.to_device(x, board.device)
    assert counts.operations == {"ttnn.linear": 3, "ttnn.add": 1}
    # 40 rows are two tiles, 64 columns two tiles, of 2048 bytes.
    assert (counts.uploads.count, counts.uploads.bytes) == (2, 2 * 4 * 2048)
    assert (counts.readbacks.count, counts.readbacks.bytes) == (1, 4 * 2048)
    ttnn.to_torch(x)
    assert counts.readbacks.count == 1


def test_recordings_nest_and_leave_failures_out(board, upload):
    with board.record() as outer:
        x = upload(torch.ones(32, 64))
        with board.record() as inner:
            ttnn.add(x, x)
        with pytest.raises(RuntimeError):
            ttnn.linear(x, x)
        ttnn.add(x, x)
    assert outer.operations == {"ttnn.add": 2}
    assert inner.operations == {"ttnn.add": 1}
    assert (inner.uploads.count, outer.uploads.count) == (0, 1)


def test_threads_share_a_board(board, upload):
    results = []

    def work(amount):
        for _ in range(20):
            with board.lock:
                results.append(float(ttnn.to_torch(ttnn.add(upload(torch.zeros(32, 32)), amount)).mean()) == amount)

    threads = [threading.Thread(target=work, args=(float(n),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 80


class TestShapesOnly:
    def test_full_size_weights_are_validated_and_never_made(self, board):
        options = {"layout": ttnn.TILE_LAYOUT, "device": board.device}
        before = board.describe()["dram_bytes_in_use"]
        with board.shapes_only():
            x = ttnn.from_torch(torch.empty(1, 1, 544, 2048, device="meta"), dtype=ttnn.bfloat16, **options)
            weight = ttnn.from_torch(torch.empty(2048, 16384, device="meta"), dtype=ttnn.bfloat8_b, **options)
            kept = ttnn.as_tensor(
                torch.empty(2048, 64, device="meta"),
                dtype=ttnn.bfloat16,
                memory_config=ttnn.DRAM_MEMORY_CONFIG,
                **options,
            )
            y = ttnn.linear(x, weight, activation="gelu", dtype=ttnn.bfloat8_b)
            assert (tuple(y.shape), y.dtype) == ((1, 1, 544, 16384), ttnn.bfloat8_b)
            assert (tuple(kept.shape), kept.dtype, kept.layout) == ((2048, 64), ttnn.bfloat16, ttnn.TILE_LAYOUT)
            grown = board.describe()["dram_bytes_in_use"] - before
            assert grown >= 544 * 2048 * 2 + 2048 * 16384 * 1088 // 1024 + 544 * 16384 * 1088 // 1024
            with pytest.raises(RuntimeError, match="width of the first tensor"):
                ttnn.linear(weight, x)
            for read in (ttnn.to_torch, ttnn.from_device, lambda tensor: tensor.cpu()):
                with pytest.raises(RuntimeError, match="only shapes are followed"):
                    read(y)
        with pytest.raises(RuntimeError, match="has no value"):
            ttnn.to_torch(y)

    def test_defaults_are_those_of_from_torch(self, board):
        for source in (torch.ones(3, 5), torch.ones(3, 5).bfloat16(), torch.ones(3, 5, dtype=torch.int32)):
            real = ttnn.from_torch(source, device=board.device)
            with board.shapes_only():
                followed = ttnn.from_torch(source, device=board.device)
                on_host = ttnn.from_torch(source)
            assert followed.spec == real.spec
            assert on_host.storage_type() == ttnn.StorageType.HOST

    def test_a_former_value_does_not_survive_a_write(self, board, upload):
        x = upload(torch.ones(32, 32))
        with board.shapes_only():
            ttnn.multiply_(x, 2.0)
        with pytest.raises(RuntimeError, match="has no value"):
            ttnn.to_torch(x)
        y = upload(torch.ones(32, 32))
        with board.shapes_only():
            ttnn.copy_host_to_device_tensor(ttnn.from_torch(torch.zeros(32, 32), dtype=y.dtype, layout=y.layout), y)
        with pytest.raises(RuntimeError, match="has no value"):
            ttnn.to_torch(y)

    def test_an_output_needs_no_value_before_it_is_written(self, board, upload):
        x = upload(torch.ones(32, 32))
        with board.shapes_only():
            output = ttnn.zeros_like(x)
        ttnn.add(x, x, output_tensor=output)
        assert ttnn.to_torch(output).sum() == 2 * 32 * 32

    def test_values_made_outside_stay(self, board, upload):
        x = upload(torch.ones(32, 32))
        with board.shapes_only():
            ttnn.add(x, x)
        assert ttnn.to_torch(x).sum() == 32 * 32
