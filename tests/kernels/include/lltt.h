// SPDX-License-Identifier: Apache-2.0
// Stands in for the kernel compiler's own header of that name: what ttnn's headers use of it, declared, so that a kernel can
// be checked. Nothing is compiled with it.

#pragma once

#include <cstdint>

namespace lltt {

enum ExecBool : bool { NoExec, Exec };

template <ExecBool = NoExec>
void record(std::uint32_t start, std::uint32_t length);
void replay(std::uint32_t start, std::uint32_t length);
constexpr std::uint32_t replay_insn(std::uint32_t start, std::uint32_t length) { return start + length; }

}  // namespace lltt
