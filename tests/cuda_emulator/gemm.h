// The matrix product behind the emulated cuBLASLt, column-major: element (i, j) lies at i + j * ld.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cublasLt.h"

namespace cuda_emulator {

struct Matrix {
  const void* data = nullptr;
  cudaDataType_t type = CUDA_R_32F;  // fp32 or bf16
  int64_t ld = 0;
  int64_t batch_stride = 0;  // elements
};

// D = epilogue(alpha op(A) op(B) + beta C). op(A) is [m, k], op(B) [k, n], C and D [m, n].
//   BIAS           + bias[i]
//   GELU           gelu of that (the tanh form); with AUX, aux = what it is the gelu of
//   DGELU          times gelu'(aux); with BGRAD, bias[i] = sum over j of that
//   BGRADA, BGRADB bias[i] = sum over k of op(A)(i, k), bias[j] = sum over k of op(B)(k, j)
// Sums are fp32, those of the product in the order of k; every output is rounded once.
struct GemmCall {
  int64_t m = 0, n = 0, k = 0, batch = 1;
  bool transpose_a = false, transpose_b = false;
  bool tf32 = false;  // inputs are rounded to tf32
  float alpha = 1, beta = 0;
  Matrix a, b, c, d, aux;
  uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  void* bias = nullptr;
  cudaDataType_t bias_type = CUDA_R_32F;
  int64_t bias_batch_stride = 0;
};

void RunGemm(const GemmCall& call);

}  // namespace cuda_emulator
