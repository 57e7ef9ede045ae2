#include "core/nn/parameter.h"

#include <utility>

namespace shardit {

Parameter& ParameterList::Add(std::string name, Shape shape, Init init, ShardSpec shard) {
  CHECK(Find(name) == nullptr) << "two parameters named " << name;
  if (shard.logical_shape.ndim() == 0) shard.logical_shape = shape;
  CHECK_EQ(shard.logical_shape.elements(), shape.elements());
  auto parameter = std::make_unique<Parameter>();
  parameter->name = std::move(name);
  parameter->value = Tensor::Meta(shape);
  parameter->shape = shape;
  parameter->init = init;
  parameter->unit = unit_;
  parameter->shard = shard;
  parameters_.push_back(std::move(parameter));
  return *parameters_.back();
}

int64_t ParameterList::elements() const {
  int64_t total = 0;
  for (const auto& parameter : parameters_) total += parameter->shape.elements();
  return total;
}

Parameter* ParameterList::Find(std::string_view name) const {
  for (const auto& parameter : parameters_) {
    if (parameter->name == name) return parameter.get();
  }
  return nullptr;
}

void ParameterList::Allocate(Allocator& allocator) {
  for (const auto& parameter : parameters_) parameter->value = Tensor::Empty(allocator, parameter->shape);
}

void ParameterList::Initialize(uint64_t seed) {
  for (const auto& parameter : parameters_) {
    FillInitial(parameter->init, seed, parameter->name, 0, parameter->shape.elements(), parameter->value.data());
  }
}

}  // namespace shardit
