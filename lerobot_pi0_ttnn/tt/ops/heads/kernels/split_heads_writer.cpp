// SPDX-License-Identifier: Apache-2.0
// Puts rotated rows of tiles where they belong: queries by head, keys in their cache. See ../split_heads.py.

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
    const uint32_t queries_address = get_common_arg_val<uint32_t>(3);
    const uint32_t keys_address = get_common_arg_val<uint32_t>(4);

    constexpr uint32_t heads = get_compile_time_arg_val(0);
    constexpr uint32_t width = get_compile_time_arg_val(1);
    constexpr auto queries_args = TensorAccessorArgs<2>();
    constexpr auto keys_args = TensorAccessorArgs<queries_args.next_compile_time_args_offset()>();

    constexpr uint32_t rotated_cb = 16;
    const uint32_t bytes = get_tile_size(rotated_cb);
    const auto queries = TensorAccessor(queries_args, queries_address, bytes);
    const auto keys = TensorAccessor(keys_args, keys_address, bytes);
    CircularBuffer rotated(rotated_cb);
    Noc noc;

    for (uint32_t unit = unit_begin; unit < unit_end; ++unit) {
        const uint32_t row = unit / heads, head = unit % heads;
        const uint32_t batch = row / rows, row_of_batch = row % rows;
        rotated.wait_front(width);
        const uint32_t from = rotated.get_read_ptr();
        for (uint32_t column = 0; column < width; ++column) {
            const CoreLocalMem<uint32_t> tile(from + column * bytes);
            if (head < heads - 1) {
                noc.async_write(tile, queries, bytes, {}, {.page_id = ((batch * (heads - 1) + head) * rows + row_of_batch) * width + column});
            } else {
                noc.async_write(tile, keys, bytes, {}, {.page_id = (batch * cached_rows + start_row + row_of_batch) * width + column});
            }
        }
        noc.async_write_barrier();
        rotated.pop_front(width);
    }
}
