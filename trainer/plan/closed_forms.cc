#include "trainer/plan/closed_forms.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "core/base/math.h"

namespace shardit {
namespace {

constexpr double kGradientBytes = 4;  // of an element, of weights and of the condition

double Part(double ranks) { return (ranks - 1) / ranks; }

bool IsAdaLn(Conditioning conditioning) {
  return conditioning == Conditioning::kAdaLnZero || conditioning == Conditioning::kAdaLn;
}

double ElementBytes(const RunOptions& options) {
  return static_cast<double>(SizeOf(ComputeType(options.train.precision)));
}

AxisFormula DataAxis(const RunOptions& options, double ranks, double micro_batches, double elements) {
  if (ranks == 1) return {0, "0"};
  const double weight = ElementBytes(options), once = Part(ranks) * elements;
  switch (options.parallel.zero_stage) {
    case 0:
      return {once * 2 * kGradientBytes, "(n-1)/n 8P"};
    case 1:
      return {once * (kGradientBytes + weight), absl::StrCat("(n-1)/n ", kGradientBytes + weight, "P")};
    case 2:
      return {once * (micro_batches * kGradientBytes + weight), absl::StrCat("(n-1)/n (4m + ", weight, ") P")};
    default:
      return {once * micro_batches * (kGradientBytes + 2 * weight),
              absl::StrCat("(n-1)/n ", kGradientBytes + 2 * weight, "P m")};
  }
}

// Elements of the condition that flows between units, of a micro-batch.
double ConditionElements(const DitConfig& model, double images) {
  if (model.conditioning == Conditioning::kInContext) return 0;
  const double tokens = model.conditioning == Conditioning::kCrossAttention ? 2 : 1;
  return images * tokens * static_cast<double>(model.width);
}

double FlowTokens(const DitConfig& model) {
  return static_cast<double>(model.tokens() + (model.conditioning == Conditioning::kInContext ? 2 : 0));
}

AxisFormula TensorAxisBytes(const RunOptions& options, double ranks, double micro_batches, const RankPlan& rank) {
  if (ranks == 1) return {0, "0"};
  const DitConfig& model = options.model;
  const bool cut = options.parallel.sequence_parallel, adaln = IsAdaLn(model.conditioning);
  const double images = static_cast<double>(options.train.micro_batch), width = static_cast<double>(model.width);
  const double element = ElementBytes(options), tokens = element * images * FlowTokens(model) * width;
  const int units = static_cast<int>(model.depth) + 2;
  double blocks = 0, readers = 0;
  for (const UnitRange& part : rank.parts) {
    blocks += std::min(part.end, units - 1) - std::max(part.begin, 1);
    readers += 1;
  }
  const bool input = rank.parts.front().begin == 0, output = rank.parts.back().end == units;
  const double sublayers = model.conditioning == Conditioning::kCrossAttention ? 3 : 2;
  const double passes = options.parallel.recompute == RecomputeMode::kFull ? 6 : 4;
  double bytes = micro_batches * blocks * passes * sublayers * Part(ranks) * tokens;
  std::string text = absl::StrCat(passes * sublayers, " (t-1)/t A L m");
  if (adaln) {
    const double parts = model.conditioning == Conditioning::kAdaLnZero ? 6 : 4;
    const double vectors = parts * blocks + (output ? 2 : 0);
    bytes += micro_batches * (cut ? 2 : 1) * Part(ranks) * element * images * width * vectors;
    absl::StrAppend(&text, " + ", cut ? "2 " : "", "(t-1)/t ", element, "bD (", parts, "L", output ? " + 2" : "",
                    ") m");
  }
  const double condition = kGradientBytes * ConditionElements(model, images);
  if (condition > 0) {
    bytes += micro_batches * 2 * Part(ranks) * condition * readers;
    absl::StrAppend(&text, " + 2 (t-1)/t |dc| m", readers > 1 ? " v" : "");
  }
  if (cut && model.conditioning == Conditioning::kInContext && input) {
    bytes += micro_batches * 2 * Part(ranks) * 2 * kGradientBytes * images * width;
    absl::StrAppend(&text, " + 2 (t-1)/t 8bD m");
  }
  if (cut && output) {
    bytes +=
        micro_batches * Part(ranks) * element * images * FlowTokens(model) * static_cast<double>(model.patch_out());
    absl::StrAppend(&text, " + (t-1)/t ", element, "bTE m");
  }
  if (cut) {
    const bool often = options.parallel.zero_stage >= 2 || options.train.deterministic;
    bytes += (often ? micro_batches : 1) * 2 * Part(ranks) * kGradientBytes * static_cast<double>(rank.per_token);
    absl::StrAppend(&text, " + 2 (t-1)/t 4P'", often ? " m" : "");
  }
  return {bytes, text};
}

AxisFormula PipelineAxis(const RunOptions& options, const MeshShape& shape, double micro_batches,
                         const RankPlan& rank) {
  if (shape.pp == 1) return {0, "0"};
  const DitConfig& model = options.model;
  const double images = static_cast<double>(options.train.micro_batch);
  double tokens = FlowTokens(model);
  if (options.parallel.sequence_parallel) {
    tokens = static_cast<double>(PartRange(static_cast<int64_t>(tokens), shape.tp, rank.coords.tp).size());
  }
  const double element = ElementBytes(options), condition = ConditionElements(model, images);
  const double own = element * images * tokens * static_cast<double>(model.width);
  const int units = static_cast<int>(model.depth) + 2;
  double next = 0, previous = 0;  // parts of the model that a message goes to
  for (const UnitRange& part : rank.parts) {
    next += part.end < units ? 1 : 0;
    previous += part.begin > 0 ? 1 : 0;
  }
  const double bytes = (next + previous) * own + (next * element + previous * kGradientBytes) * condition;
  return {micro_batches * bytes, absl::StrCat("(", next, " (A' + |c|) + ", previous, " (A' + |dc|)) m")};
}

}  // namespace

ClosedForms FormulasOf(const RunOptions& options, const MeshShape& shape, const RankPlan& rank) {
  const double micro_batches = static_cast<double>(options.train.global_batch / (shape.dp * options.train.micro_batch));
  return {.dp = DataAxis(options, shape.dp, micro_batches, static_cast<double>(rank.padded)),
          .tp = TensorAxisBytes(options, shape.tp, micro_batches, rank),
          .pp = PipelineAxis(options, shape, micro_batches, rank)};
}

}  // namespace shardit
