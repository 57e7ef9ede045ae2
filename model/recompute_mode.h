// What a block of the model drops in forward and computes again in backward.
#pragma once

#include <cstdint>

namespace shardit {

enum class RecomputeMode : uint8_t {
  kNone,
  kSelective,  // the MLP's hidden tensors: 8 D of a block's 18 D saved elements a token
  kFull,       // everything inside a block: only its inputs stay
};

}  // namespace shardit
