// SPDX-License-Identifier: Apache-2.0
// Stands in for the kernel compiler's own header of that name, which declares the vector unit. ttnn's headers include it
// everywhere; a kernel that uses the vector unit needs its names declared here.

#pragma once

namespace sfpi {

constexpr int SFPLOADI_MOD0_FLOATB = 0;

}  // namespace sfpi
