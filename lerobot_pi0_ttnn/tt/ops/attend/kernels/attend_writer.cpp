// SPDX-License-Identifier: Apache-2.0
// Brings in queries and mask, exchanges maxima and sums with the cores that have the same queries, and puts the columns that this
// core has put together where they belong. See ../attend.py.

#include <cstdint>

#include "api/core_local_mem.h"
#include "api/dataflow/circular_buffer.h"
#include "api/dataflow/dataflow_api.h"
#include "api/dataflow/endpoints.h"
#include "api/dataflow/noc.h"
#include "api/dataflow/noc_semaphore.h"
#include "api/tensor/noc_traits.h"

constexpr uint32_t peers = 6;

FORCE_INLINE uint32_t peer_x(uint32_t peer) { return get_arg_val<uint32_t>(peers + 2 * peer); }
FORCE_INLINE uint32_t peer_y(uint32_t peer) { return get_arg_val<uint32_t>(peers + 2 * peer + 1); }

// Sends so many bytes to the same place in another core's memory, or in this one's.
FORCE_INLINE void send(const Noc& noc, uint32_t from, uint32_t bytes, uint32_t peer, uint32_t to) {
    noc.async_write(
        CoreLocalMem<uint32_t>(from),
        UnicastEndpoint{},
        bytes,
        {},
        {.noc_x = peer_x(peer), .noc_y = peer_y(peer), .addr = to});
}

void kernel_main() {
    const uint32_t head = get_arg_val<uint32_t>(0);
    const uint32_t row = get_arg_val<uint32_t>(1);
    const uint32_t begin = get_arg_val<uint32_t>(2);
    const uint32_t count = get_arg_val<uint32_t>(3);
    const uint32_t part = get_arg_val<uint32_t>(4);
    const uint32_t columns = get_arg_val<uint32_t>(5);
    const uint32_t queries_address = get_common_arg_val<uint32_t>(0);
    const uint32_t mask_address = get_common_arg_val<uint32_t>(1);
    const uint32_t result_address = get_common_arg_val<uint32_t>(2);

    constexpr uint32_t rows = get_compile_time_arg_val(0);
    constexpr uint32_t width = get_compile_time_arg_val(1);
    constexpr uint32_t keys = get_compile_time_arg_val(2);
    constexpr uint32_t parts = get_compile_time_arg_val(3);
    constexpr auto queries_args = TensorAccessorArgs<4>();
    constexpr auto mask_args = TensorAccessorArgs<queries_args.next_compile_time_args_offset()>();
    constexpr auto result_args = TensorAccessorArgs<mask_args.next_compile_time_args_offset()>();

    constexpr uint32_t queries_cb = 0, mask_cb = 3, scaler_cb = 4, ones_cb = 5;
    constexpr uint32_t maximum_cb = 8, maxima_cb = 9, sums_cb = 12, addends_cb = 13, result_cb = 16;
    const uint32_t bytes = get_tile_size(queries_cb), sum_bytes = get_tile_size(sums_cb);
    const auto queries = TensorAccessor(queries_args, queries_address, bytes);
    const auto mask = TensorAccessor(mask_args, mask_address, bytes);
    const auto result = TensorAccessor(result_args, result_address, bytes);
    CircularBuffer query_tiles(queries_cb), mask_tiles(mask_cb), scaler(scaler_cb), ones(ones_cb);
    CircularBuffer maximum(maximum_cb), maxima(maxima_cb), sums(sums_cb), addends(addends_cb), results(result_cb);
    Semaphore<> ready(3), maxima_arrived(4), sums_arrived(5);
    Noc noc;

    for (uint32_t peer = 0; peer < parts; ++peer) {
        ready.up(noc, peer_x(peer), peer_y(peer), 1);
    }
    const uint32_t first = (head * rows + row) * width;
    query_tiles.reserve_back(width);
    for (uint32_t column = 0; column < width; ++column) {
        noc.async_read(
            queries,
            CoreLocalMem<uint32_t>(query_tiles.get_write_ptr() + column * bytes),
            bytes,
            {.page_id = first + column},
            {});
    }
    mask_tiles.reserve_back(count);
    for (uint32_t key = 0; key < count; ++key) {
        noc.async_read(
            mask,
            CoreLocalMem<uint32_t>(mask_tiles.get_write_ptr() + key * bytes),
            bytes,
            {.page_id = row * keys + begin + key},
            {});
    }
    noc.async_read_barrier();
    query_tiles.push_back(width);
    mask_tiles.push_back(count);

    // Two numbers of bfloat16 a word: 1.0. What scales a maximum is the first row of each of four faces.
    constexpr uint32_t one = 0x3F803F80, face = 128, line = 8;
    scaler.reserve_back(1);
    ones.reserve_back(1);
    auto* scales = reinterpret_cast<volatile tt_l1_ptr uint32_t*>(scaler.get_write_ptr());
    auto* tile = reinterpret_cast<volatile tt_l1_ptr uint32_t*>(ones.get_write_ptr());
    for (uint32_t word = 0; word < 4 * face; ++word) {
        scales[word] = word % face < line ? one : 0;
        tile[word] = one;
    }
    scaler.push_back(1);
    ones.push_back(1);

    // The same places on each core.
    const uint32_t maxima_at = maxima.get_write_ptr(), addends_at = addends.get_write_ptr();
    maxima.reserve_back(parts);
    maximum.wait_front(1);
    // Nobody sends to a core that does not run this program yet: what another one left in its memory is no longer needed then.
    ready.wait(parts);
    for (uint32_t peer = 0; peer < parts; ++peer) {
        send(noc, maximum.get_read_ptr(), bytes, peer, maxima_at + part * bytes);
    }
    noc.async_write_barrier();
    for (uint32_t peer = 0; peer < parts; ++peer) {
        maxima_arrived.up(noc, peer_x(peer), peer_y(peer), 1);
    }
    maxima_arrived.wait(parts);
    maxima.push_back(parts);

    // Sums of weights go to all, those of values to the core that puts their column together.
    addends.reserve_back((1 + columns) * parts);
    sums.wait_front(width + 1);
    const uint32_t from = sums.get_read_ptr();
    for (uint32_t peer = 0; peer < parts; ++peer) {
        send(noc, from + width * sum_bytes, sum_bytes, peer, addends_at + part * sum_bytes);
    }
    for (uint32_t column = 0; column < width; ++column) {
        const uint32_t slot = (1 + column / parts) * parts + part;
        send(noc, from + column * sum_bytes, sum_bytes, column % parts, addends_at + slot * sum_bytes);
    }
    noc.async_write_barrier();
    for (uint32_t peer = 0; peer < parts; ++peer) {
        sums_arrived.up(noc, peer_x(peer), peer_y(peer), 1);
    }
    sums_arrived.wait(parts);
    addends.push_back((1 + columns) * parts);

    results.wait_front(columns);
    for (uint32_t column = 0; column < columns; ++column) {
        noc.async_write(
            CoreLocalMem<uint32_t>(results.get_read_ptr() + column * bytes),
            result,
            bytes,
            {},
            {.page_id = first + part + column * parts});
    }
    noc.async_write_barrier();
    noc.async_atomic_barrier();
}
