// SPDX-License-Identifier: Apache-2.0
// Makes some rows and columns of x @ weight: each block of the inner dimension is summed in the float32 registers, and added by
// the packer to the float32 sums in L1. In the end the stream is added, and the result rounded once. Some columns in one pass, the
// next ones in another. See ../group_matmul.py.

#include <cstdint>

#include "api/compute/common.h"
#include "api/compute/compute_kernel_hw_startup.h"
#include "api/compute/eltwise_binary_sfpu.h"
#include "api/compute/matmul.h"
#include "api/compute/pack.h"
#include "api/compute/reconfig_data_format.h"
#include "api/compute/tile_move_copy.h"
#include "api/dataflow/circular_buffer.h"

constexpr uint32_t x_cb = 0, weight_cb = 2, sums_cb = 5, stream_cb = 6, result_cb = 16;
constexpr uint32_t networks = 2, registers = 4;

void kernel_main() {
    const uint32_t rows = get_arg_val<uint32_t>(0);

    constexpr uint32_t inner = get_compile_time_arg_val(0);
    constexpr uint32_t block = get_compile_time_arg_val(1);
    constexpr uint32_t high = get_compile_time_arg_val(2);
    constexpr uint32_t wide = get_compile_time_arg_val(3);
    constexpr uint32_t passes = get_compile_time_arg_val(4);
    constexpr bool adds = get_compile_time_arg_val(5) != 0;
    constexpr uint32_t blocks = (inner + block - 1) / block;

    CircularBuffer sums(sums_cb), stream(stream_cb), result(result_cb);

    compute_kernel_hw_startup<SrcOrder::Reverse>(x_cb, weight_cb, sums_cb);
    pack_reconfig_l1_acc(0);
    for (uint32_t pass = 0; pass < passes; ++pass) {
        const uint32_t columns = get_arg_val<uint32_t>(1 + pass);
        sums.reserve_back(high * wide);
        for (uint32_t number = 0; number < blocks; ++number) {
            const uint32_t from = (pass * blocks + number) % networks;
            const uint32_t count = inner - number * block < block ? inner - number * block : block;
            CircularBuffer x(x_cb + from), weight(weight_cb + from);
            x.wait_front(high * block);
            weight.wait_front(block * wide);
            for (uint32_t column = 0, shape = 0; column < columns;) {
                const uint32_t across = columns - column < registers ? columns - column : registers;
                for (uint32_t row = 0; row < rows;) {
                    const uint32_t most = registers / across, down = rows - row < most ? rows - row : most;
                    if (shape != across * registers + down) {
                        shape = across * registers + down;
                        matmul_block_init(x_cb, weight_cb, 0, across, down, block);
                    }
                    tile_regs_acquire();
                    for (uint32_t tile = 0; tile < count; ++tile) {
                        matmul_block(
                            x_cb + from, weight_cb + from, row * block + tile, tile * wide + column, 0, 0, across, down, block);
                    }
                    tile_regs_commit();
                    tile_regs_wait();
                    for (uint32_t high_at = 0, tile = 0; high_at < down; ++high_at) {
                        for (uint32_t wide_at = 0; wide_at < across; ++wide_at, ++tile) {
                            pack_tile<true>(tile, sums_cb, (row + high_at) * columns + column + wide_at);
                        }
                    }
                    tile_regs_release();
                    row += down;
                }
                column += across;
            }
            if (number == 0) {
                pack_reconfig_l1_acc(1);
            }
            x.pop_front(high * block);
            weight.pop_front(block * wide);
        }
        sums.push_back(high * wide);

        pack_reconfig_l1_acc(0);
        pack_reconfig_data_format(sums_cb, result_cb);
        sums.wait_front(high * wide);
        if constexpr (adds) {
            stream.wait_front(high * wide);
        }
        constexpr uint32_t at_once = registers / 2;
        const uint32_t tiles = rows * columns;
        reconfig_data_format_srca(weight_cb, sums_cb);
        for (uint32_t first = 0; first < tiles; first += at_once) {
            const uint32_t count = tiles - first < at_once ? tiles - first : at_once;
            tile_regs_acquire();
            copy_init(sums_cb);
            for (uint32_t tile = 0; tile < count; ++tile) {
                copy_tile(sums_cb, first + tile, tile);
            }
            if constexpr (adds) {
                reconfig_data_format_srca(sums_cb, stream_cb);
                copy_init(stream_cb);
                for (uint32_t tile = 0; tile < count; ++tile) {
                    copy_tile(stream_cb, first + tile, at_once + tile);
                }
                reconfig_data_format_srca(stream_cb, sums_cb);
                add_binary_tile_init();
                for (uint32_t tile = 0; tile < count; ++tile) {
                    add_binary_tile(tile, at_once + tile, tile);
                }
            }
            tile_regs_commit();
            tile_regs_wait();
            // One by one: of an odd number in a pass two would not lie side by side where the buffer ends.
            for (uint32_t tile = 0; tile < count; ++tile) {
                result.reserve_back(1);
                pack_tile(tile, result_cb);
                result.push_back(1);
            }
            tile_regs_release();
        }
        if constexpr (adds) {
            stream.pop_front(high * wide);
        }
        sums.pop_front(high * wide);
        if (pass + 1 < passes) {
            reconfig_data_format_srca(sums_cb, weight_cb);
            pack_reconfig_data_format(result_cb, sums_cb);
        }
    }
}
