// SPDX-License-Identifier: Apache-2.0
// Makes columns of gelu_tanh(x @ gate) * (x @ up): summed, activated and multiplied in float32, rounded once. See ../gate_up.py.

#include <cstdint>

#include "api/compute/common.h"
#include "api/compute/compute_kernel_hw_startup.h"
#include "api/compute/eltwise_binary_sfpu.h"
#include "api/compute/eltwise_unary/gelu.h"
#include "api/compute/matmul.h"
#include "api/compute/pack.h"
#include "api/dataflow/circular_buffer.h"

void kernel_main() {
    const uint32_t columns = get_arg_val<uint32_t>(0);

    constexpr uint32_t shards = get_compile_time_arg_val(0);
    constexpr uint32_t shard_columns = get_compile_time_arg_val(1);
    constexpr uint32_t rows = get_compile_time_arg_val(2);
    constexpr uint32_t block = get_compile_time_arg_val(3);
    constexpr uint32_t inner = shards * shard_columns, shard_tiles = rows * shard_columns;

    constexpr uint32_t x_cb = 0, weights_cb = 1, product_cb = 16;
    CircularBuffer x(x_cb), weights(weights_cb), product(product_cb);

    compute_kernel_hw_startup<SrcOrder::Reverse>(x_cb, weights_cb, product_cb);
    for (uint32_t column = 0; column < columns; ++column) {
        product.reserve_back(rows);
        // The registers hold gate and up of two rows.
        for (uint32_t row = 0; row < rows; row += 2) {
            const uint32_t high = rows - row < 2 ? 1 : 2;
            matmul_block_init(x_cb, weights_cb, 0, 2, high, shard_columns);
            tile_regs_acquire();
            for (uint32_t shard = 0, at = 0; shard < shards; ++shard) {
                x.wait_front((shard + 1) * shard_tiles);
                for (uint32_t tile = shard * shard_tiles + row * shard_columns, end = tile + shard_columns; tile < end;
                     ++tile, ++at) {
                    if (at % block == 0) {
                        weights.wait_front(2 * (at + block));
                    }
                    matmul_block(x_cb, weights_cb, tile, 2 * at, 0, 0, 2, high, shard_columns);
                }
            }
            // The fast one, see `fused` in ../../../program.py.
            gelu_tanh_tile_init<true>();
            for (uint32_t gate = 0; gate < 2 * high; gate += 2) {
                gelu_tanh_tile<DST_ACCUM_MODE, true>(gate);
            }
            mul_binary_tile_init();
            for (uint32_t gate = 0; gate < 2 * high; gate += 2) {
                mul_binary_tile(gate, gate + 1, gate);
            }
            tile_regs_commit();
            tile_regs_wait();
            for (uint32_t gate = 0; gate < 2 * high; gate += 2) {
                pack_tile(gate, product_cb);
            }
            tile_regs_release();
        }
        weights.pop_front(2 * inner);
        product.push_back(rows);
    }
}
