// SPDX-License-Identifier: Apache-2.0
// Streams this core's part of a column of the weight from DRAM, and lays out the gate where it writes the column.
// See ../add_projection.py.

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
    const uint32_t part = get_arg_val<uint32_t>(3);
    const uint32_t weight_address = get_common_arg_val<uint32_t>(0);
    const uint32_t gate_address = get_common_arg_val<uint32_t>(1);

    constexpr uint32_t columns = get_compile_time_arg_val(2);
    constexpr uint32_t block = get_compile_time_arg_val(3);
    constexpr bool gated = get_compile_time_arg_val(4) != 0;
    constexpr auto weight_args = TensorAccessorArgs<5>();
    constexpr auto gate_args = TensorAccessorArgs<weight_args.next_compile_time_args_offset()>();

    constexpr uint32_t weight_cb = 1, gate_cb = 3;
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

    if constexpr (gated) {
        if (part == 0) {
            // The gate is the first row of a tile, which all rows are to have: of its two upper faces, and of those below.
            constexpr uint32_t faces = 4, rows = 16;
            CircularBuffer gate_tile(gate_cb);
            const uint32_t tile_bytes = get_tile_size(gate_cb), row_bytes = tile_bytes / faces / rows;
            const auto gate = TensorAccessor(gate_args, gate_address, tile_bytes);
            gate_tile.reserve_back(1);
            uint32_t to = gate_tile.get_write_ptr();
            for (uint32_t face = 0; face < faces; ++face) {
                for (uint32_t row = 0; row < rows; ++row) {
                    noc.async_read(
                        gate,
                        CoreLocalMem<uint32_t>(to),
                        row_bytes,
                        {.page_id = column, .offset_bytes = face % 2 * rows * row_bytes},
                        {});
                    to += row_bytes;
                }
            }
            noc.async_read_barrier();
            gate_tile.push_back(1);
        }
    }
}
