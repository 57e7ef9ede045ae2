// What to change in a run that does not fit its device: the plan of its memory, and the nearest plan that would fit.
#pragma once

#include <cstdint>
#include <string>

#include "core/tensor/allocator.h"
#include "parallel/mesh.h"
#include "trainer/run_config/run_config.h"

namespace shardit {

// The allocator's high-water mark of the fullest rank, on a GPU (rank_plan.h: kernels' scratch and communication
// buffers are outside of it). `options` are resolved for `shape`.
AllocatorStats PlannedGpuMemory(const RunOptions& options, const MeshShape& shape);

// One or two lines: what the run needs by owner, and the settings, of recomputation, micro-batch and ZeRO stage, that
// would bring it below `budget_bytes` at the least cost in time; or, where none do, those that need least.
std::string MemoryAdvice(const RunOptions& options, const MeshShape& shape, int64_t budget_bytes);

}  // namespace shardit
