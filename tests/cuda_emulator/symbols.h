// Names of functions of this program, from its symbol table.
#pragma once

#include <string>

namespace cuda_emulator {

// The demangled name, or the address where the program has no symbols.
std::string KernelName(const void* kernel);

}  // namespace cuda_emulator
