// Logging for *.cu files: nvcc does not compile the headers of core/base/log.h.
#pragma once

#include <string>

namespace shardit::cuda {

// As LOG_DEBUG.
void LogDebugLine(const std::string& line);

}  // namespace shardit::cuda
