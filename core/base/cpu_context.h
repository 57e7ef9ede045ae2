// What every CPU kernel runs on: the rank's threads and its scratch memory. Passed by reference down the call chain;
// its members belong to the rank's context and outlive every call. The workspace has at least pool.threads() areas.
//
// Planning. Where `plan` is set, no memory stands behind any operand: a kernel records its cost and returns. Every
// kernel and every loop over elements begins with
//   if (context.Planned({"name", flops, bytes})) return;
// after the checks of its arguments.
#pragma once

#include "core/base/cost_recorder.h"
#include "core/base/thread_pool.h"
#include "core/base/workspace.h"

namespace shardit {

struct CpuContext {
  ThreadPool& pool;
  Workspace& workspace;
  CostRecorder* plan = nullptr;

  // True where the step is planned, not run: the cost is then recorded.
  bool Planned(const KernelCost& cost) const {
    if (plan != nullptr) plan->Add(cost);
    return plan != nullptr;
  }
};

}  // namespace shardit
