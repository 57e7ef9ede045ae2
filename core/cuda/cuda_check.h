// CUDA_CHECK(call): a failed CUDA call prints the expression, file:line and CUDA's own words, and aborts the process:
// the device's state is unknown after an error, and one silent rank is a hang. For *.cu files and this folder only.
#pragma once

#include <cuda_runtime.h>

#include "core/base/check.h"

#define CUDA_CHECK(call)                                                                                 \
  do {                                                                                                   \
    const cudaError_t shardit_cuda_error = (call);                                                       \
    CHECK(shardit_cuda_error == cudaSuccess) << #call << ": " << cudaGetErrorString(shardit_cuda_error); \
  } while (false)
