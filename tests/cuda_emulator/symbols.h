// What the program's symbol table says of a kernel. A program without symbols only has fewer answers.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace cuda_emulator {

// The demangled name, or the address.
std::string KernelName(const void* kernel);

// The calling host thread's copies of the __shared__ variables declared in the kernel itself (not in functions that it
// calls).
std::vector<std::span<char>> SharedVariables(const void* kernel);

}  // namespace cuda_emulator
