// SPDX-License-Identifier: Apache-2.0
// Rotates tile by tile: x * cos + swapped * sin, summed in float32 before it is rounded once. See ../split_heads.py.

#include <cstdint>

#include "api/compute/common.h"
#include "api/compute/compute_kernel_hw_startup.h"
#include "api/compute/eltwise_binary.h"
#include "api/compute/pack.h"
#include "api/dataflow/circular_buffer.h"

void kernel_main() {
    const uint32_t tiles = get_arg_val<uint32_t>(0);

    constexpr uint32_t x_cb = 0, swapped_cb = 1, cos_cb = 2, sin_cb = 3, rotated_cb = 16;
    CircularBuffer x(x_cb), swapped(swapped_cb), cos(cos_cb), sin(sin_cb), rotated(rotated_cb);

    compute_kernel_hw_startup(x_cb, cos_cb, rotated_cb);
    mul_init(x_cb, cos_cb);
    for (uint32_t tile = 0; tile < tiles; ++tile) {
        x.wait_front(1);
        swapped.wait_front(1);
        cos.wait_front(1);
        sin.wait_front(1);
        rotated.reserve_back(1);
        tile_regs_acquire();
        mul_tiles(x_cb, cos_cb, 0, 0, 0);
        // Multiplication adds to what the register holds.
        mul_tiles(swapped_cb, sin_cb, 0, 0, 0);
        tile_regs_commit();
        tile_regs_wait();
        pack_tile(0, rotated_cb);
        tile_regs_release();
        x.pop_front(1);
        swapped.pop_front(1);
        cos.pop_front(1);
        sin.pop_front(1);
        rotated.push_back(1);
    }
}
