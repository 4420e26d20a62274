// SPDX-License-Identifier: Apache-2.0
// Stands in for newlib's header of that name, which a header of ttnn includes.

#pragma once

#include <stdint.h>
