#include "trainer/checkpoint_diff.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "core/base/math.h"
#include "core/base/status_macros.h"
#include "trainer/run_config/run_config.h"

namespace shardit {
namespace {

constexpr int64_t kPieceElements = 1 << 20;  // 4 MiB of each side at a time

std::string Key(const StoredTensor& tensor) {
  return absl::StrCat(GroupName(tensor.group), "/", absl::CHexEscape(tensor.name));
}

std::string ShapeText(const std::vector<int64_t>& shape) { return absl::StrCat("[", absl::StrJoin(shape, ","), "]"); }

std::string LayoutText(const RunLayout& layout) {
  return absl::StrCat("dp ", layout.dp, " tp ", layout.tp, " pp ", layout.pp, " ZeRO ", layout.zero_stage);
}

// Collects "name: a -> b" where the two differ.
class Fields {
 public:
  explicit Fields(std::vector<std::string>* lines) : lines_(lines) {}

  template <class T>
  void Add(absl::string_view name, const T& a, const T& b) {
    if (a != b) lines_->push_back(absl::StrCat(name, ": ", a, " -> ", b));
  }

 private:
  std::vector<std::string>* lines_;
};

void DiffScalars(const RunState& a, const RunState& b, CheckpointDiff* diff) {
  Fields scalars(&diff->scalars);
  scalars.Add("step", a.step, b.step);
  scalars.Add("images_seen", a.images_seen, b.images_seen);
  scalars.Add("ema_updates", a.ema_updates, b.ema_updates);
  scalars.Add("optimizer_updates", a.optimizer_updates, b.optimizer_updates);
  scalars.Add("skipped_steps", a.skipped_steps, b.skipped_steps);
  scalars.Add("skipped_in_a_row", a.skipped_in_a_row, b.skipped_in_a_row);
  scalars.Add("losses.observed", a.losses.observed, b.losses.observed);
  scalars.Add("losses.mean", a.losses.mean, b.losses.mean);
  scalars.Add("losses.variance", a.losses.variance, b.losses.variance);
  scalars.Add("seed", a.seed, b.seed);
  const auto keys = [](const RunState& state) {
    return absl::StrJoin(state.rng_keys, " ", [](std::string* out, const auto& key) {
      absl::StrAppend(out, absl::CHexEscape(key.first), "=", key.second);
    });
  };
  scalars.Add("rng_keys", keys(a), keys(b));
  Fields notes(&diff->notes);
  notes.Add("run_id", a.run_id, b.run_id);
  notes.Add("program_version", absl::CHexEscape(a.program_version), absl::CHexEscape(b.program_version));
  notes.Add("layout", LayoutText(a.layout), LayoutText(b.layout));
}

void DiffConfigs(const RunState& a, const RunState& b, CheckpointDiff* diff) {
  if (a.config_text == b.config_text) return;
  const auto fields = DiffRunConfigs(a.config_text, b.config_text);
  if (!fields.ok()) {
    // A text that this program cannot read, of a newer one: all that can be said.
    diff->config.push_back(absl::StrCat("the texts differ (", std::string(fields.status().message()), ")"));
    return;
  }
  diff->config = fields->frozen;
  diff->config.insert(diff->config.end(), fields->reported.begin(), fields->reported.end());
  diff->notes.insert(diff->notes.end(), fields->free.begin(), fields->free.end());
}

void CompareElements(const std::vector<float>& a, const std::vector<float>& b, int64_t count, TensorDifference* out) {
  for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
    if (std::bit_cast<uint32_t>(a[i]) == std::bit_cast<uint32_t>(b[i])) continue;
    ++out->differing;
    double absolute = std::abs(static_cast<double>(a[i]) - b[i]);
    if (!std::isfinite(absolute)) absolute = std::numeric_limits<double>::infinity();
    const double larger = std::max(std::abs(static_cast<double>(a[i])), std::abs(static_cast<double>(b[i])));
    // Zeros of two signs differ in bits only.
    const double relative = std::isinf(absolute) ? absolute : larger > 0 ? absolute / larger : 0;
    out->max_abs = std::max(out->max_abs, absolute);
    out->max_rel = std::max(out->max_rel, relative);
  }
}

absl::StatusOr<TensorDifference> CompareTensor(const CheckpointReader& a, const CheckpointReader& b,
                                               const StoredTensor& tensor) {
  TensorDifference result{tensor.group, tensor.name, Volume(WholeBox(tensor.shape))};
  const int64_t piece = std::min(result.elements, kPieceElements);
  std::vector<float> from_a(static_cast<size_t>(piece)), from_b(static_cast<size_t>(piece));
  for (int64_t begin = 0; begin < result.elements; begin += piece) {
    const int64_t end = std::min(begin + piece, result.elements);
    int64_t at = 0;
    for (const Box& box : BoxesOfFlatRange(tensor.shape, begin, end)) {
      RETURN_IF_ERROR(a.ReadBox(tensor.group, tensor.name, box, from_a.data() + at));
      RETURN_IF_ERROR(b.ReadBox(tensor.group, tensor.name, box, from_b.data() + at));
      at += Volume(box);
    }
    CompareElements(from_a, from_b, end - begin, &result);
  }
  return result;
}

void AppendLines(absl::string_view title, const std::vector<std::string>& lines, std::string* text) {
  for (const std::string& line : lines) absl::StrAppend(text, title, " ", line, "\n");
}

}  // namespace

bool CheckpointDiff::equal() const {
  return scalars.empty() && config.empty() && only_in_a.empty() && only_in_b.empty() && shapes.empty() &&
         tensors.empty();
}

absl::StatusOr<CheckpointDiff> DiffCheckpoints(const CheckpointReader& a, const CheckpointReader& b) {
  CheckpointDiff diff;
  DiffScalars(a.state(), b.state(), &diff);
  DiffConfigs(a.state(), b.state(), &diff);
  for (const StoredTensor& tensor : b.manifest().tensors) {
    if (a.Find(tensor.group, tensor.name) == nullptr) diff.only_in_b.push_back(Key(tensor));
  }
  for (const StoredTensor& tensor : a.manifest().tensors) {
    const StoredTensor* other = b.Find(tensor.group, tensor.name);
    if (other == nullptr) {
      diff.only_in_a.push_back(Key(tensor));
    } else if (other->shape != tensor.shape) {
      diff.shapes.push_back(absl::StrCat(Key(tensor), ": ", ShapeText(tensor.shape), " -> ", ShapeText(other->shape)));
    } else {
      ++diff.compared;
      ASSIGN_OR_RETURN(TensorDifference difference, CompareTensor(a, b, tensor));
      if (difference.differing > 0) diff.tensors.push_back(std::move(difference));
    }
  }
  return diff;
}

std::string DescribeDiff(const CheckpointDiff& diff) {
  std::string text;
  AppendLines("scalar", diff.scalars, &text);
  AppendLines("config", diff.config, &text);
  AppendLines("only in A:", diff.only_in_a, &text);
  AppendLines("only in B:", diff.only_in_b, &text);
  AppendLines("shape", diff.shapes, &text);
  for (const TensorDifference& tensor : diff.tensors) {
    absl::StrAppendFormat(&text, "tensor %s/%s: %d of %d elements differ, max abs %.3g, max rel %.3g\n",
                          std::string(GroupName(tensor.group)), absl::CHexEscape(tensor.name), tensor.differing,
                          tensor.elements, tensor.max_abs, tensor.max_rel);
  }
  AppendLines("note:", diff.notes, &text);
  absl::StrAppend(&text, diff.compared - static_cast<int64_t>(diff.tensors.size()), " of ", diff.compared,
                  " tensors are bitwise equal; the checkpoints ", diff.equal() ? "are equal" : "differ");
  return text;
}

}  // namespace shardit
