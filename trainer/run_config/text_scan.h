// First look at configuration text from outside, before the protocol buffer parser sees it: bounds its size and nesting
// (the parser's recursion would otherwise overflow the stack) and finds fields that do not exist, by full path.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "google/protobuf/message.h"

namespace shardit {

inline constexpr size_t kMaxConfigBytes = size_t{8} << 20;
inline constexpr int kMaxConfigDepth = 64;

// Replaces *message by the text. `name` begins every error ("configs/a.textproto:3:12: ..."; lines and columns from 1).
// InvalidArgument when the text is too long or too deep, names an unknown field (the nearest one is suggested), has a
// value of the wrong type or is no text format at all.
absl::Status ParseConfigText(const std::string& text, const std::string& name, google::protobuf::Message* message);

// The message as text that ParseConfigText reads back.
std::string PrintConfigText(const google::protobuf::Message& message);

}  // namespace shardit
