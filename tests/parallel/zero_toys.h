// Toy parameters for the tests of data sharding.
#pragma once

#include <string>
#include <vector>

#include "core/nn/parameter.h"

namespace shardit {

struct ToySpec {
  int64_t elements = 0;
  int unit = 0;
  bool per_token = false;
};

// Owns meta parameters p0, p1, ... in order of registration.
class ToyParameters {
 public:
  explicit ToyParameters(const std::vector<ToySpec>& specs) {
    for (size_t i = 0; i < specs.size(); ++i) {
      list_.BeginUnit(specs[i].unit);
      pointers_.push_back(
          &list_.Add("p" + std::to_string(i), {specs[i].elements}, Init::Zero(), {.per_token = specs[i].per_token}));
    }
  }
  const std::vector<Parameter*>& all() const { return pointers_; }
  size_t size() const { return pointers_.size(); }
  Parameter& operator[](size_t i) const { return *pointers_[i]; }

 private:
  ParameterList list_;
  std::vector<Parameter*> pointers_;
};

// Sizes that need padding, blocks of several cuts, and one element.
inline std::vector<ToySpec> UnevenSpecs() {
  return {{.elements = 1000, .unit = 0},
          {.elements = 257, .unit = 0, .per_token = true},
          {.elements = 3001, .unit = 1},
          {.elements = 40, .unit = 1, .per_token = true},
          {.elements = 512, .unit = 1},
          {.elements = 5000, .unit = 2},
          {.elements = 1, .unit = 2, .per_token = true},
          {.elements = 255, .unit = 2},
          {.elements = 700, .unit = 3, .per_token = true}};
}

}  // namespace shardit
