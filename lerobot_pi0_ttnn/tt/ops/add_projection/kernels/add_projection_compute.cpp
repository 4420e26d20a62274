// SPDX-License-Identifier: Apache-2.0
// Sums a part of a column of x @ weight; the first part's core adds the other parts' sums, gates them, and adds the stream, all in
// float32. See ../add_projection.py.

#include <cstdint>

#include "api/compute/common.h"
#include "api/compute/compute_kernel_hw_startup.h"
#include "api/compute/eltwise_binary_sfpu.h"
#include "api/compute/matmul.h"
#include "api/compute/pack.h"
#include "api/compute/reconfig_data_format.h"
#include "api/compute/tile_move_copy.h"
#include "api/dataflow/circular_buffer.h"

constexpr uint32_t x_cb = 0, weight_cb = 1, addends_cb = 2, gate_cb = 3, sum_cb = 16;

// Adds so many addends, from the first on, to as many of the registers.
FORCE_INLINE void add(uint32_t first, uint32_t count) {
    copy_init(addends_cb);
    for (uint32_t tile = 0; tile < count; ++tile) {
        copy_tile(addends_cb, first + tile, count + tile);
    }
    add_binary_tile_init();
    for (uint32_t tile = 0; tile < count; ++tile) {
        add_binary_tile(tile, count + tile, tile);
    }
}

void kernel_main() {
    const uint32_t inner = get_arg_val<uint32_t>(0);
    const uint32_t part = get_arg_val<uint32_t>(1);

    constexpr uint32_t rows = get_compile_time_arg_val(0);
    constexpr uint32_t parts = get_compile_time_arg_val(1);
    constexpr uint32_t block = get_compile_time_arg_val(3);
    constexpr bool gated = get_compile_time_arg_val(4) != 0;

    CircularBuffer x(x_cb), weight(weight_cb), addends(addends_cb), gate(gate_cb), sum(sum_cb);

    compute_kernel_hw_startup<SrcOrder::Reverse>(x_cb, weight_cb, sum_cb);
    sum.reserve_back(rows);
    // The registers hold two rows and what is added to them.
    for (uint32_t row = 0; row < rows; row += 2) {
        const uint32_t high = rows - row < 2 ? 1 : 2;
        matmul_block_init(x_cb, weight_cb, 0, 1, high, 1);
        tile_regs_acquire();
        for (uint32_t tile = 0; tile < inner; ++tile) {
            if (tile % block == 0) {
                const uint32_t until = inner - tile < block ? inner : tile + block;
                x.wait_front(until * rows);
                weight.wait_front(until);
            }
            matmul_block(x_cb, weight_cb, tile * rows + row, tile, 0, 0, 1, high, 1);
        }
        if (part == 0) {
            addends.wait_front(parts * rows);
            reconfig_data_format_srca(weight_cb, addends_cb);
            for (uint32_t other = 1; other < parts; ++other) {
                add(other * rows + row, high);
            }
            if constexpr (gated) {
                gate.wait_front(1);
                copy_init(gate_cb);
                copy_tile(gate_cb, 0, high);
                mul_binary_tile_init();
                for (uint32_t tile = 0; tile < high; ++tile) {
                    mul_binary_tile(tile, high, tile);
                }
            }
            // The stream is the first of them.
            add(row, high);
            reconfig_data_format_srca(addends_cb, weight_cb);
        }
        tile_regs_commit();
        tile_regs_wait();
        for (uint32_t tile = 0; tile < high; ++tile) {
            pack_tile(tile, sum_cb);
        }
        tile_regs_release();
    }
    sum.push_back(rows);
}
