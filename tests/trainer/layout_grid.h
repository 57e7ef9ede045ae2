// The grid of layouts that must train as one rank does, and the comparison. LayoutTest trains the cut of it that a
// plain test run has time for; tests/bench/layout_grid.cc all of it.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "tests/trainer/layout_case.h"

namespace shardit {

// Fixed: every design, schedule, ZeRO stage and recompute mode is in it.
std::vector<LayoutCase> LayoutGridCut();
// All, the cut included, by world.
std::vector<LayoutCase> LayoutGrid();

// How far a layout lies from one rank of the same design that takes the whole batch at once, on the CPU.
struct LayoutDistance {
  double loss = 0;      // largest relative distance of a step's loss
  double norm = 0;      // of a step's global gradient norm
  double gradient = 0;  // largest relative 2-norm distance of a tensor's gradient, in the first step
  std::string gradient_name;
  // A pipeline alone: whether every bit is that of one rank with the same micro-batches, on the same device.
  std::optional<bool> same_bits;
};
inline constexpr double kLayoutTolerance = 1e-5;

// Losses, norms and state are equal in every bit.
bool SameBits(const LayoutOutcome& a, const LayoutOutcome& b);

// Trains layouts and compares them. What one rank does is trained once for each design and micro-batch. One thread.
class LayoutComparison {
 public:
  struct Result {
    LayoutOutcome outcome;
    LayoutDistance distance;
  };
  Result Compare(const LayoutCase& layout);

 private:
  const LayoutOutcome& OneRank(const LayoutCase& like, int64_t micro_batch, const std::optional<OnGpu>& gpu);
  // By design, micro-batch, steps, whether on a GPU.
  std::map<std::tuple<Conditioning, int64_t, int, bool>, LayoutOutcome> one_rank_;
};

}  // namespace shardit
