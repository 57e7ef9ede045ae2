// Marks functions that the host and CUDA kernels share.
#pragma once

#if defined(__CUDACC__)
#define SHARDIT_HOST_DEVICE __host__ __device__
#else
#define SHARDIT_HOST_DEVICE
#endif
