#include "core/cuda/log_line.h"

#include "core/base/log.h"

namespace shardit::cuda {

void LogDebugLine(const std::string& line) { LOG_DEBUG("{}", line); }

}  // namespace shardit::cuda
