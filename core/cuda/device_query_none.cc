// Stands in for device_query.cu where CUDA is not built.
#include "core/cuda/device_query.h"

#ifndef SHARDIT_CUDA

namespace shardit::cuda {

std::vector<DeviceInfo> Devices() { return {}; }

bool Built() { return false; }

}  // namespace shardit::cuda

#endif
