// SPDX-License-Identifier: Apache-2.0
// Brings in what the rotation of one head's row of tiles takes, and carries the values to their cache. See ../split_heads.py.

#include <cstdint>

#include "api/core_local_mem.h"
#include "api/dataflow/circular_buffer.h"
#include "api/dataflow/dataflow_api.h"
#include "api/dataflow/noc.h"
#include "api/tensor/noc_traits.h"

void kernel_main() {
    const uint32_t unit_begin = get_arg_val<uint32_t>(0);
    const uint32_t unit_end = get_arg_val<uint32_t>(1);
    const uint32_t start_row = get_common_arg_val<uint32_t>(0);
    const uint32_t rows = get_common_arg_val<uint32_t>(1);
    const uint32_t cached_rows = get_common_arg_val<uint32_t>(2);
    const uint32_t table_rows = get_common_arg_val<uint32_t>(3);
    const uint32_t qkv_address = get_common_arg_val<uint32_t>(4);
    const uint32_t cos_address = get_common_arg_val<uint32_t>(5);
    const uint32_t sin_address = get_common_arg_val<uint32_t>(6);
    const uint32_t values_address = get_common_arg_val<uint32_t>(7);

    // Heads that rotate: those of the queries, then the key's.
    constexpr uint32_t heads = get_compile_time_arg_val(0);
    constexpr uint32_t width = get_compile_time_arg_val(1);
    constexpr auto qkv_args = TensorAccessorArgs<2>();
    constexpr auto cos_args = TensorAccessorArgs<qkv_args.next_compile_time_args_offset()>();
    constexpr auto sin_args = TensorAccessorArgs<cos_args.next_compile_time_args_offset()>();
    constexpr auto values_args = TensorAccessorArgs<sin_args.next_compile_time_args_offset()>();

    constexpr uint32_t x_cb = 0, swapped_cb = 1, cos_cb = 2, sin_cb = 3, value_cb = 4;
    const uint32_t x_bytes = get_tile_size(x_cb), table_bytes = get_tile_size(cos_cb);
    const auto qkv = TensorAccessor(qkv_args, qkv_address, x_bytes);
    const auto cos = TensorAccessor(cos_args, cos_address, table_bytes);
    const auto sin = TensorAccessor(sin_args, sin_address, table_bytes);
    const auto values = TensorAccessor(values_args, values_address, x_bytes);
    CircularBuffer x(x_cb), swapped(swapped_cb), cos_tiles(cos_cb), sin_tiles(sin_cb), value(value_cb);
    Noc noc;

    for (uint32_t unit = unit_begin; unit < unit_end; ++unit) {
        const uint32_t row = unit / heads, head = unit % heads;
        const uint32_t first = (row * (heads + 1) + head) * width;
        // Batches may share the tables.
        const uint32_t table = row % table_rows * width;

        x.reserve_back(width);
        swapped.reserve_back(width);
        cos_tiles.reserve_back(width);
        sin_tiles.reserve_back(width);
        uint32_t x_to = x.get_write_ptr(), swapped_to = swapped.get_write_ptr();
        uint32_t cos_to = cos_tiles.get_write_ptr(), sin_to = sin_tiles.get_write_ptr();
        for (uint32_t column = 0; column < width; ++column) {
            noc.async_read(qkv, CoreLocalMem<uint32_t>(x_to), x_bytes, {.page_id = first + column}, {});
            if constexpr (width == 1) {
                // The halves of the head are the left and the right faces of its one tile.
                const uint32_t face_bytes = x_bytes / 4;
                for (uint32_t face = 0; face < 4; ++face) {
                    noc.async_read(
                        qkv,
                        CoreLocalMem<uint32_t>(swapped_to + (face ^ 1) * face_bytes),
                        face_bytes,
                        {.page_id = first, .offset_bytes = face * face_bytes},
                        {});
                }
            } else {
                const uint32_t partner = (column + width / 2) % width;
                noc.async_read(qkv, CoreLocalMem<uint32_t>(swapped_to), x_bytes, {.page_id = first + partner}, {});
            }
            noc.async_read(cos, CoreLocalMem<uint32_t>(cos_to), table_bytes, {.page_id = table + column}, {});
            noc.async_read(sin, CoreLocalMem<uint32_t>(sin_to), table_bytes, {.page_id = table + column}, {});
            x_to += x_bytes;
            swapped_to += x_bytes;
            cos_to += table_bytes;
            sin_to += table_bytes;
        }
        noc.async_read_barrier();
        x.push_back(width);
        swapped.push_back(width);
        cos_tiles.push_back(width);
        sin_tiles.push_back(width);

        if (head == heads - 1) {
            // The value lies behind the key, and does not rotate.
            const uint32_t at = value.get_write_ptr();
            const uint32_t to = (row / rows * cached_rows + start_row + row % rows) * width;
            for (uint32_t column = 0; column < width; ++column) {
                noc.async_read(
                    qkv, CoreLocalMem<uint32_t>(at + column * x_bytes), x_bytes, {.page_id = first + width + column}, {});
            }
            noc.async_read_barrier();
            for (uint32_t column = 0; column < width; ++column) {
                noc.async_write(
                    CoreLocalMem<uint32_t>(at + column * x_bytes), values, x_bytes, {}, {.page_id = to + column});
            }
            noc.async_write_barrier();
        }
    }
}
