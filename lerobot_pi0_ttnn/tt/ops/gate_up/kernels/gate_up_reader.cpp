// SPDX-License-Identifier: Apache-2.0
// Streams this core's columns of both weights from DRAM, a tile of gate and the same of up in turn. See ../gate_up.py.

#include <cstdint>

#include "api/core_local_mem.h"
#include "api/dataflow/circular_buffer.h"
#include "api/dataflow/dataflow_api.h"
#include "api/dataflow/noc.h"
#include "api/tensor/noc_traits.h"

void kernel_main() {
    const uint32_t column_begin = get_arg_val<uint32_t>(0);
    const uint32_t column_end = get_arg_val<uint32_t>(1);
    const uint32_t gate_address = get_common_arg_val<uint32_t>(0);
    const uint32_t up_address = get_common_arg_val<uint32_t>(1);

    constexpr uint32_t inner = get_compile_time_arg_val(0);
    constexpr uint32_t block = get_compile_time_arg_val(1);
    constexpr uint32_t columns = get_compile_time_arg_val(2);
    constexpr auto gate_args = TensorAccessorArgs<3>();
    constexpr auto up_args = TensorAccessorArgs<gate_args.next_compile_time_args_offset()>();

    constexpr uint32_t weights_cb = 1;
    const uint32_t bytes = get_tile_size(weights_cb);
    const auto gate = TensorAccessor(gate_args, gate_address, bytes);
    const auto up = TensorAccessor(up_args, up_address, bytes);
    CircularBuffer weights(weights_cb);
    Noc noc;

    for (uint32_t column = column_begin; column < column_end; ++column) {
        for (uint32_t row = 0; row < inner; row += block) {
            weights.reserve_back(2 * block);
            uint32_t to = weights.get_write_ptr();
            for (uint32_t page = row * columns + column; page < (row + block) * columns; page += columns) {
                noc.async_read(gate, CoreLocalMem<uint32_t>(to), bytes, {.page_id = page}, {});
                noc.async_read(up, CoreLocalMem<uint32_t>(to + bytes), bytes, {.page_id = page}, {});
                to += 2 * bytes;
            }
            noc.async_read_barrier();
            weights.push_back(2 * block);
        }
    }
}
