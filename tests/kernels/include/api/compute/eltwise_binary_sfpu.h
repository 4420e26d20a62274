// SPDX-License-Identifier: Apache-2.0
// Stands in for ttnn's header of that name, whose functions are written in the vector unit's own C++: see ../../sfpi.h.

#pragma once

#include "api/compute/common_globals.h"

namespace ckernel {

// How results are rounded, which ours leave as it is, is not declared here.
void add_binary_tile_init();
void add_binary_tile(uint32_t idst0, uint32_t idst1, uint32_t odst);
void sub_binary_tile_init();
void sub_binary_tile(uint32_t idst0, uint32_t idst1, uint32_t odst);
void mul_binary_tile_init();
void mul_binary_tile(uint32_t idst0, uint32_t idst1, uint32_t odst);

}  // namespace ckernel
