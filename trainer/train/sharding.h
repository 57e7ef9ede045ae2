// Sharding: where one rank stands in a run, and what of the model and its state it therefore holds. Derived from the
// configuration and the rank's place in the mesh by one function, so that training, checkpoints and the planner cannot
// disagree. Plain values.
#pragma once

#include <cstdint>
#include <vector>

#include "core/base/math.h"
#include "model/dit.h"
#include "parallel/mesh.h"
#include "parallel/pipeline/stage.h"
#include "parallel/tensor/plan.h"
#include "trainer/run_config/options.h"

namespace shardit {

struct Sharding {
  MeshShape shape{1, 1, 1};
  MeshCoords coords;
  // Units of the model parts (virtual stages) of this rank, in the order of the chain.
  std::vector<UnitRange> parts;
  int zero_stage = 0;  // 0 where there is one data rank: nothing to shard over
  bool sequence_parallel = false;
  bool deterministic = false;  // micro-batches are virtual shards
  ScheduleKind schedule = ScheduleKind::kOneFOneB;
  int64_t bucket_bytes = 4 << 20;
  DType compute = DType::kF32;  // type of the weights that forward reads, and of activations

  TensorPart tensor() const { return {coords.tp, shape.tp}; }
  bool holds(int unit) const;
  bool holds_input() const { return parts.front().begin == 0; }                            // the embedding
  bool holds_output(const Dit& model) const { return parts.back().end == model.units(); }  // the loss
  // Ranks beyond the data axis, or sharded state, take part in every forward pass.
  bool forward_is_collective() const { return shape.pp * shape.tp > 1 || zero_stage > 0; }

  // The whole model on one rank.
  static Sharding Whole(const DitConfig& config);
};

// The type that forward computes in.
inline DType ComputeType(Precision precision) { return precision == Precision::kBf16 ? DType::kBF16 : DType::kF32; }

// `parallel` has been resolved for shape.ranks() ranks.
Sharding MakeSharding(const DitConfig& config, const ParallelOptions& parallel, bool deterministic,
                      const MeshShape& shape, const MeshCoords& coords, DType compute = DType::kF32);

// The chain's units in `stages` ranges of about equal forward work, at least one block in each.
std::vector<UnitRange> CutStages(const DitConfig& config, int stages);

// What enters part `part` of this rank with `images` images a micro-batch, in a model that computes in `dtype`: the
// tokens (own ones where they are cut) and the condition where the design has one. Empty for the first global stage.
std::vector<BoundaryTensor> BoundaryInputs(const Dit& model, const Sharding& sharding, int part, int64_t images,
                                           DType dtype);

// sharding.parts as ranges.
std::vector<Range> UnitRangesOf(const Sharding& sharding);

// Gives every parameter its shape on this rank (as meta), and returns those that live here, in order of registration.
std::vector<Parameter*> NarrowToRank(ParameterList& parameters, const Sharding& sharding);

}  // namespace shardit
