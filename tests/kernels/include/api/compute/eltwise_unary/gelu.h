// SPDX-License-Identifier: Apache-2.0
// Stands in for ttnn's header of that name, whose functions are written in the vector unit's own C++: see ../../../sfpi.h.

#pragma once

#include "api/compute/common_globals.h"

namespace ckernel {

template <bool fast = false>
void gelu_tanh_tile_init();
template <bool is_fp32_dest_acc_en = DST_ACCUM_MODE, bool fast = false>
void gelu_tanh_tile(uint32_t idst);

}  // namespace ckernel
