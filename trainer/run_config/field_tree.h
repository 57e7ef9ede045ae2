// What descriptors know about a configuration message: fields by dotted path, their types, ranges, defaults and resume
// rules. Pure functions of the message; nothing here names a field. Lists (repeated fields) are known where it is said.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "configs/run_config.pb.h"
#include "google/protobuf/message.h"

namespace shardit {

// One number, boolean, string or enum of a configuration, with its place.
struct ConfigField {
  std::string path;  // "train.steps"
  const google::protobuf::FieldDescriptor* field = nullptr;
  config::ResumeRule resume = config::FROZEN;
};

// Every leaf field below `root`, in declaration order.
std::vector<ConfigField> ConfigFields(const google::protobuf::Descriptor& root);

// What the field takes, for error messages: "an integer", "one of FP32, TF32, BF16", ...
std::string DescribeType(const google::protobuf::FieldDescriptor& field);

// The end of an error about `name`, which is no field of `message`: the nearest field of the tree below `root` by edit
// distance, preferring siblings, or else the names that `message` has. `prefix` is the path of `message`.
std::string SuggestField(const google::protobuf::Descriptor& root, const google::protobuf::Descriptor& message,
                         const std::string& prefix, const std::string& name);

// Value in text format without quotes; numbers in shortest round-trip form; the default where unset.
std::string FieldText(const google::protobuf::Message& root, const ConfigField& field);

// True when the field itself (not only its section) is set.
bool IsSet(const google::protobuf::Message& root, const ConfigField& field);

// Applies "a.b=value"; lists are not to be set so. InvalidArgument names path, expectation and value.
absl::Status SetField(const std::string& assignment, google::protobuf::Message* root);

// Checks the range of every field that is set, lists and what is in them included ("grid[0].patch[1]"). InvalidArgument
// names the first one outside.
absl::Status CheckRanges(const google::protobuf::Message& root);

// Sets every unset field that has a default in its declaration, at any depth.
void FillDefaults(google::protobuf::Message* message);

// Safe to print on a terminal: control characters escaped, cut to 80 bytes.
std::string PrintableName(const std::string& name);

}  // namespace shardit
