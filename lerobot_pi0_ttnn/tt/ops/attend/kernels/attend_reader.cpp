// SPDX-License-Identifier: Apache-2.0
// Brings in this part's keys and values: one core reads the keys, another the values, and hands them to all. See ../attend.py.

#include <cstdint>

#include "api/core_local_mem.h"
#include "api/dataflow/circular_buffer.h"
#include "api/dataflow/dataflow_api.h"
#include "api/dataflow/endpoints.h"
#include "api/dataflow/noc.h"
#include "api/dataflow/noc_semaphore.h"
#include "api/tensor/noc_traits.h"

void kernel_main() {
    const uint32_t begin = get_arg_val<uint32_t>(0);
    const uint32_t count = get_arg_val<uint32_t>(1);
    const uint32_t role = get_arg_val<uint32_t>(2);
    const uint32_t x_start = get_arg_val<uint32_t>(3), y_start = get_arg_val<uint32_t>(4);
    const uint32_t x_end = get_arg_val<uint32_t>(5), y_end = get_arg_val<uint32_t>(6);
    const uint32_t keys_address = get_common_arg_val<uint32_t>(0);
    const uint32_t values_address = get_common_arg_val<uint32_t>(1);
    constexpr uint32_t senders = 7;
    constexpr uint32_t reads_keys = 1, reads_values = 2;

    constexpr uint32_t width = get_compile_time_arg_val(0);
    constexpr uint32_t receivers = get_compile_time_arg_val(1);
    constexpr auto keys_args = TensorAccessorArgs<2>();
    constexpr auto values_args = TensorAccessorArgs<keys_args.next_compile_time_args_offset()>();

    constexpr uint32_t keys_cb = 1, values_cb = 2;
    const uint32_t bytes = get_tile_size(keys_cb), tiles = count * width;
    const auto keys = TensorAccessor(keys_args, keys_address, bytes);
    const auto values = TensorAccessor(values_args, values_address, bytes);
    CircularBuffer key_tiles(keys_cb), value_tiles(values_cb);
    Semaphore<> ready(0), keys_arrived(1), values_arrived(2);
    Noc noc;

    // Nobody sends before all cores run this program: what another one left in their memory is no longer needed then.
    for (uint32_t sender = 0; sender < 2; ++sender) {
        ready.up(
            noc,
            get_arg_val<uint32_t>(senders + 2 * sender),
            get_arg_val<uint32_t>(senders + 2 * sender + 1),
            1);
    }
    key_tiles.reserve_back(tiles);
    value_tiles.reserve_back(tiles);

    const auto hand_on = [&](uint32_t at, Semaphore<>& arrived) {
        ready.wait(receivers);
        noc.async_write_multicast<NocOptions::MCAST_INCL_SRC>(
            CoreLocalMem<uint32_t>(at),
            MulticastEndpoint{},
            tiles * bytes,
            receivers,
            {},
            {.noc_x_start = x_start, .noc_y_start = y_start, .noc_x_end = x_end, .noc_y_end = y_end, .addr = at});
        // It has arrived everywhere before anybody is told.
        noc.async_write_barrier();
        arrived.set(1);
        arrived.set_multicast<NocOptions::MCAST_INCL_SRC>(noc, x_start, y_start, x_end, y_end, receivers);
        noc.async_write_barrier();
    };

    if (role == reads_keys) {
        // All keys' first columns, then all their second ones: what a step of the multiplication takes lies together.
        const uint32_t at = key_tiles.get_write_ptr();
        for (uint32_t key = 0; key < count; ++key) {
            for (uint32_t column = 0; column < width; ++column) {
                noc.async_read(
                    keys,
                    CoreLocalMem<uint32_t>(at + (column * count + key) * bytes),
                    bytes,
                    {.page_id = (begin + key) * width + column},
                    {});
            }
        }
        noc.async_read_barrier();
        hand_on(at, keys_arrived);
    } else if (role == reads_values) {
        const uint32_t at = value_tiles.get_write_ptr();
        for (uint32_t tile = 0; tile < tiles; ++tile) {
            noc.async_read(
                values, CoreLocalMem<uint32_t>(at + tile * bytes), bytes, {.page_id = begin * width + tile}, {});
        }
        noc.async_read_barrier();
        // One of the two is on its way at a time.
        keys_arrived.wait(1);
        hand_on(at, values_arrived);
    }
    keys_arrived.wait(1);
    key_tiles.push_back(tiles);
    values_arrived.wait(1);
    value_tiles.push_back(tiles);
    noc.async_atomic_barrier();
}
