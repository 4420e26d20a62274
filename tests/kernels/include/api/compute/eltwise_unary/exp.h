// SPDX-License-Identifier: Apache-2.0
// Stands in for ttnn's header of that name, whose functions are written in the vector unit's own C++: see ../../../sfpi.h.

#pragma once

#include "api/compute/common_globals.h"

namespace ckernel {

// The templates' arguments, which ours leave as they are, are not declared here.
void exp_tile_init();
void exp_tile(uint32_t idst);

}  // namespace ckernel
