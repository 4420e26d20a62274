// SPDX-License-Identifier: Apache-2.0
// Brings in this core's part of x and, where it writes the column, the stream; hands a part's sum on, or writes the column.
// See ../add_projection.py.

#include <cstdint>

#include "api/core_local_mem.h"
#include "api/dataflow/circular_buffer.h"
#include "api/dataflow/dataflow_api.h"
#include "api/dataflow/endpoints.h"
#include "api/dataflow/noc.h"
#include "api/dataflow/noc_semaphore.h"
#include "api/tensor/noc_traits.h"

void kernel_main() {
    const uint32_t column = get_arg_val<uint32_t>(0);
    const uint32_t begin = get_arg_val<uint32_t>(1);
    const uint32_t end = get_arg_val<uint32_t>(2);
    const uint32_t part = get_arg_val<uint32_t>(3);
    constexpr uint32_t others = 4;
    const uint32_t x_address = get_common_arg_val<uint32_t>(0);
    const uint32_t stream_address = get_common_arg_val<uint32_t>(1);
    const uint32_t sum_address = get_common_arg_val<uint32_t>(2);

    constexpr uint32_t rows = get_compile_time_arg_val(0);
    constexpr uint32_t parts = get_compile_time_arg_val(1);
    constexpr uint32_t columns = get_compile_time_arg_val(2);
    constexpr uint32_t block = get_compile_time_arg_val(3);
    // Of x, (B, N, T, H): N, and the tiles of T and H.
    constexpr uint32_t heads = get_compile_time_arg_val(5);
    constexpr uint32_t length = get_compile_time_arg_val(6);
    constexpr uint32_t width = get_compile_time_arg_val(7);
    constexpr auto x_args = TensorAccessorArgs<8>();
    constexpr auto stream_args = TensorAccessorArgs<x_args.next_compile_time_args_offset()>();
    constexpr auto sum_args = TensorAccessorArgs<stream_args.next_compile_time_args_offset()>();

    constexpr uint32_t x_cb = 0, addends_cb = 2, sum_cb = 16;
    const uint32_t x_bytes = get_tile_size(x_cb), bytes = get_tile_size(sum_cb);
    const auto x = TensorAccessor(x_args, x_address, x_bytes);
    const auto stream = TensorAccessor(stream_args, stream_address, bytes);
    const auto total = TensorAccessor(sum_args, sum_address, bytes);
    CircularBuffer x_tiles(x_cb), addends(addends_cb), sum(sum_cb);
    Semaphore<> arrived(0), ready(1);
    Noc noc;

    // The same place on each core: here or there a part's sum is one of the addends.
    const uint32_t addends_at = addends.get_write_ptr();
    if (part == 0) {
        // Nobody hands anything on before this core runs the program: what another one left there is no longer needed then.
        for (uint32_t other = 0; other < parts - 1; ++other) {
            ready.up(
                noc, get_arg_val<uint32_t>(others + 2 * other), get_arg_val<uint32_t>(others + 2 * other + 1), 1);
        }
        addends.reserve_back(parts * rows);
        for (uint32_t row = 0; row < rows; ++row) {
            noc.async_read(
                stream,
                CoreLocalMem<uint32_t>(addends_at + row * bytes),
                bytes,
                {.page_id = row * columns + column},
                {});
        }
        noc.async_read_barrier();
    }

    for (uint32_t tile = begin; tile < end; tile += block) {
        const uint32_t count = end - tile < block ? end - tile : block;
        x_tiles.reserve_back(count * rows);
        uint32_t to = x_tiles.get_write_ptr();
        for (uint32_t inner = tile; inner < tile + count; ++inner) {
            for (uint32_t row = 0; row < rows; ++row) {
                const uint32_t batch = row / length, line = row % length;
                const uint32_t page = ((batch * heads + inner / width) * length + line) * width + inner % width;
                noc.async_read(x, CoreLocalMem<uint32_t>(to), x_bytes, {.page_id = page}, {});
                to += x_bytes;
            }
        }
        noc.async_read_barrier();
        x_tiles.push_back(count * rows);
    }

    if (part == 0) {
        if constexpr (parts > 1) {
            arrived.wait(parts - 1);
        }
        addends.push_back(parts * rows);
    }
    sum.wait_front(rows);
    const uint32_t from = sum.get_read_ptr();
    if (part == 0) {
        for (uint32_t row = 0; row < rows; ++row) {
            noc.async_write(
                CoreLocalMem<uint32_t>(from + row * bytes), total, bytes, {}, {.page_id = row * columns + column});
        }
        noc.async_write_barrier();
    } else {
        const uint32_t noc_x = get_arg_val<uint32_t>(others), noc_y = get_arg_val<uint32_t>(others + 1);
        ready.wait(1);
        noc.async_write(
            CoreLocalMem<uint32_t>(from),
            UnicastEndpoint{},
            rows * bytes,
            {},
            {.noc_x = noc_x, .noc_y = noc_y, .addr = addends_at + part * rows * bytes});
        noc.async_write_barrier();
        arrived.up(noc, noc_x, noc_y, 1);
    }
    noc.async_atomic_barrier();
    sum.pop_front(rows);
}
