// What tests want of GPUs, and what they say where it is not there.
#pragma once

#include <string>

#include "absl/strings/str_cat.h"
#include "core/cuda/device_query.h"
#include "gtest/gtest.h"

namespace shardit {

#ifdef SHARDIT_CUDA_EMULATION
inline constexpr bool kOnEmulator = true;
#else
inline constexpr bool kOnEmulator = false;
#endif

// Why a test for so many GPUs cannot run here, to skip it with; empty: it can. The emulator has as many as it is told
// to: there too few are a failure, for nothing that can be tested must look as if it could not.
inline std::string MissingGpus(int wanted = 1) {
  const int found = static_cast<int>(cuda::Devices().size());
  if (found >= wanted) return "";
  if (kOnEmulator) ADD_FAILURE() << "set SHARDIT_CUDA_EMULATOR_DEVICES=4";
  return absl::StrCat("wants ", wanted, wanted == 1 ? " GPU" : " GPUs", ", found ", found);
}

}  // namespace shardit

// In a test or SetUp: skips it where the GPUs that it wants are not there.
#define SKIP_WITHOUT_GPUS(wanted) \
  if (const std::string missing = ::shardit::MissingGpus(wanted); !missing.empty()) GTEST_SKIP() << missing
