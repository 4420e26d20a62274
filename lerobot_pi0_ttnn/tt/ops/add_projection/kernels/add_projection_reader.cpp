// SPDX-License-Identifier: Apache-2.0
// Streams this core's part of a column of the weight from DRAM. See ../add_projection.py.

#include <cstdint>

#include "api/core_local_mem.h"
#include "api/dataflow/circular_buffer.h"
#include "api/dataflow/dataflow_api.h"
#include "api/dataflow/noc.h"
#include "api/tensor/noc_traits.h"

void kernel_main() {
    const uint32_t column = get_arg_val<uint32_t>(0);
    const uint32_t begin = get_arg_val<uint32_t>(1);
    const uint32_t end = get_arg_val<uint32_t>(2);
    const uint32_t weight_address = get_common_arg_val<uint32_t>(0);

    constexpr uint32_t columns = get_compile_time_arg_val(2);
    constexpr uint32_t block = get_compile_time_arg_val(3);
    constexpr auto weight_args = TensorAccessorArgs<4>();

    constexpr uint32_t weight_cb = 1;
    const uint32_t bytes = get_tile_size(weight_cb);
    const auto weight = TensorAccessor(weight_args, weight_address, bytes);
    CircularBuffer tiles(weight_cb);
    Noc noc;

    for (uint32_t row = begin; row < end; row += block) {
        const uint32_t count = end - row < block ? end - row : block;
        tiles.reserve_back(count);
        const uint32_t to = tiles.get_write_ptr();
        for (uint32_t tile = 0; tile < count; ++tile) {
            noc.async_read(
                weight, CoreLocalMem<uint32_t>(to + tile * bytes), bytes, {.page_id = (row + tile) * columns + column}, {});
        }
        noc.async_read_barrier();
        tiles.push_back(count);
    }
}
