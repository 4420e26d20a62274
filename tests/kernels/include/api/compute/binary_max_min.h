// SPDX-License-Identifier: Apache-2.0
// Stands in for ttnn's header of that name, whose functions are written in the vector unit's own C++: see ../../sfpi.h.

#pragma once

#include "api/compute/common_globals.h"

namespace ckernel {

// The templates' arguments, which ours leave as they are, are not declared here.
void binary_max_tile_init();
void binary_max_tile(uint32_t idst0, uint32_t idst1, uint32_t odst);

}  // namespace ckernel
