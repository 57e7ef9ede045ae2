// Boxes of tensors: the language in which checkpoints say who holds what. A box is a hyper-rectangle of a row-major
// tensor, in elements, one offset and extent per dim; its own elements are stored row-major. Pure functions; a box
// that leaves its tensor is our mistake (CHECK) except where a Status is returned.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"

namespace shardit {

struct Box {
  std::vector<int64_t> offset;
  std::vector<int64_t> extent;
  bool operator==(const Box&) const = default;
};

Box WholeBox(const std::vector<int64_t>& shape);
bool IsWhole(const std::vector<int64_t>& shape, const Box& box);
int64_t Volume(const Box& box);       // elements
std::string BoxText(const Box& box);  // "[0:3,8:16]", "[]" for a scalar

// nullopt where they share no element.
std::optional<Box> Intersect(const Box& a, const Box& b);

// Walks the elements of `region` (inside both boxes) as the longest runs that are contiguous in the storage of `source`
// and of `target` alike, in ascending order: body(first element in source, first in target, count). Stops at the first
// error and returns it.
absl::Status ForEachRun(const Box& region, const Box& source, const Box& target,
                        absl::FunctionRef<absl::Status(int64_t from, int64_t to, int64_t count)> body);

// Copies the elements that both boxes hold from the storage of one to the storage of the other.
void CopyBox(const Box& source, const float* from, const Box& target, float* to);

// Ok where the boxes cover the shape exactly once; else says where the first hole or overlap is. Every box has the
// shape's rank, lies inside it and is not empty (CHECK). Time n log n in boxes; refuses more than 2^24 box corners.
absl::Status CheckTiling(const std::vector<int64_t>& shape, std::span<const Box> boxes);

// The boxes, at most 2 rank - 1, in order, whose elements are the flat range [begin, end) of a row-major tensor: how a
// rank that owns a range of a flat buffer (ZeRO) names what it owns.
std::vector<Box> BoxesOfFlatRange(const std::vector<int64_t>& shape, int64_t begin, int64_t end);

}  // namespace shardit
