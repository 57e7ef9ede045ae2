#include "parallel/tensor/plan.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/check.h"

namespace shardit {
namespace {

// A file dim whose elements are [parts, extent, run] with `extent` the cut logical dim: the qkv weight's rows are 3
// parts of h heads of head_dim rows each.
struct Cut {
  int file_dim = -1;  // -1: the parameter is held whole
  int64_t parts = 1;
  int64_t extent = 1;
  int64_t run = 1;
};

// Every file dim is the product of a run of logical dims; the cut one lies in one of them.
Cut CutOf(const Parameter& parameter) {
  const Shape& shape = parameter.shape;
  const Shape& logical = parameter.shard.logical_shape;
  const int cut_dim = parameter.shard.dim;
  if (cut_dim < 0) return {};
  CHECK_LT(cut_dim, logical.ndim()) << "[plan] " << parameter.name;
  int next = 0;
  for (int dim = 0; dim < shape.ndim(); ++dim) {
    Cut cut{.file_dim = dim};
    const int first = next;
    int64_t product = 1;
    // The last file dim takes what is left, trailing dims of 1 among it.
    while (next < logical.ndim() && (product < shape[dim] || dim == shape.ndim() - 1 || next == first)) {
      if (next < cut_dim) cut.parts *= logical[next];
      if (next == cut_dim) cut.extent = logical[next];
      if (next > cut_dim) cut.run *= logical[next];
      product *= logical[next++];
    }
    CHECK_EQ(product, shape[dim]) << "[plan] " << parameter.name << " " << shape << " is not the logical " << logical;
    if (first <= cut_dim && cut_dim < next) {
      // With rows above it, the parts would interleave in the local tensor instead of lying one after another.
      CHECK(cut.parts == 1 || dim == 0) << "[plan] " << parameter.name << " cuts dim " << cut_dim << " of " << logical;
      return cut;
    }
  }
  CHECK(false) << "[plan] " << parameter.name << " has no dim " << cut_dim << " of " << logical;
  return {};
}

Cut CutOver(const Parameter& parameter, TensorPart part) {
  CHECK(0 <= part.index && part.index < part.size) << "[plan] part " << part.index << " of " << part.size;
  if (part.size == 1) return {};
  const Cut cut = CutOf(parameter);
  CHECK(cut.file_dim < 0 || cut.extent % part.size == 0)
      << "[plan] " << parameter.name << ": " << cut.extent << " over " << part.size << " ranks";
  return cut;
}

std::vector<int64_t> Dims(const Shape& shape) { return {shape.begin(), shape.end()}; }

std::string DivisorsText(int64_t n) {
  std::vector<int64_t> divisors;
  for (int64_t d = 1; d <= n; ++d) {
    if (n % d == 0) divisors.push_back(d);
  }
  return absl::StrJoin(divisors, ", ");
}

// What the user set that a parameter's cut dim counts. Names are those of weight files.
const char* CutField(const std::string& name) {
  if (name.find("attn.") != std::string::npos) return "model.heads";
  if (name.find(".mlp.") != std::string::npos) return "the MLP width (4 x model.width)";
  if (name.find("adaLN_modulation.") != std::string::npos) return "model.width";
  return "its extent";
}

}  // namespace

absl::Status CheckDivides(const ParameterList& parameters, int size) {
  CHECK_GE(size, 1);
  const Parameter* worst = nullptr;  // of those that cannot be shared, the one with the fewest items
  int64_t items = 0;
  int64_t common = 0;  // greatest common divisor of all cut extents
  for (const auto& parameter : parameters.all()) {
    const Cut cut = CutOf(*parameter);
    if (cut.file_dim < 0) continue;
    common = std::gcd(common, cut.extent);
    if (cut.extent % size == 0 || (worst != nullptr && items <= cut.extent)) continue;
    worst = parameter.get();
    items = cut.extent;
  }
  if (worst == nullptr) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(CutField(worst->name), " ", items, " cannot be shared by tp ", size, ": every rank holds ",
                   "an equal part of dim ", worst->shard.dim, " of ", worst->name, ", logical shape ",
                   worst->shard.logical_shape.ToString(), "; set parallel.tp to a divisor that all layers share (",
                   DivisorsText(common), "), or change the model's size"));
}

Shape LocalShape(const Parameter& parameter, TensorPart part) {
  const Cut cut = CutOver(parameter, part);
  Shape shape = parameter.shape;
  if (cut.file_dim >= 0) shape[cut.file_dim] /= part.size;
  return shape;
}

std::vector<Box> LocalBoxes(const Parameter& parameter, TensorPart part) {
  const Box whole = WholeBox(Dims(parameter.shape));
  const Cut cut = CutOver(parameter, part);
  if (cut.file_dim < 0) return {whole};
  const size_t dim = static_cast<size_t>(cut.file_dim);
  const int64_t rows = cut.extent / part.size * cut.run;  // of one part, on this rank
  std::vector<Box> boxes;
  for (int64_t i = 0; i < cut.parts; ++i) {
    Box box = whole;
    box.offset[dim] = i * cut.extent * cut.run + part.index * rows;
    box.extent[dim] = rows;
    boxes.push_back(std::move(box));
  }
  return boxes;
}

std::vector<LocalRun> LocalRuns(const Parameter& parameter, TensorPart part, int64_t begin, int64_t end) {
  const int64_t elements = LocalShape(parameter, part).elements();
  CHECK(0 <= begin && begin <= end && end <= elements)
      << "[plan] " << parameter.name << " elements [" << begin << ", " << end << ") of " << elements;
  std::vector<LocalRun> runs;
  int64_t first = 0;  // local index of the box's first element
  for (const Box& box : LocalBoxes(parameter, part)) {
    const int64_t volume = Volume(box);
    const int64_t from = std::max(begin, first), to = std::min(end, first + volume);
    if (from < to) {
      int64_t at = from;
      for (Box& inner : BoxesOfFlatRange(box.extent, from - first, to - first)) {
        for (size_t d = 0; d < inner.offset.size(); ++d) inner.offset[d] += box.offset[d];
        const int64_t count = Volume(inner);
        runs.push_back({std::move(inner), at});
        at += count;
      }
    }
    first += volume;
  }
  return runs;
}

}  // namespace shardit
