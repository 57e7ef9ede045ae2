#include <nvtx3/nvToolsExt.h>

#include "core/cuda/nvtx.h"

namespace shardit {

NvtxRange::NvtxRange(const char* name) { nvtxRangePushA(name); }
NvtxRange::~NvtxRange() { nvtxRangePop(); }

}  // namespace shardit
