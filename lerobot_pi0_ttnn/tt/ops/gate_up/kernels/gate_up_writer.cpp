// SPDX-License-Identifier: Apache-2.0
// Hands x to all cores, shard by shard, then puts this core's columns of the product where they belong. See ../gate_up.py.

#include <cstdint>

#include "api/core_local_mem.h"
#include "api/dataflow/circular_buffer.h"
#include "api/dataflow/dataflow_api.h"
#include "api/dataflow/endpoints.h"
#include "api/dataflow/noc.h"
#include "api/dataflow/noc_semaphore.h"
#include "api/tensor/noc_traits.h"

void kernel_main() {
    const uint32_t column_begin = get_arg_val<uint32_t>(0);
    const uint32_t column_end = get_arg_val<uint32_t>(1);
    const uint32_t own_shard = get_arg_val<uint32_t>(2);
    const uint32_t x_address = get_common_arg_val<uint32_t>(0);
    const uint32_t product_address = get_common_arg_val<uint32_t>(1);
    const uint32_t x_start = get_common_arg_val<uint32_t>(2), y_start = get_common_arg_val<uint32_t>(3);
    const uint32_t x_end = get_common_arg_val<uint32_t>(4), y_end = get_common_arg_val<uint32_t>(5);
    constexpr uint32_t senders = 6;

    constexpr uint32_t shards = get_compile_time_arg_val(0);
    constexpr uint32_t shard_tiles = get_compile_time_arg_val(1);
    constexpr uint32_t rows = get_compile_time_arg_val(2);
    constexpr uint32_t columns = get_compile_time_arg_val(3);
    constexpr uint32_t receivers = get_compile_time_arg_val(4);
    constexpr auto product_args = TensorAccessorArgs<5>();

    constexpr uint32_t x_cb = 0, product_cb = 16;
    const uint32_t shard_bytes = shard_tiles * get_tile_size(x_cb), bytes = get_tile_size(product_cb);
    const auto product = TensorAccessor(product_args, product_address, bytes);
    CircularBuffer x(x_cb), products(product_cb);
    Semaphore<> ready(shards);
    Noc noc;

    // Nobody sends before all cores run this program: what another one left in their memory is no longer needed then.
    for (uint32_t shard = 0; shard < shards; ++shard) {
        ready.up(
            noc,
            get_common_arg_val<uint32_t>(senders + 2 * shard),
            get_common_arg_val<uint32_t>(senders + 2 * shard + 1),
            1);
    }
    for (uint32_t shard = 0; shard < shards; ++shard) {
        Semaphore<> arrived(shard);
        x.reserve_back(shard_tiles);
        if (shard == own_shard) {
            // One shard at a time is on its way: this core has waited for the one before.
            ready.wait(receivers);
            noc.async_write_multicast<NocOptions::MCAST_INCL_SRC>(
                CoreLocalMem<uint32_t>(x_address),
                MulticastEndpoint{},
                shard_bytes,
                receivers,
                {},
                {.noc_x_start = x_start,
                 .noc_y_start = y_start,
                 .noc_x_end = x_end,
                 .noc_y_end = y_end,
                 .addr = x.get_write_ptr()});
            // It has arrived everywhere before anybody is told.
            noc.async_write_barrier();
            arrived.set(1);
            arrived.set_multicast<NocOptions::MCAST_INCL_SRC>(noc, x_start, y_start, x_end, y_end, receivers);
            noc.async_write_barrier();
        }
        arrived.wait(1);
        x.push_back(shard_tiles);
    }
    noc.async_atomic_barrier();

    for (uint32_t column = column_begin; column < column_end; ++column) {
        products.wait_front(rows);
        const uint32_t from = products.get_read_ptr();
        for (uint32_t row = 0; row < rows; ++row) {
            noc.async_write(
                CoreLocalMem<uint32_t>(from + row * bytes), product, bytes, {}, {.page_id = row * columns + column});
        }
        noc.async_write_barrier();
        products.pop_front(rows);
    }
}
