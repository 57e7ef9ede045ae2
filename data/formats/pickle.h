// The pickle format (protocols 2 to 4, as torch.save writes it) over inert values. A pickle is a program that may name
// any function of Python and have it called; here there is nothing to call: a name stays a name (kGlobal) and a call
// becomes a record of what would have been called with what (kObject). Whoever reads the result decides which records
// it understands.
//
// Source: CPython, Lib/pickletools.py.
//
// Takes hostile bytes: time and memory are linear in the input, values, stack and memo are bounded, and errors name the
// byte and the operation. Values may refer to each other in cycles: walk them to a bounded depth only.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace shardit {

constexpr size_t kMaxPickleBytes = size_t{64} << 20;
constexpr size_t kMaxPickleValues = size_t{1} << 20;

struct PickleValue {
  enum class Kind {
    kNone,
    kBool,        // integer: 0 or 1
    kInt,         // integer
    kBigInt,      // text: two's complement, little-endian, more than 8 bytes
    kFloat,       // number
    kText,        // text: a str, or bytes
    kTuple,       // items
    kList,        // items; sets too
    kDict,        // items: key, value, key, value, ...
    kGlobal,      // text: "module name"
    kPersistent,  // items: the one id of an object that lies outside the pickle
    kObject,      // items: callee, arguments, then what was added to it: list items, or keys and values
  };
  using Ref = uint32_t;  // index into Pickle::values

  Kind kind = Kind::kNone;
  int64_t integer = 0;
  double number = 0;
  std::string text;
  std::vector<Ref> items;
};

struct Pickle {
  std::vector<PickleValue> values;  // not empty
  PickleValue::Ref root = 0;
  size_t bytes = 0;  // of the input that this pickle took: the next one begins there

  const PickleValue& at(PickleValue::Ref ref) const { return values[ref]; }
};

// The pickle at the start of `bytes`.
absl::StatusOr<Pickle> ParsePickle(absl::string_view bytes);

}  // namespace shardit
