// Cuts a chain of units (embedding, blocks, final layer) into the stages of a pipeline. A pure function.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/base/math.h"

namespace shardit {

// `parts` non-empty ranges that cover the units in order. Their largest cost is the least possible, because a pipeline
// runs at the pace of its slowest stage. Among those cuts, the first and the last range together cost the least: they
// carry what unit costs leave out (input and loss; on the first rank, the most activations in flight). Among those, the
// sum of squared costs is the least, and then earlier ranges are shorter.
//
// `costs` in any unit, each >= 0, their sum below 2^63; 1 <= parts <= costs.size() (CHECK). Time n^2 parts.
std::vector<Range> BalancedPartition(std::span<const int64_t> costs, int parts);

}  // namespace shardit
