// Fatal(message): prints "CUDA emulator: message" on stderr and aborts. What a GPU would punish, or silently get wrong,
// ends a test here.
#pragma once

#include <string>

namespace cuda_emulator {

[[noreturn]] void Fatal(const std::string& message);

}  // namespace cuda_emulator
