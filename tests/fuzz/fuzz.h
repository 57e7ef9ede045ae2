// A fuzz target: one function that feeds any bytes to one parser, in libFuzzer's form, so that clang's fuzzer can take
// it as it is; and a driver (driver.cc) for machines without it. A target returns 0; what must not happen (a crash, a
// sanitizer's report, a property that does not hold: CHECK) ends the process.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace shardit::fuzz {

// Files or folders (their files) of good inputs, from the root of the repository. Every target defines it.
extern const std::vector<std::string> kCorpus;

inline std::string Text(const uint8_t* data, size_t size) { return {reinterpret_cast<const char*>(data), size}; }

// Path of a file of this process with just these bytes, for parsers that open files; `slot` tells several apart. Under
// the driver's folder, which it removes.
std::string InputFile(const std::string& bytes, int slot = 0);
// Where a target may write, in the same folder.
std::string OutputPath();

}  // namespace shardit::fuzz
