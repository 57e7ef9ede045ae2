// Element types as cuBLAS names them.
#pragma once

enum cudaDataType_t { CUDA_R_32F = 0, CUDA_R_64F = 1, CUDA_R_16BF = 14, CUDA_R_32I = 10 };
using cudaDataType = cudaDataType_t;
