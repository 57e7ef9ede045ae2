// Which part of a parameter a rank of the tensor axis holds. Pure data and arithmetic: initial values, optimizer,
// checkpoints and weight files all cut parameters by these functions and by nothing else.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "core/nn/parameter.h"
#include "core/tensor/box.h"

namespace shardit {

// Rank `index` of a tensor axis of `size` ranks.
struct TensorPart {
  int index = 0;
  int size = 1;
};

// Ok where `size` ranks can share every parameter of the list evenly; else InvalidArgument naming the parameter, its
// logical dim and what would divide it.
absl::Status CheckDivides(const ParameterList& parameters, int size);

// The parameter's shape on one rank, with as many dims as its file shape: (3 D, D) cut on heads over 2 ranks is
// (3 D / 2, D). Uncut parameters keep their shape.
Shape LocalShape(const Parameter& parameter, TensorPart part);

// The boxes of the global (file) tensor that the rank holds, in the order in which they lie one after another, each
// row-major, in the rank's dense local tensor. One box, but for the fused layers (qkv, kv, adaLN) one per part.
std::vector<Box> LocalBoxes(const Parameter& parameter, TensorPart part);

// A run of a rank's dense local tensor that is one box of the global one.
struct LocalRun {
  Box box;            // of the global tensor
  int64_t begin = 0;  // elements from the start of the local tensor
};
// The local elements [begin, end) as boxes of the global tensor, ascending: what a rank owns when its local tensor is
// cut again over the data axis (ZeRO).
std::vector<LocalRun> LocalRuns(const Parameter& parameter, TensorPart part, int64_t begin, int64_t end);

}  // namespace shardit
