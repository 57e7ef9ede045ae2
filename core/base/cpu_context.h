// What every CPU kernel runs on: the rank's threads and its scratch memory. Passed by reference down the call chain;
// both members belong to the rank's context and outlive every call. The workspace has at least pool.threads() areas.
#pragma once

#include "core/base/thread_pool.h"
#include "core/base/workspace.h"

namespace shardit {

struct CpuContext {
  ThreadPool& pool;
  Workspace& workspace;
};

}  // namespace shardit
