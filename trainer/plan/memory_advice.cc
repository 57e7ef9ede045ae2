#include "trainer/plan/memory_advice.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "trainer/plan/rank_plan.h"
#include "trainer/run_config/check_layout.h"

namespace shardit {
namespace {

// What each change costs, about, as a part of the step's time: recomputation does a third of the work again (its MLPs'
// activations: a tenth); smaller micro-batches and sharded gradients and weights mean more, and smaller, messages and
// kernels.
constexpr double kFullRecompute = 0.33, kSelectiveRecompute = 0.1, kHalvedMicroBatch = 0.04;
constexpr double kZeroCost[] = {0.0, 0.01, 0.04, 0.1};

struct Candidate {
  RunOptions options;
  double cost = 0;
  int64_t bytes = 0;
};

double RecomputeCost(RecomputeMode mode) {
  return mode == RecomputeMode::kFull ? kFullRecompute : mode == RecomputeMode::kSelective ? kSelectiveRecompute : 0.0;
}

// Every combination that asks for no more memory than the run itself, and that training takes.
std::vector<Candidate> Candidates(const RunOptions& options, const MeshShape& shape) {
  std::vector<Candidate> candidates;
  const int64_t last_zero = shape.dp > 1 ? 3 : options.parallel.zero_stage;
  for (const RecomputeMode recompute : {RecomputeMode::kNone, RecomputeMode::kSelective, RecomputeMode::kFull}) {
    if (recompute < options.parallel.recompute) continue;
    for (int64_t zero = options.parallel.zero_stage; zero <= last_zero; ++zero) {
      double halvings = 0;
      for (int64_t micro = options.train.micro_batch;; micro /= 2, ++halvings) {
        Candidate candidate{options, RecomputeCost(recompute) + kZeroCost[zero] + halvings * kHalvedMicroBatch};
        candidate.options.parallel.recompute = recompute;
        candidate.options.parallel.zero_stage = zero;
        candidate.options.train.micro_batch = micro;
        if (CheckLayout(options.model, candidate.options.parallel, candidate.options.train).ok()) {
          candidates.push_back(std::move(candidate));
        }
        // Virtual shards fix the micro-batch in deterministic mode.
        if (micro % 2 != 0 || options.train.deterministic) break;
      }
    }
  }
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const Candidate& a, const Candidate& b) { return a.cost < b.cost; });
  return candidates;
}

std::string GiB(int64_t bytes) { return absl::StrFormat("%.2f GiB", static_cast<double>(bytes) / (1 << 30)); }

std::string Settings(const RunOptions& before, const RunOptions& after) {
  std::vector<std::string> settings;
  if (after.parallel.recompute != before.parallel.recompute) {
    settings.push_back(absl::StrCat("--set parallel.recompute=",
                                    after.parallel.recompute == RecomputeMode::kFull ? "FULL" : "SELECTIVE"));
  }
  if (after.parallel.zero_stage != before.parallel.zero_stage) {
    settings.push_back(absl::StrCat("--set parallel.zero_stage=", after.parallel.zero_stage));
  }
  if (after.train.micro_batch != before.train.micro_batch) {
    settings.push_back(absl::StrCat("--set train.micro_batch=", after.train.micro_batch));
  }
  return absl::StrJoin(settings, " ");
}

}  // namespace

AllocatorStats PlannedGpuMemory(const RunOptions& options, const MeshShape& shape) {
  // Only memory is asked for: any speeds do.
  ClusterFigures figures{.name = "memory", .devices_per_node = shape.ranks()};
  figures.peak_flops = figures.memory_bytes_per_second = 1;
  figures.intra_node = figures.inter_node = {.latency_seconds = 0, .bytes_per_second = 1};
  const RankPlacement placement{.ranks_per_node = shape.ranks()};
  AllocatorStats fullest;
  const std::vector<int> alike = FirstAlike(options, shape);
  for (int pp = 0; pp < shape.pp; ++pp) {
    if (alike[static_cast<size_t>(pp)] != pp) continue;
    const AllocatorStats memory = PlanRank(options, shape, {.pp = pp}, figures, placement).memory;
    if (memory.peak_bytes_in_use > fullest.peak_bytes_in_use) fullest = memory;
  }
  return fullest;
}

std::string MemoryAdvice(const RunOptions& options, const MeshShape& shape, int64_t budget_bytes) {
  const AllocatorStats needed = PlannedGpuMemory(options, shape);
  std::vector<std::string> owners;
  for (size_t i = 0; i < needed.peak_by_owner.size(); ++i) {
    if (needed.peak_by_owner[i] == 0) continue;
    owners.push_back(absl::StrCat(std::string(Name(static_cast<MemoryOwner>(i))), " ", GiB(needed.peak_by_owner[i])));
  }
  const std::string need = absl::StrCat("the run's plan needs ", GiB(needed.peak_bytes_in_use), " (",
                                        absl::StrJoin(owners, ", "), "), ", GiB(budget_bytes), " are there; ");
  std::optional<Candidate> least;
  for (Candidate& candidate : Candidates(options, shape)) {
    candidate.bytes = PlannedGpuMemory(candidate.options, shape).peak_bytes_in_use;
    const std::string settings = Settings(options, candidate.options);
    if (candidate.bytes <= budget_bytes && !settings.empty()) {
      return absl::StrCat(need, "this would fit, with ", GiB(candidate.bytes), ": ", settings);
    }
    if (!least.has_value() || candidate.bytes < least->bytes) least = std::move(candidate);
  }
  if (least->bytes <= budget_bytes) return absl::StrCat(need, "other programs, or other ranks on it, hold the rest");
  const std::string settings = Settings(options, least->options);
  return absl::StrCat(
      need, "even ", settings.empty() ? "as it is" : settings, " needs ", GiB(least->bytes),
      ": cut the model over more ranks (parallel.tp, parallel.pp, `shardit plan --layout auto`), or lower "
      "train.global_batch");
}

}  // namespace shardit
