#include "tests/cuda_emulator/gemm.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "cuda_bf16.h"

namespace cuda_emulator {
namespace {

// A tile of the product: kRows of op(A) times kColumns of op(B), each packed as [k][kRows] and [k][kColumns].
constexpr int kRows = 16;
constexpr int kColumns = 4;

float Load(const void* data, cudaDataType_t type, int64_t index) {
  return type == CUDA_R_32F ? static_cast<const float*>(data)[index]
                            : static_cast<float>(static_cast<const __nv_bfloat16*>(data)[index]);
}

void Store(void* data, cudaDataType_t type, int64_t index, float value) {
  if (type == CUDA_R_32F) {
    static_cast<float*>(data)[index] = value;
  } else {
    static_cast<__nv_bfloat16*>(data)[index] = value;
  }
}

// Ten bits of mantissa, to nearest, ties away from zero.
float RoundToTf32(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  if ((bits & 0x7f800000u) != 0x7f800000u) bits = (bits + 0x1000u) & 0xffffe000u;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// Panels of `width` lines: panel p holds lines p * width and on, as [length][width], zeros beyond the last line.
// Element e of line l is at l * line_stride + e * element_stride.
std::vector<float> Pack(const Matrix& matrix, int64_t offset, int64_t lines, int64_t length, int64_t line_stride,
                        int64_t element_stride, int width, bool tf32) {
  const int64_t panels = (lines + width - 1) / width;
  std::vector<float> packed(static_cast<size_t>(panels * width * length));
  for (int64_t line = 0; line < lines; ++line) {
    float* to = packed.data() + (line / width) * width * length + line % width;
    const int64_t from = offset + line * line_stride;
    for (int64_t e = 0; e < length; ++e) {
      const float value = Load(matrix.data, matrix.type, from + e * element_stride);
      to[e * width] = tf32 ? RoundToTf32(value) : value;
    }
  }
  return packed;
}

[[gnu::always_inline]] inline void TileLoop(const float* a, const float* b, int64_t k, float* tile) {
  float sum[kColumns][kRows] = {};
  for (int64_t e = 0; e < k; ++e, a += kRows, b += kColumns) {
    for (int j = 0; j < kColumns; ++j) {
      for (int i = 0; i < kRows; ++i) sum[j][i] += a[i] * b[j];
    }
  }
  std::memcpy(tile, sum, sizeof(sum));
}

void TilePlain(const float* a, const float* b, int64_t k, float* tile) { TileLoop(a, b, k, tile); }

// The same operations in the same order, eight at a time.
#if defined(__x86_64__)
[[gnu::target("avx2")]] void TileAvx2(const float* a, const float* b, int64_t k, float* tile) {
  TileLoop(a, b, k, tile);
}
#endif

void Tile(const float* a, const float* b, int64_t k, float* tile) {
#if defined(__x86_64__)
  static const bool avx2 = __builtin_cpu_supports("avx2");
  if (avx2) return TileAvx2(a, b, k, tile);
#endif
  TilePlain(a, b, k, tile);
}

constexpr float kGeluScale = 0.7978845608028654f;  // sqrt(2 / pi)
constexpr float kGeluCubic = 0.044715f;

float Gelu(float x) { return 0.5f * x * (1.0f + std::tanh(kGeluScale * (x + kGeluCubic * x * x * x))); }

float GeluGrad(float x) {
  const float t = std::tanh(kGeluScale * (x + kGeluCubic * x * x * x));
  return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * kGeluScale * (1.0f + 3.0f * kGeluCubic * x * x);
}

bool Has(uint32_t epilogue, uint32_t parts) { return (epilogue & parts) == parts; }

// One element on its way to D; adds to bias_grad where the epilogue has it.
void Finish(const GemmCall& call, int64_t batch, int64_t i, int64_t j, float sum, std::vector<float>& bias_grad) {
  float value = call.alpha * sum;
  if (call.beta != 0) {
    value += call.beta * Load(call.c.data, call.c.type, batch * call.c.batch_stride + i + j * call.c.ld);
  }
  const int64_t aux_index = batch * call.aux.batch_stride + i + j * call.aux.ld;
  if (call.epilogue != CUBLASLT_EPILOGUE_DEFAULT && Has(call.epilogue, CUBLASLT_EPILOGUE_BIAS)) {
    value += Load(call.bias, call.bias_type, batch * call.bias_batch_stride + i);
  }
  if (Has(call.epilogue, CUBLASLT_EPILOGUE_GELU)) {
    if (Has(call.epilogue, CUBLASLT_EPILOGUE_GELU_AUX)) {
      Store(const_cast<void*>(call.aux.data), call.aux.type, aux_index, value);
    }
    value = Gelu(value);
  }
  if (Has(call.epilogue, CUBLASLT_EPILOGUE_DGELU)) {
    value *= GeluGrad(Load(call.aux.data, call.aux.type, aux_index));
    if (call.epilogue == CUBLASLT_EPILOGUE_DGELU_BGRAD) bias_grad[static_cast<size_t>(i)] += value;
  }
  Store(const_cast<void*>(call.d.data), call.d.type, batch * call.d.batch_stride + i + j * call.d.ld, value);
}

// Sums of op(A)'s rows or op(B)'s columns.
std::vector<float> InputSums(const Matrix& matrix, int64_t offset, int64_t lines, int64_t length, int64_t line_stride,
                             int64_t element_stride) {
  std::vector<float> sums(static_cast<size_t>(lines));
  for (int64_t line = 0; line < lines; ++line) {
    for (int64_t e = 0; e < length; ++e) {
      sums[static_cast<size_t>(line)] +=
          Load(matrix.data, matrix.type, offset + line * line_stride + e * element_stride);
    }
  }
  return sums;
}

void RunBatch(const GemmCall& call, int64_t batch) {
  const int64_t a_line = call.transpose_a ? call.a.ld : 1, a_element = call.transpose_a ? 1 : call.a.ld;
  const int64_t b_line = call.transpose_b ? 1 : call.b.ld, b_element = call.transpose_b ? call.b.ld : 1;
  const int64_t a_offset = batch * call.a.batch_stride, b_offset = batch * call.b.batch_stride;
  const std::vector<float> a = Pack(call.a, a_offset, call.m, call.k, a_line, a_element, kRows, call.tf32);
  const std::vector<float> b = Pack(call.b, b_offset, call.n, call.k, b_line, b_element, kColumns, call.tf32);
  std::vector<float> bias_grad(call.epilogue == CUBLASLT_EPILOGUE_DGELU_BGRAD ? static_cast<size_t>(call.m) : 0);
  float tile[kColumns * kRows];
  for (int64_t j = 0; j < call.n; j += kColumns) {
    for (int64_t i = 0; i < call.m; i += kRows) {
      Tile(a.data() + i * call.k, b.data() + j * call.k, call.k, tile);
      for (int64_t y = 0; y < std::min<int64_t>(kColumns, call.n - j); ++y) {
        for (int64_t x = 0; x < std::min<int64_t>(kRows, call.m - i); ++x) {
          Finish(call, batch, i + x, j + y, tile[y * kRows + x], bias_grad);
        }
      }
    }
  }
  if (call.epilogue == CUBLASLT_EPILOGUE_BGRADA) {
    bias_grad = InputSums(call.a, a_offset, call.m, call.k, a_line, a_element);
  }
  if (call.epilogue == CUBLASLT_EPILOGUE_BGRADB) {
    bias_grad = InputSums(call.b, b_offset, call.n, call.k, b_line, b_element);
  }
  for (size_t i = 0; i < bias_grad.size(); ++i) {
    Store(call.bias, call.bias_type, batch * call.bias_batch_stride + static_cast<int64_t>(i), bias_grad[i]);
  }
}

}  // namespace

void RunGemm(const GemmCall& call) {
  for (int64_t batch = 0; batch < call.batch; ++batch) RunBatch(call, batch);
}

}  // namespace cuda_emulator
