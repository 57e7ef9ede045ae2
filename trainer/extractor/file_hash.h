// SHA-256 of files: how reports name the weights that a score was taken with.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace shardit {

// 64 lower-case hexadecimal digits, as sha256sum prints them. Reads the file once, a piece at a time.
absl::StatusOr<std::string> Sha256OfFile(const std::string& path);

}  // namespace shardit
