// For the stand-ins of a build without CUDA code (*_none.cc).
#pragma once

#include "core/base/check.h"

namespace shardit::cuda {

[[noreturn]] inline void Unavailable() {
  CHECK(false) << "this build has no CUDA code: ask Devices() first";
  __builtin_unreachable();
}

}  // namespace shardit::cuda
