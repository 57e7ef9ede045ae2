// A small run cut in any way, on ranks that are threads of this process: what the layout tests, the reshard test and
// the layout grid train and compare. Weights start away from the published initial values, half of whose gradients are
// zero.
#pragma once

#include <map>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "model/diffusion.h"
#include "parallel/comm/world.h"
#include "trainer/train/train_step.h"

namespace shardit {

// On GPUs, rank r on device r modulo their number: with as many devices as ranks they talk through NCCL, else staged.
struct OnGpu {
  Precision precision = Precision::kFp32;
  bool graph = true;
  bool tune = false;  // matrix products, as runs do without a tensor axis
};

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
  int64_t depth = 6, heads = 12;
  std::optional<OnGpu> gpu = {};  // none: on the CPU

  int world() const { return pp * dp * tp; }
  int64_t ResolvedMicroBatch() const;
  // The same width and tokens for every design.
  DitConfig Model() const;
  std::string Text() const;
  std::string TestName() const;  // the text in letters, digits and "_"
};

// How test reports show it.
inline std::ostream& operator<<(std::ostream& out, const LayoutCase& layout) { return out << layout.Text(); }

inline constexpr int64_t kLayoutBatch = 24;

using TensorsByName = std::map<std::string, std::vector<float>>;  // whole tensors

// State of all ranks together.
struct WholeState {
  TensorsByName weights, ema, adam_m, adam_v;
  friend bool operator==(const WholeState&, const WholeState&) = default;
};

// Bytes of data (control messages left out) that a rank has sent along each axis.
struct DataBytes {
  int64_t dp = 0, tp = 0, pp = 0;
  DataBytes operator-(const DataBytes& other) const { return {dp - other.dp, tp - other.tp, pp - other.pp}; }
};

// One rank of a case: its state, and steps on the samples that the loader would deal out to it.
class LayoutRank {
 public:
  // Collective over the world, which outlives it.
  LayoutRank(World& world, const LayoutCase& layout);

  // Collective: runs step state().step.
  StepReport Step();
  TrainState& state() { return state_; }
  const MeshShape& shape() const { return mesh_.shape(); }
  const MeshCoords& coords() const { return mesh_.coords(); }
  DataBytes Sent() const;
  AllocatorStats memory() { return context_.allocator().stats(); }
  int64_t graph_nodes() const { return step_.graph_nodes(); }
  // Collective on GPUs: before AddState.
  void FinishGather() { step_.FinishGather(); }
  // Adds what this rank answers for, after the last step.
  void AddState(WholeState& whole) const;
  // The same of the last step's gradients, which are summed over the batch.
  void AddGradients(TensorsByName& whole) const;

 private:
  const LayoutCase layout_;
  const int64_t micro_batch_;
  RankContext context_;
  Mesh mesh_;
  const StepComms comms_;
  TrainState state_;
  const Diffusion diffusion_;
  const Optimizer optimizer_;
  TrainStep step_;
};

struct LayoutOutcome {
  std::vector<double> losses, norms;
  TensorsByName gradients;          // of the first step
  WholeState state;                 // after the last step
  std::vector<StepReport> reports;  // of rank 0
  // By rank.
  struct Rank {
    MeshCoords coords;
    std::vector<UnitRange> parts;
    int64_t padded = 0;     // elements of the flat range
    int64_t per_token = 0;  // of these: gradients that are partial sums over the tensor axis
    DataBytes sent;         // in the last step
    AllocatorStats memory;
    int64_t allocations_after_two = 0;  // of memory.system_allocations, those of the first two steps
    int64_t graph_nodes = 0;            // of the recorded step
  };
  std::vector<Rank> ranks;
};

LayoutOutcome TrainLayout(const LayoutCase& layout);

// The largest over tensors of |a - b| / |b| in the 2-norm; infinity where names or sizes differ. `worst` gets the name.
double RelativeDistance(const TensorsByName& a, const TensorsByName& b, std::string* worst = nullptr);
// The largest |a - b| / |b|; infinity where there are more of one.
double RelativeDistance(const std::vector<double>& a, const std::vector<double>& b);

}  // namespace shardit
