// SPDX-License-Identifier: Apache-2.0
// Brings in every second block of the inner dimension by one of the two networks; the other one does by another core's other
// processor, with this same source. Of x a core of the group reads the block and hands it to the whole group; of the weight one
// group's cores read it, and each hands it to the core in its place in the other groups. See ../group_matmul.py.

#include <cstdint>

#include "api/core_local_mem.h"
#include "api/dataflow/circular_buffer.h"
#include "api/dataflow/dataflow_api.h"
#include "api/dataflow/endpoints.h"
#include "api/dataflow/noc.h"
#include "api/dataflow/noc_semaphore.h"
#include "api/tensor/noc_traits.h"

void kernel_main() {
    const uint32_t worker = get_arg_val<uint32_t>(0);
    const uint32_t group = get_arg_val<uint32_t>(1);
    const uint32_t row_begin = get_arg_val<uint32_t>(2);
    const uint32_t rows = get_arg_val<uint32_t>(3);
    const uint32_t x_start = get_arg_val<uint32_t>(4), y_start = get_arg_val<uint32_t>(5);
    const uint32_t x_end = get_arg_val<uint32_t>(6), y_end = get_arg_val<uint32_t>(7);
    constexpr uint32_t columns_at = 8;
    const uint32_t x_address = get_common_arg_val<uint32_t>(0);
    const uint32_t weight_address = get_common_arg_val<uint32_t>(1);
    const uint32_t stream_address = get_common_arg_val<uint32_t>(2);
    const uint32_t result_address = get_common_arg_val<uint32_t>(3);

    constexpr uint32_t network = get_compile_time_arg_val(0);
    constexpr uint32_t inner = get_compile_time_arg_val(1);
    constexpr uint32_t block = get_compile_time_arg_val(2);
    constexpr uint32_t high = get_compile_time_arg_val(3);
    constexpr uint32_t wide = get_compile_time_arg_val(4);
    constexpr uint32_t all_columns = get_compile_time_arg_val(5);
    constexpr uint32_t groups = get_compile_time_arg_val(6);
    constexpr uint32_t workers = get_compile_time_arg_val(7);
    constexpr uint32_t senders = get_compile_time_arg_val(8);
    constexpr uint32_t passes = get_compile_time_arg_val(9);
    constexpr bool adds = get_compile_time_arg_val(10) != 0;
    constexpr auto x_args = TensorAccessorArgs<11>();
    constexpr auto weight_args = TensorAccessorArgs<x_args.next_compile_time_args_offset()>();
    constexpr auto stream_args = TensorAccessorArgs<weight_args.next_compile_time_args_offset()>();
    constexpr auto result_args = TensorAccessorArgs<stream_args.next_compile_time_args_offset()>();
    constexpr uint32_t partners_at = columns_at + 2 * passes, senders_at = partners_at + 2 * groups;
    constexpr uint32_t networks = 2, blocks = (inner + block - 1) / block, turns = passes * blocks;

    constexpr uint32_t x_cb = network, weight_cb = 2 + network, staged_cb = 4, stream_cb = 6, result_cb = 16;
    const uint32_t x_bytes = get_tile_size(x_cb), weight_bytes = get_tile_size(weight_cb), bytes = get_tile_size(result_cb);
    const auto x = TensorAccessor(x_args, x_address, x_bytes);
    const auto weight = TensorAccessor(weight_args, weight_address, weight_bytes);
    CircularBuffer x_tiles(x_cb), weight_tiles(weight_cb), staged(staged_cb);
    Semaphore<> x_ready(4 * network), x_arrived(4 * network + 1);
    Semaphore<> weight_ready(4 * network + 2), weight_arrived(4 * network + 3);
    Noc noc;

    // What this core hands on next is read while others hand on theirs.
    const uint32_t staged_at = staged.get_write_ptr();
    auto stage = [&](uint32_t turn) {
        const uint32_t first = turn % blocks * block, count = inner - first < block ? inner - first : block;
        for (uint32_t row = 0; row < rows; ++row) {
            const uint32_t page = (row_begin + row) * inner + first;
            for (uint32_t tile = 0; tile < count; ++tile) {
                noc.async_read(
                    x, CoreLocalMem<uint32_t>(staged_at + (row * block + tile) * x_bytes), x_bytes, {.page_id = page + tile}, {});
            }
        }
    };
    uint32_t own = worker < senders && worker % networks == network ? worker : turns;
    if (own < turns) {
        stage(own);
    }

    CircularBuffer stream_tiles(stream_cb), results(result_cb);
    auto read_stream = [&](uint32_t pass) {
        const uint32_t column_begin = get_arg_val<uint32_t>(columns_at + 2 * pass);
        const uint32_t columns = get_arg_val<uint32_t>(columns_at + 2 * pass + 1);
        const uint32_t stream_bytes = get_tile_size(stream_cb);
        const auto stream = TensorAccessor(stream_args, stream_address, stream_bytes);
        stream_tiles.reserve_back(high * wide);
        uint32_t to = stream_tiles.get_write_ptr();
        for (uint32_t row = row_begin; row < row_begin + rows; ++row) {
            for (uint32_t column = column_begin; column < column_begin + columns; ++column) {
                noc.async_read(stream, CoreLocalMem<uint32_t>(to), stream_bytes, {.page_id = row * all_columns + column}, {});
                to += stream_bytes;
            }
        }
        noc.async_read_barrier();
        stream_tiles.push_back(high * wide);
    };
    auto write_results = [&](uint32_t pass) {
        const uint32_t column_begin = get_arg_val<uint32_t>(columns_at + 2 * pass);
        const uint32_t columns = get_arg_val<uint32_t>(columns_at + 2 * pass + 1);
        const auto result = TensorAccessor(result_args, result_address, bytes);
        for (uint32_t row = row_begin; row < row_begin + rows; ++row) {
            for (uint32_t column = column_begin; column < column_begin + columns; ++column) {
                results.wait_front(1);
                noc.async_write(
                    CoreLocalMem<uint32_t>(results.get_read_ptr()), result, bytes, {}, {.page_id = row * all_columns + column});
                noc.async_writes_flushed();
                results.pop_front(1);
            }
        }
    };

    uint32_t handed = 0;
    for (uint32_t turn = network; turn < turns; turn += networks) {
        const uint32_t pass = turn / blocks, number = turn % blocks;
        const uint32_t column_begin = get_arg_val<uint32_t>(columns_at + 2 * pass);
        const uint32_t columns = get_arg_val<uint32_t>(columns_at + 2 * pass + 1);
        // Nobody sends before all who are to receive have room, and have waited for the block before.
        x_tiles.reserve_back(high * block);
        const uint32_t sender = senders_at + 2 * (turn % senders);
        x_ready.up(noc, get_arg_val<uint32_t>(sender), get_arg_val<uint32_t>(sender + 1), 1);
        weight_tiles.reserve_back(block * wide);
        const uint32_t weight_at = weight_tiles.get_write_ptr();
        const uint32_t reader = turn / networks % groups;
        if (reader == group) {
            const uint32_t first = number * block, count = inner - first < block ? inner - first : block;
            for (uint32_t tile = 0; tile < count; ++tile) {
                const uint32_t page = (first + tile) * all_columns + column_begin, to = weight_at + tile * wide * weight_bytes;
                for (uint32_t column = 0; column < columns; ++column) {
                    noc.async_read(
                        weight,
                        CoreLocalMem<uint32_t>(to + column * weight_bytes),
                        weight_bytes,
                        {.page_id = page + column},
                        {});
                }
            }
        } else {
            const uint32_t partner = partners_at + 2 * reader;
            weight_ready.up(noc, get_arg_val<uint32_t>(partner), get_arg_val<uint32_t>(partner + 1), 1);
        }

        const bool sends = turn == own;
        if (sends) {
            noc.async_read_barrier();
            x_ready.wait(workers);
            x_ready.set(0);
            noc.async_write_multicast<NocOptions::MCAST_INCL_SRC>(
                CoreLocalMem<uint32_t>(staged_at),
                MulticastEndpoint{},
                rows * block * x_bytes,
                workers,
                {},
                {.noc_x_start = x_start,
                 .noc_y_start = y_start,
                 .noc_x_end = x_end,
                 .noc_y_end = y_end,
                 .addr = x_tiles.get_write_ptr()});
            // It has arrived everywhere before anybody is told.
            noc.async_write_barrier();
            x_arrived.set(turn + 1);
            x_arrived.set_multicast<NocOptions::MCAST_INCL_SRC>(noc, x_start, y_start, x_end, y_end, workers);
            noc.async_write_barrier();
        }

        if (reader == group) {
            noc.async_read_barrier();
            if constexpr (groups > 1) {
                weight_ready.wait(groups - 1);
                weight_ready.set(0);
                for (uint32_t other = 0; other < groups; ++other) {
                    if (other != group) {
                        const uint32_t partner = partners_at + 2 * other;
                        noc.async_write(
                            CoreLocalMem<uint32_t>(weight_at),
                            UnicastEndpoint{},
                            block * wide * weight_bytes,
                            {},
                            {.noc_x = get_arg_val<uint32_t>(partner),
                             .noc_y = get_arg_val<uint32_t>(partner + 1),
                             .addr = weight_at});
                    }
                }
                noc.async_write_barrier();
                for (uint32_t other = 0; other < groups; ++other) {
                    if (other != group) {
                        const uint32_t partner = partners_at + 2 * other;
                        weight_arrived.up(noc, get_arg_val<uint32_t>(partner), get_arg_val<uint32_t>(partner + 1), 1);
                    }
                }
            }
        } else {
            weight_arrived.wait(++handed);
        }
        weight_tiles.push_back(block * wide);
        if (sends) {
            own += senders;
            if (own < turns) {
                stage(own);
            }
        }
        x_arrived.wait(turn + 1);
        x_tiles.push_back(high * block);

        // The last of this network's blocks in a pass, and the second one in the next: while those in hand are multiplied.
        if constexpr (adds && network == 0) {
            if (number + networks >= blocks) {
                read_stream(pass);
            }
        }
        if constexpr (network == 1) {
            if (pass > 0 && number / networks == 1) {
                write_results(pass - 1);
            }
        }
    }

    if constexpr (network == 1) {
        write_results(passes - 1);
        noc.async_write_barrier();
    }
    noc.async_atomic_barrier();
}
