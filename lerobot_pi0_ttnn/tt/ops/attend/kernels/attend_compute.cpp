// SPDX-License-Identifier: Apache-2.0
// Scores of a row of queries and a part of the keys, their maximum, exponentials, and sums of values by these; then the columns of
// the result that this core puts together. See ../attend.py.

#include <cstdint>

#include "api/compute/bcast.h"
#include "api/compute/binary_max_min.h"
#include "api/compute/common.h"
#include "api/compute/compute_kernel_hw_startup.h"
#include "api/compute/eltwise_binary_sfpu.h"
#include "api/compute/eltwise_unary/exp.h"
#include "api/compute/eltwise_unary/recip.h"
#include "api/compute/matmul.h"
#include "api/compute/pack.h"
#include "api/compute/reconfig_data_format.h"
#include "api/compute/reduce.h"
#include "api/compute/tile_move_copy.h"
#include "api/dataflow/circular_buffer.h"

constexpr uint32_t width = get_compile_time_arg_val(0);
constexpr uint32_t parts = get_compile_time_arg_val(1);

constexpr uint32_t queries_cb = 0, keys_cb = 1, values_cb = 2, mask_cb = 3, scaler_cb = 4, ones_cb = 5;
constexpr uint32_t scores_cb = 6, exact_scores_cb = 7, maximum_cb = 8, maxima_cb = 9, shift_cb = 10;
constexpr uint32_t weights_cb = 11, sums_cb = 12, addends_cb = 13, inverse_cb = 14, result_cb = 16;

// The registers hold four tiles of float32.
constexpr uint32_t registers = 4;

FORCE_INLINE uint32_t at_most(uint32_t count) { return count < registers ? count : registers; }

FORCE_INLINE void pack(uint32_t count, uint32_t cb) {
    tile_regs_commit();
    tile_regs_wait();
    for (uint32_t tile = 0; tile < count; ++tile) {
        pack_tile(tile, cb);
    }
    tile_regs_release();
}

// Leaves the sum of all parts' addends, from the first on, in the first register.
FORCE_INLINE void add_up(uint32_t first) {
    reconfig_data_format_srca(addends_cb);
    copy_init(addends_cb);
    copy_tile(addends_cb, first, 0);
    for (uint32_t part = 1; part < parts; ++part) {
        copy_init(addends_cb);
        copy_tile(addends_cb, first + part, 1);
        add_binary_tile_init();
        add_binary_tile(0, 1, 0);
    }
}

void kernel_main() {
    const uint32_t count = get_arg_val<uint32_t>(0);
    const uint32_t columns = get_arg_val<uint32_t>(1);

    CircularBuffer queries(queries_cb), keys(keys_cb), values(values_cb), mask(mask_cb), scaler(scaler_cb), ones(ones_cb);
    CircularBuffer scores(scores_cb), maximum(maximum_cb), maxima(maxima_cb), shift(shift_cb), weights(weights_cb);
    CircularBuffer sums(sums_cb), addends(addends_cb), inverse(inverse_cb), result(result_cb);

    compute_kernel_hw_startup<SrcOrder::Reverse>(queries_cb, keys_cb, scores_cb);

    // Scores: added to the mask in the registers.
    queries.wait_front(width);
    mask.wait_front(count);
    keys.wait_front(count * width);
    scores.reserve_back(count);
    for (uint32_t key = 0; key < count; key += registers) {
        const uint32_t wide = at_most(count - key);
        reconfig_data_format_srca(mask_cb);
        copy_init(mask_cb);
        tile_regs_acquire();
        for (uint32_t tile = 0; tile < wide; ++tile) {
            copy_tile(mask_cb, key + tile, tile);
        }
        reconfig_data_format(keys_cb, queries_cb);
        matmul_block_init(queries_cb, keys_cb, 1, wide, 1, width);
        for (uint32_t column = 0; column < width; ++column) {
            matmul_block(queries_cb, keys_cb, column, column * count + key, 0, 1, wide, 1, width);
        }
        pack(wide, scores_cb);
    }
    scores.push_back(count);

    // The maximum of each row, as bfloat16: what is taken off need not be exact, but the same everywhere.
    scores.wait_front(count);
    scaler.wait_front(1);
    maximum.reserve_back(1);
    reconfig_data_format(scores_cb, scaler_cb);
    pack_reconfig_data_format(maximum_cb);
    reduce_init<PoolType::MAX, ReduceDim::REDUCE_ROW>(scores_cb, scaler_cb, maximum_cb);
    tile_regs_acquire();
    for (uint32_t key = 0; key < count; ++key) {
        reduce_tile<PoolType::MAX, ReduceDim::REDUCE_ROW>(scores_cb, scaler_cb, key, 0, 0);
    }
    pack(1, maximum_cb);
    reduce_uninit(scores_cb);
    maximum.push_back(1);

    maxima.wait_front(parts);
    shift.reserve_back(1);
    reconfig_data_format_srca(maxima_cb);
    copy_init(maxima_cb);
    tile_regs_acquire();
    copy_tile(maxima_cb, 0, 0);
    for (uint32_t part = 1; part < parts; ++part) {
        copy_init(maxima_cb);
        copy_tile(maxima_cb, part, 1);
        binary_max_tile_init();
        binary_max_tile(0, 1, 0);
    }
    pack(1, shift_cb);
    shift.push_back(1);

    // Weights.
    shift.wait_front(1);
    weights.reserve_back(count);
    pack_reconfig_data_format(weights_cb);
    for (uint32_t key = 0; key < count; ++key) {
        tile_regs_acquire();
        reconfig_data_format(shift_cb, shift_cb);
        unary_bcast_init<BroadcastType::COL>(shift_cb);
        unary_bcast<BroadcastType::COL>(shift_cb, 0, 1);
        unary_bcast_uninit<BroadcastType::COL>(shift_cb);
        reconfig_data_format_srca(exact_scores_cb);
        copy_init(exact_scores_cb);
        copy_tile(exact_scores_cb, key, 0);
        sub_binary_tile_init();
        sub_binary_tile(0, 1, 0);
        exp_tile_init();
        exp_tile(0);
        pack(1, weights_cb);
    }
    weights.push_back(count);

    // Sums of values, and of the weights themselves, in every column of a tile.
    weights.wait_front(count);
    values.wait_front(count * width);
    ones.wait_front(1);
    sums.reserve_back(width + 1);
    pack_reconfig_data_format(sums_cb);
    reconfig_data_format(values_cb, weights_cb);
    for (uint32_t column = 0; column < width; column += registers) {
        const uint32_t wide = at_most(width - column);
        matmul_block_init(weights_cb, values_cb, 0, wide, 1, 1);
        tile_regs_acquire();
        for (uint32_t key = 0; key < count; ++key) {
            matmul_block(weights_cb, values_cb, key, key * width + column, 0, 0, wide, 1, 1);
        }
        pack(wide, sums_cb);
    }
    matmul_block_init(weights_cb, ones_cb, 0, 1, 1, 1);
    tile_regs_acquire();
    for (uint32_t key = 0; key < count; ++key) {
        matmul_block(weights_cb, ones_cb, key, 0, 0, 0, 1, 1, 1);
    }
    pack(1, sums_cb);
    sums.push_back(width + 1);

    // What all parts have summed.
    addends.wait_front((1 + columns) * parts);
    inverse.reserve_back(1);
    tile_regs_acquire();
    add_up(0);
    recip_tile_init();
    recip_tile(0);
    pack(1, inverse_cb);
    inverse.push_back(1);
    inverse.wait_front(1);
    result.reserve_back(columns);
    pack_reconfig_data_format(result_cb);
    for (uint32_t column = 1; column <= columns; ++column) {
        tile_regs_acquire();
        add_up(column * parts);
        reconfig_data_format_srca(inverse_cb);
        copy_init(inverse_cb);
        copy_tile(inverse_cb, 0, 1);
        mul_binary_tile_init();
        mul_binary_tile(0, 1, 0);
        pack(1, result_cb);
    }
    result.push_back(columns);
}
