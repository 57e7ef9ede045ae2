// Parameter: a named leaf with its initial values and the way it is cut. Models register parameters in a ParameterList
// while they are built, on meta; memory arrives later, from whoever owns the flat buffers.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/autograd/leaf.h"
#include "core/nn/init.h"
#include "core/nn/shard_spec.h"

namespace shardit {

struct Parameter : Leaf {
  Shape shape;  // as in weight files; value has this shape, or a narrower one where the parameter is cut
  Init init;
  int unit = 0;  // of the model's chain of units (core/nn/parameter_units.h)
  ShardSpec shard;
};

class ParameterList {
 public:
  ParameterList() = default;
  ParameterList(const ParameterList&) = delete;
  ParameterList& operator=(const ParameterList&) = delete;

  // The reference holds as long as the list. Names are unique; `logical_shape` defaults to `shape`, uncut.
  // Parameters added from here on belong to this unit.
  void BeginUnit(int unit) { unit_ = unit; }
  Parameter& Add(std::string name, Shape shape, Init init, ShardSpec shard = {});

  const std::vector<std::unique_ptr<Parameter>>& all() const { return parameters_; }
  size_t size() const { return parameters_.size(); }
  int64_t elements() const;
  // Null when there is none.
  Parameter* Find(std::string_view name) const;

  // Gives every parameter dense memory of its own. For inference and tests; training uses flat buffers.
  void Allocate(Allocator& allocator);
  // Draws every initial value from the seed. Parameters must have memory.
  void Initialize(uint64_t seed);

 private:
  std::vector<std::unique_ptr<Parameter>> parameters_;
  int unit_ = 0;
};

}  // namespace shardit
