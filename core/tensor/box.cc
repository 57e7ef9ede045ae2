#include "core/tensor/box.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/check.h"
#include "core/base/math.h"

namespace shardit {
namespace {

constexpr uint64_t kMaxCorners = 1 << 24;

// Row-major strides, in elements.
std::vector<int64_t> Strides(const std::vector<int64_t>& extent) {
  std::vector<int64_t> strides(extent.size(), 1);
  for (size_t d = extent.size(); d-- > 1;) strides[d - 1] = strides[d] * extent[d];
  return strides;
}

bool Contains(const Box& outer, const Box& inner) {
  if (outer.offset.size() != inner.offset.size()) return false;
  for (size_t d = 0; d < outer.offset.size(); ++d) {
    if (inner.offset[d] < outer.offset[d]) return false;
    if (inner.offset[d] + inner.extent[d] > outer.offset[d] + outer.extent[d]) return false;
  }
  return true;
}

// Index of the element at `position` in the storage of `box`.
int64_t FlatIndex(const std::vector<int64_t>& position, const Box& box, const std::vector<int64_t>& strides) {
  int64_t index = 0;
  for (size_t d = 0; d < position.size(); ++d) index += (position[d] - box.offset[d]) * strides[d];
  return index;
}

// Advances `position` over `region` in the dims before `end`, last one fastest; false after the last position.
bool Advance(const Box& region, size_t end, std::vector<int64_t>* position) {
  for (size_t d = end; d-- > 0;) {
    if (++(*position)[d] < region.offset[d] + region.extent[d]) return true;
    (*position)[d] = region.offset[d];
  }
  return false;
}

}  // namespace

Box WholeBox(const std::vector<int64_t>& shape) { return {std::vector<int64_t>(shape.size(), 0), shape}; }

bool IsWhole(const std::vector<int64_t>& shape, const Box& box) { return box == WholeBox(shape); }

int64_t Volume(const Box& box) {
  int64_t volume = 1;
  for (const int64_t extent : box.extent) volume *= extent;
  return volume;
}

std::string BoxText(const Box& box) {
  std::vector<std::string> dims;
  for (size_t d = 0; d < box.offset.size(); ++d) {
    dims.push_back(absl::StrCat(box.offset[d], ":", box.offset[d] + box.extent[d]));
  }
  return absl::StrCat("[", absl::StrJoin(dims, ","), "]");
}

std::optional<Box> Intersect(const Box& a, const Box& b) {
  CHECK_EQ(a.offset.size(), b.offset.size()) << "[Intersect] " << BoxText(a) << " and " << BoxText(b);
  Box both;
  for (size_t d = 0; d < a.offset.size(); ++d) {
    const int64_t begin = std::max(a.offset[d], b.offset[d]);
    const int64_t end = std::min(a.offset[d] + a.extent[d], b.offset[d] + b.extent[d]);
    if (begin >= end) return std::nullopt;
    both.offset.push_back(begin);
    both.extent.push_back(end - begin);
  }
  return both;
}

absl::Status ForEachRun(const Box& region, const Box& source, const Box& target,
                        absl::FunctionRef<absl::Status(int64_t from, int64_t to, int64_t count)> body) {
  CHECK(Contains(source, region) && Contains(target, region))
      << "[ForEachRun] " << BoxText(region) << " of " << BoxText(source) << " and " << BoxText(target);
  const std::vector<int64_t> from_strides = Strides(source.extent), to_strides = Strides(target.extent);
  // Dims from `inner` on are one run: all of them but the first are taken whole from both sides.
  size_t inner = region.offset.size();
  int64_t count = 1;
  while (inner > 0) {
    --inner;
    count *= region.extent[inner];
    if (region.extent[inner] != source.extent[inner] || region.extent[inner] != target.extent[inner]) break;
  }
  std::vector<int64_t> position = region.offset;
  do {
    absl::Status status =
        body(FlatIndex(position, source, from_strides), FlatIndex(position, target, to_strides), count);
    if (!status.ok()) return status;
  } while (Advance(region, inner, &position));
  return absl::OkStatus();
}

void CopyBox(const Box& source, const float* from, const Box& target, float* to) {
  const std::optional<Box> region = Intersect(source, target);
  if (!region) return;
  const absl::Status status =
      ForEachRun(*region, source, target, [&](int64_t from_index, int64_t to_index, int64_t count) {
        std::memcpy(to + to_index, from + from_index, static_cast<size_t>(count) * sizeof(float));
        return absl::OkStatus();
      });
  CHECK(status.ok());
}

// Boxes tile the shape exactly if the sum of their indicator functions is the indicator of the shape. Such functions
// are equal if their mixed differences are, and the mixed difference of a box is +-1 at its corners (+ where an even
// number of coordinates are upper ends). So all signed corners must cancel against those of the whole.
absl::Status CheckTiling(const std::vector<int64_t>& shape, std::span<const Box> boxes) {
  const size_t rank = shape.size();
  if (rank >= 24 || (boxes.size() + 1) << rank > kMaxCorners) {
    return absl::InvalidArgumentError(absl::StrCat(boxes.size(), " slices of rank ", rank, " are too many to check"));
  }
  // Corner coordinates go from 0 to the dim included.
  std::vector<int64_t> strides(rank, 1);
  int64_t points = 1;
  for (size_t d = rank; d-- > 0;) {
    strides[d] = points;
    const auto product = shape[d] < 0 ? std::nullopt : CheckedMul(points, shape[d] + 1);
    if (!product) return absl::InvalidArgumentError("the shape is too large");
    points = *product;
  }
  std::vector<std::pair<int64_t, int>> corners;
  corners.reserve((boxes.size() + 1) << rank);
  const auto add = [&](const Box& box, int sign) {
    for (uint32_t upper = 0; upper < 1u << rank; ++upper) {
      int64_t key = 0;
      for (size_t d = 0; d < rank; ++d) key += (box.offset[d] + (upper >> d & 1 ? box.extent[d] : 0)) * strides[d];
      corners.emplace_back(key, std::popcount(upper) % 2 == 0 ? sign : -sign);
    }
  };
  const Box whole = WholeBox(shape);
  add(whole, -1);
  for (const Box& box : boxes) {
    CHECK(Contains(whole, box) && Volume(box) > 0) << "[CheckTiling] " << BoxText(box) << " of " << BoxText(whole);
    add(box, 1);
  }
  std::sort(corners.begin(), corners.end());
  for (size_t i = 0; i < corners.size();) {
    const int64_t key = corners[i].first;
    int sum = 0;
    for (; i < corners.size() && corners[i].first == key; ++i) sum += corners[i].second;
    if (sum == 0) continue;
    // The smallest such corner in row-major order: before it everything is covered once.
    std::vector<int64_t> position;
    for (size_t d = 0; d < rank; ++d) position.push_back(key / strides[d] % (shape[d] + 1));
    return absl::InvalidArgumentError(absl::StrCat("slices ", sum < 0 ? "leave a hole" : "overlap", " at element [",
                                                   absl::StrJoin(position, ","), "]"));
  }
  return absl::OkStatus();
}

namespace {

// Appends the boxes of [begin, end) of the sub-tensor of dims from `dim` on whose leading coordinates are `prefix`.
void AppendFlatBoxes(const std::vector<int64_t>& shape, const std::vector<int64_t>& prefix, int64_t begin, int64_t end,
                     std::vector<Box>* boxes) {
  if (begin >= end) return;
  const size_t dim = prefix.size();
  int64_t row = 1;  // elements below one index of `dim`
  for (size_t d = dim + 1; d < shape.size(); ++d) row *= shape[d];

  const auto partial_row = [&](int64_t index, int64_t from, int64_t to) {
    std::vector<int64_t> longer = prefix;
    longer.push_back(index);
    AppendFlatBoxes(shape, longer, from, to, boxes);
  };
  const int64_t first_whole = CeilDiv(begin, row), end_whole = end / row;
  if (first_whole > end_whole) return partial_row(end_whole, begin - end_whole * row, end - end_whole * row);
  if (begin < first_whole * row) partial_row(first_whole - 1, begin - (first_whole - 1) * row, row);
  if (first_whole < end_whole) {
    Box box{prefix, std::vector<int64_t>(dim, 1)};
    box.offset.push_back(first_whole);
    box.extent.push_back(end_whole - first_whole);
    for (size_t d = dim + 1; d < shape.size(); ++d) {
      box.offset.push_back(0);
      box.extent.push_back(shape[d]);
    }
    boxes->push_back(std::move(box));
  }
  if (end > end_whole * row) partial_row(end_whole, 0, end - end_whole * row);
}

}  // namespace

std::vector<Box> BoxesOfFlatRange(const std::vector<int64_t>& shape, int64_t begin, int64_t end) {
  const Box whole = WholeBox(shape);
  CHECK(begin >= 0 && begin <= end && end <= Volume(whole))
      << "[BoxesOfFlatRange] [" << begin << ", " << end << ") of " << BoxText(whole);
  if (shape.empty()) return begin < end ? std::vector<Box>{whole} : std::vector<Box>{};
  std::vector<Box> boxes;
  AppendFlatBoxes(shape, {}, begin, end, &boxes);
  return boxes;
}

}  // namespace shardit
