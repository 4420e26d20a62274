// SPDX-License-Identifier: Apache-2.0
// Stands in for ttnn's header of that name, whose functions are written in the vector unit's own C++: see ../../sfpi.h.

#pragma once

#include "api/compute/common_globals.h"

namespace ckernel {

void add_binary_tile_init();
template <DstRoundingMode dst_rounding_mode = DstRoundingMode::Default, bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
void add_binary_tile(uint32_t idst0, uint32_t idst1, uint32_t odst);
void sub_binary_tile_init();
template <DstRoundingMode dst_rounding_mode = DstRoundingMode::Default, bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
void sub_binary_tile(uint32_t idst0, uint32_t idst1, uint32_t odst);
void mul_binary_tile_init();
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE>
void mul_binary_tile(uint32_t idst0, uint32_t idst1, uint32_t odst);

}  // namespace ckernel
