// A small run cut in any way, on ranks that are threads of this process: what the layout tests and the layout grid
// train and compare. Weights start away from the published initial values, half of whose gradients are zero.
#pragma once

#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "model/diffusion.h"
#include "parallel/comm/world.h"
#include "trainer/train/train_step.h"

namespace shardit {

struct LayoutCase {
  Conditioning conditioning = Conditioning::kAdaLnZero;
  int pp = 1, dp = 1, tp = 1;
  bool sequence_parallel = false;
  int zero_stage = 0;
  ScheduleKind schedule = ScheduleKind::kOneFOneB;
  int virtual_stages = 1;
  RecomputeMode recompute = RecomputeMode::kNone;
  int64_t micro_batch = 0;  // 0: the rank's whole batch, or with pp > 1 half of what makes a micro-batch a stage
  bool deterministic = false;
  int steps = 10;

  int world() const { return pp * dp * tp; }
  std::string Text() const;
};

inline constexpr int64_t kLayoutBatch = 24;

struct LayoutOutcome {
  std::vector<double> losses, norms;
  // After the last step, by name and whole: gradients summed over the batch, weights, EMA, moments.
  std::map<std::string, std::vector<float>> gradients, weights, ema, adam_m, adam_v;
  std::vector<StepReport> reports;                // of rank 0
  std::vector<StepComms::Bytes> bytes_last_step;  // by rank, control messages of the world left out
  std::vector<AllocatorStats> memory;             // by rank
};

// The same width, heads and tokens for every design; depth 6.
DitConfig LayoutModel(Conditioning conditioning);
LayoutOutcome RunLayout(const LayoutCase& layout);

// The largest over tensors of |a - b| / |b| in the 2-norm; infinity where names differ. `worst` gets the name.
double RelativeDistance(const std::map<std::string, std::vector<float>>& a,
                        const std::map<std::string, std::vector<float>>& b, std::string* worst = nullptr);

}  // namespace shardit
