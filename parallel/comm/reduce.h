// The local half of every reduction: elementwise sum, minimum or maximum of one array per rank, in an order that
// depends on the number of ranks only. Every backend reduces through this one function, so their results are equal bit
// for bit.
//
// Order: Tree(0, n), where Tree(b, e) = Tree(b, m) op Tree(m, e) and m - b is the largest power of two below e - b.
// n = 4: (0 + 1) + (2 + 3). n = 3: (0 + 1) + 2. n = 6: ((0 + 1) + (2 + 3)) + (4 + 5).
// It is the order in which a binary counter folds partial sums, so a power-of-two number of ranks, each of which folds
// a power-of-two number of micro-batches the same way, gives the tree over all micro-batches whatever the number of
// ranks.
#pragma once

#include <cstdint>
#include <span>

#include "core/tensor/dtype.h"

namespace shardit {

enum class ReduceOp : uint8_t { kSum, kMin, kMax };

// out[i] = Tree over r of inputs[r][i], for i in [0, count). Accumulated in the same dtype, but bf16 in fp32 along the
// whole tree and rounded once; integer sums wrap; a NaN in any input gives NaN, for minimum and maximum too. `out` may
// be one of the inputs itself, but must not overlap one otherwise. Runs on the calling thread. Deterministic.
void TreeReduce(DType dtype, ReduceOp op, std::span<const void* const> inputs, void* out, int64_t count);

}  // namespace shardit
