// What differs between two checkpoints, whatever layouts wrote them. Two checkpoints are equal where every tensor has
// the same bits and every counter, seed and setting that moves the numbers is the same; run id, program version, layout
// and settings that leave the numbers alone are told apart but do not make them differ.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "trainer/checkpoint/checkpoint_reader.h"

namespace shardit {

struct TensorDifference {
  StateGroup group = StateGroup::kModel;
  std::string name;
  int64_t elements = 0;
  int64_t differing = 0;  // elements whose bits differ
  // Over the differing elements; infinite where one is not finite on one side. Relative to the larger of the two.
  double max_abs = 0;
  double max_rel = 0;
};

struct CheckpointDiff {
  std::vector<std::string> scalars;    // "step: 400 -> 500"
  std::vector<std::string> config;     // "train.seed: 0 -> 1": settings that move the numbers
  std::vector<std::string> only_in_a;  // tensors: "ema/pos_embed"
  std::vector<std::string> only_in_b;
  std::vector<std::string> shapes;        // "model/w: [2,3] -> [3,2]"
  std::vector<TensorDifference> tensors;  // that differ, in order of group and name
  int64_t compared = 0;                   // tensors on both sides with one shape
  std::vector<std::string> notes;         // run id, program, layout, settings that do not move the numbers

  bool equal() const;
};

// Reads every byte of both, checking it; memory is bounded by the manifests and some MiB. DataLoss names damage.
absl::StatusOr<CheckpointDiff> DiffCheckpoints(const CheckpointReader& a, const CheckpointReader& b);

// Several lines for people.
std::string DescribeDiff(const CheckpointDiff& diff);

}  // namespace shardit
