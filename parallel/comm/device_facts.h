// What communicators ask of a GPU.
#pragma once

#include <string>

#include "core/tensor/device.h"

namespace shardit::cuda {

// The device's address on its host, equal for the same device in every process.
std::string DeviceBusId(Device device);

// Whether what is issued on the stream is recorded in a graph instead of run.
bool IsRecorded(Stream stream);

}  // namespace shardit::cuda
