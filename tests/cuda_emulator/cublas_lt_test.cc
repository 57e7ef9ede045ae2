// cuBLASLt against a naive product, and its refusals.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "cublasLt.h"
#include "cuda_bf16.h"
#include "tests/cuda_emulator/test_support.h"

namespace cuda_emulator {
namespace {

void CheckBlas(cublasStatus_t status) { ASSERT_EQ(status, CUBLAS_STATUS_SUCCESS) << cublasLtGetStatusName(status); }

// An array of fp32 or bf16 on the device.
class Array {
 public:
  Array(const std::vector<float>& values, cudaDataType_t type) : type_(type), fp32_(values), bf16_(values.size()) {
    std::vector<__nv_bfloat16> rounded(values.begin(), values.end());
    Check(cudaMemcpy(bf16_.data(), rounded.data(), bf16_.bytes(), cudaMemcpyHostToDevice));
  }
  void* data() { return type_ == CUDA_R_32F ? static_cast<void*>(fp32_.data()) : bf16_.data(); }
  std::vector<float> ToHost() const {
    if (type_ == CUDA_R_32F) return fp32_.ToHost();
    const std::vector<__nv_bfloat16> values = bf16_.ToHost();
    return {values.begin(), values.end()};
  }

 private:
  cudaDataType_t type_;
  DeviceArray<float> fp32_;
  DeviceArray<__nv_bfloat16> bf16_;
};

// Sixteenths in [-1, 1): exact in bf16.
std::vector<float> Values(int64_t count, int salt) {
  std::vector<float> values(static_cast<size_t>(count));
  Random random(static_cast<uint64_t>(salt));
  for (float& value : values) value = (static_cast<float>(random.Below(32)) - 16.0f) / 16.0f;
  return values;
}

struct Case {
  int64_t m = 0, n = 0, k = 0;
  bool transpose_a = false, transpose_b = false;
  cudaDataType_t in = CUDA_R_32F, out = CUDA_R_32F;
  uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  float alpha = 1, beta = 0;
  int32_t batch = 1;
  int64_t pad = 0;  // added to every leading dimension
};

// The calls of a product, with everything that can be set.
class Product {
 public:
  explicit Product(const Case& c) : case_(c) {
    CheckBlas(cublasLtCreate(&handle_));
    CheckBlas(cublasLtMatmulDescCreate(&desc_, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    const int32_t ta = c.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N, tb = c.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
    Set(CUBLASLT_MATMUL_DESC_TRANSA, ta);
    Set(CUBLASLT_MATMUL_DESC_TRANSB, tb);
    Set(CUBLASLT_MATMUL_DESC_EPILOGUE, c.epilogue);
    a_ = Layout(c.in, c.transpose_a ? c.k : c.m, c.transpose_a ? c.m : c.k, &a_size);
    b_ = Layout(c.in, c.transpose_b ? c.n : c.k, c.transpose_b ? c.k : c.n, &b_size);
    c_ = Layout(c.out, c.m, c.n, &d_size);
    d_ = Layout(c.out, c.m, c.n, &d_size);
    CheckBlas(cublasLtMatmulPreferenceCreate(&preference_));
  }
  ~Product() {
    cublasLtMatmulPreferenceDestroy(preference_);
    for (const cublasLtMatrixLayout_t layout : {a_, b_, c_, d_}) cublasLtMatrixLayoutDestroy(layout);
    cublasLtMatmulDescDestroy(desc_);
    cublasLtDestroy(handle_);
  }
  Product(const Product&) = delete;
  Product& operator=(const Product&) = delete;

  template <class T>
  cublasStatus_t TrySet(cublasLtMatmulDescAttributes_t attribute, T value) {
    return cublasLtMatmulDescSetAttribute(desc_, attribute, &value, sizeof(value));
  }
  template <class T>
  void Set(cublasLtMatmulDescAttributes_t attribute, T value) {
    CheckBlas(TrySet(attribute, value));
  }
  template <class T>
  void Prefer(cublasLtMatmulPreferenceAttributes_t attribute, T value) {
    CheckBlas(cublasLtMatmulPreferenceSetAttribute(preference_, attribute, &value, sizeof(value)));
  }
  std::vector<cublasLtMatmulHeuristicResult_t> Algorithms(cublasStatus_t* status = nullptr) {
    std::vector<cublasLtMatmulHeuristicResult_t> results(8);
    int found = 0;
    const cublasStatus_t result =
        cublasLtMatmulAlgoGetHeuristic(handle_, desc_, a_, b_, c_, d_, preference_, 8, results.data(), &found);
    if (status != nullptr) *status = result;
    results.resize(static_cast<size_t>(found));
    return results;
  }
  cublasStatus_t Run(const void* a, const void* b, const void* c, void* d, const cublasLtMatmulAlgo_t* algorithm,
                     void* workspace = nullptr, size_t workspace_bytes = 0) {
    return cublasLtMatmul(handle_, desc_, &case_.alpha, a, a_, b, b_, &case_.beta, c, c_, d, d_, algorithm, workspace,
                          workspace_bytes, nullptr);
  }

  int64_t a_size = 0, b_size = 0, d_size = 0;  // elements of all batches

 private:
  cublasLtMatrixLayout_t Layout(cudaDataType_t type, int64_t rows, int64_t columns, int64_t* size) {
    cublasLtMatrixLayout_t layout = nullptr;
    CheckBlas(cublasLtMatrixLayoutCreate(&layout, type, static_cast<uint64_t>(rows), static_cast<uint64_t>(columns),
                                         rows + case_.pad));
    const int64_t stride = (rows + case_.pad) * columns;
    CheckBlas(cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &case_.batch,
                                               sizeof(case_.batch)));
    CheckBlas(
        cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof(stride)));
    *size = stride * case_.batch;
    return layout;
  }

  const Case case_;
  cublasLtHandle_t handle_ = nullptr;
  cublasLtMatmulDesc_t desc_ = nullptr;
  cublasLtMatrixLayout_t a_ = nullptr, b_ = nullptr, c_ = nullptr, d_ = nullptr;
  cublasLtMatmulPreference_t preference_ = nullptr;
};

double Gelu(double x) { return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))); }
double GeluGrad(double x) { return (Gelu(x + 1e-5) - Gelu(x - 1e-5)) / 2e-5; }

bool Is(uint32_t epilogue, std::initializer_list<uint32_t> list) {
  for (const uint32_t one : list) {
    if (epilogue == one) return true;
  }
  return false;
}

// All outputs against sums in double. `tolerance`: relative to 1 + |expected|.
void TestProduct(const Case& c) {
  SCOPED_TRACE(::testing::Message() << c.m << " x " << c.n << " x " << c.k << ", transposed " << c.transpose_a
                                    << c.transpose_b << ", types " << c.in << " " << c.out << ", epilogue "
                                    << c.epilogue);
  Product product(c);
  const int64_t ldd = c.m + c.pad, lda = (c.transpose_a ? c.k : c.m) + c.pad, ldb = (c.transpose_b ? c.n : c.k) + c.pad;
  const int64_t bias_size = c.epilogue == CUBLASLT_EPILOGUE_BGRADB ? c.n : c.m;
  const std::vector<float> a = Values(product.a_size, 1), b = Values(product.b_size, 2);
  const std::vector<float> start = Values(product.d_size, 3), bias = Values(bias_size, 4);
  const int64_t ld_aux = (c.m + 7) / 8 * 8;
  const std::vector<float> aux = Values(ld_aux * c.n, 5);
  Array a_device(a, c.in), b_device(b, c.in), c_device(start, c.out), d_device(start, c.out);
  Array bias_device(bias, c.out), aux_device(aux, c.out);
  product.Set<void*>(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias_device.data());
  product.Set<void*>(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, aux_device.data());
  product.Set<int64_t>(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, ld_aux);
  product.Prefer<uint64_t>(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, 1 << 20);
  const auto algorithms = product.Algorithms();
  ASSERT_FALSE(algorithms.empty());
  DeviceArray<char> workspace(1 << 20);
  CheckBlas(product.Run(a_device.data(), b_device.data(), c_device.data(), d_device.data(), &algorithms.back().algo,
                        workspace.data(), 1 << 20));

  const std::vector<float> d = d_device.ToHost(), bias_out = bias_device.ToHost(), aux_out = aux_device.ToHost();
  const double tolerance = c.out == CUDA_R_32F ? 1e-5 : 5e-3;
  const auto near = [&](float value, double expected, const char* what) {
    EXPECT_NEAR(value, expected, tolerance * (1 + std::abs(expected))) << what;
  };
  const auto at_a = [&](int64_t batch, int64_t i, int64_t e) {
    return a[static_cast<size_t>(batch * (product.a_size / c.batch) + (c.transpose_a ? e + i * lda : i + e * lda))];
  };
  const auto at_b = [&](int64_t batch, int64_t e, int64_t j) {
    return b[static_cast<size_t>(batch * (product.b_size / c.batch) + (c.transpose_b ? j + e * ldb : e + j * ldb))];
  };
  std::vector<double> sums(static_cast<size_t>(bias_size));
  for (int64_t batch = 0; batch < c.batch; ++batch) {
    for (int64_t j = 0; j < c.n; ++j) {
      for (int64_t i = 0; i < c.m; ++i) {
        const size_t index = static_cast<size_t>(batch * (product.d_size / c.batch) + i + j * ldd);
        const size_t aux_index = static_cast<size_t>(i + j * ld_aux);
        double value = 0;
        for (int64_t e = 0; e < c.k; ++e) value += at_a(batch, i, e) * at_b(batch, e, j);
        value = c.alpha * value + c.beta * start[index];
        if (Is(c.epilogue, {CUBLASLT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_GELU_BIAS, CUBLASLT_EPILOGUE_GELU_AUX_BIAS})) {
          value += bias[static_cast<size_t>(i)];
        }
        if (Is(c.epilogue, {CUBLASLT_EPILOGUE_GELU_AUX, CUBLASLT_EPILOGUE_GELU_AUX_BIAS})) {
          near(aux_out[aux_index], value, "aux");
        }
        if (c.epilogue != CUBLASLT_EPILOGUE_DEFAULT && (c.epilogue & CUBLASLT_EPILOGUE_GELU) != 0) value = Gelu(value);
        if (Is(c.epilogue, {CUBLASLT_EPILOGUE_DGELU, CUBLASLT_EPILOGUE_DGELU_BGRAD})) value *= GeluGrad(aux[aux_index]);
        if (c.epilogue == CUBLASLT_EPILOGUE_DGELU_BGRAD) sums[static_cast<size_t>(i)] += value;
        near(d[index], value, "d");
      }
    }
  }
  for (int64_t e = 0; e < c.k; ++e) {
    for (int64_t i = 0; i < bias_size; ++i) {
      if (c.epilogue == CUBLASLT_EPILOGUE_BGRADA) sums[static_cast<size_t>(i)] += at_a(0, i, e);
      if (c.epilogue == CUBLASLT_EPILOGUE_BGRADB) sums[static_cast<size_t>(i)] += at_b(0, e, i);
    }
  }
  if (Is(c.epilogue, {CUBLASLT_EPILOGUE_DGELU_BGRAD, CUBLASLT_EPILOGUE_BGRADA, CUBLASLT_EPILOGUE_BGRADB})) {
    for (size_t i = 0; i < sums.size(); ++i) near(bias_out[i], sums[i], "bias gradient");
  }
  for (int64_t j = 0; j < c.n && c.pad > 0; ++j) {  // between the columns nothing is written
    EXPECT_EQ(d[static_cast<size_t>(c.m + j * ldd)], start[static_cast<size_t>(c.m + j * ldd)]);
  }
}

constexpr uint32_t kEpilogues[] = {
    CUBLASLT_EPILOGUE_DEFAULT,  CUBLASLT_EPILOGUE_BIAS,        CUBLASLT_EPILOGUE_GELU,
    CUBLASLT_EPILOGUE_GELU_AUX, CUBLASLT_EPILOGUE_GELU_BIAS,   CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
    CUBLASLT_EPILOGUE_DGELU,    CUBLASLT_EPILOGUE_DGELU_BGRAD, CUBLASLT_EPILOGUE_BGRADA,
    CUBLASLT_EPILOGUE_BGRADB,
};

TEST(CublasLt, MultipliesInEveryForm) {
  for (const auto& [in, out] :
       {std::pair(CUDA_R_32F, CUDA_R_32F), std::pair(CUDA_R_16BF, CUDA_R_16BF), std::pair(CUDA_R_16BF, CUDA_R_32F)}) {
    for (const bool ta : {false, true}) {
      for (const bool tb : {false, true}) {
        TestProduct({.m = 33, .n = 7, .k = 19, .transpose_a = ta, .transpose_b = tb, .in = in, .out = out});
        TestProduct({.m = 40,
                     .n = 24,
                     .k = 48,
                     .transpose_a = ta,
                     .transpose_b = tb,
                     .in = in,
                     .out = out,
                     .alpha = 0.5f,
                     .beta = 2,
                     .batch = 3,
                     .pad = 8});
        for (const uint32_t epilogue : kEpilogues) {
          TestProduct({.m = 24,
                       .n = 40,
                       .k = 16,
                       .transpose_a = ta,
                       .transpose_b = tb,
                       .in = in,
                       .out = out,
                       .epilogue = epilogue});
        }
      }
    }
  }
}

TEST(CublasLt, AddsInPlace) {
  Product product({.m = 2, .n = 2, .k = 1, .beta = 1});
  Array a({1, 2}, CUDA_R_32F), b({10, 20}, CUDA_R_32F), d({1, 1, 1, 1}, CUDA_R_32F);
  CheckBlas(product.Run(a.data(), b.data(), d.data(), d.data(), nullptr));
  EXPECT_EQ(d.ToHost(), (std::vector<float>{11, 21, 21, 41}));
}

TEST(CublasLt, OffersAlgorithmsByPreference) {
  Product product({.m = 16, .n = 16, .k = 16, .in = CUDA_R_16BF, .out = CUDA_R_16BF});
  EXPECT_EQ(product.Algorithms().size(), 1u);  // no workspace: no split sums
  product.Prefer<uint64_t>(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, 1 << 20);
  const auto algorithms = product.Algorithms();
  ASSERT_EQ(algorithms.size(), 3u);
  uint32_t scheme = 0;
  CheckBlas(cublasLtMatmulAlgoConfigGetAttribute(&algorithms[2].algo, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &scheme,
                                                 sizeof(scheme), nullptr));
  EXPECT_EQ(scheme, static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE));
  product.Prefer<uint32_t>(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
  EXPECT_EQ(product.Algorithms().size(), 2u);
  product.Prefer<uint32_t>(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, 2);
  EXPECT_EQ(product.Algorithms().size(), 1u);
}

TEST(CublasLt, WorkspaceAndAlignmentAreDemanded) {
  Product product({.m = 16, .n = 16, .k = 16});
  product.Prefer<uint64_t>(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, 1 << 20);
  const auto algorithms = product.Algorithms();
  Array a(Values(257, 1), CUDA_R_32F), b(Values(256, 2), CUDA_R_32F), d(Values(256, 3), CUDA_R_32F);
  EXPECT_EQ(product.Run(a.data(), b.data(), d.data(), d.data(), &algorithms[1].algo), CUBLAS_STATUS_INVALID_VALUE);
  float* const shifted = static_cast<float*>(a.data()) + 1;
  DeviceArray<char> workspace(8192);
  EXPECT_EQ(product.Run(shifted, b.data(), d.data(), d.data(), &algorithms[1].algo, workspace.data(), 8192),
            CUBLAS_STATUS_NOT_SUPPORTED);
  EXPECT_EQ(product.Run(shifted, b.data(), d.data(), d.data(), &algorithms[0].algo), CUBLAS_STATUS_SUCCESS);
  // The workspace is overwritten: it must be nobody else's.
  CheckBlas(product.Run(a.data(), b.data(), d.data(), d.data(), &algorithms[1].algo, workspace.data(), 8192));
  Check(cudaMemset(workspace.data(), 0, 8192));
  CheckBlas(product.Run(a.data(), b.data(), d.data(), d.data(), &algorithms[1].algo, workspace.data(), 8192));
  EXPECT_NE(workspace.ToHost()[0], 0);
}

TEST(CublasLt, RefusesWhatTheLibraryRefuses) {
  cublasStatus_t status;
  // bf16 out of fp32 in.
  Product types({.m = 16, .n = 16, .k = 16, .in = CUDA_R_32F, .out = CUDA_R_16BF});
  types.Algorithms(&status);
  EXPECT_EQ(status, CUBLAS_STATUS_NOT_SUPPORTED);

  Product epilogue({.m = 16, .n = 16, .k = 16, .epilogue = CUBLASLT_EPILOGUE_GELU_AUX});
  DeviceArray<float> aux(20 * 16);
  epilogue.Algorithms(&status);  // no auxiliary buffer
  EXPECT_EQ(status, CUBLAS_STATUS_INVALID_VALUE);
  epilogue.Set<void*>(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, aux.data());
  epilogue.Set<int64_t>(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, 20);  // not a multiple of 8
  epilogue.Algorithms(&status);
  EXPECT_EQ(status, CUBLAS_STATUS_INVALID_VALUE);
  epilogue.Set<int64_t>(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, 16);
  epilogue.Algorithms(&status);
  EXPECT_EQ(status, CUBLAS_STATUS_SUCCESS);
  epilogue.Set<int32_t>(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE, CUDA_R_16BF);
  epilogue.Algorithms(&status);
  EXPECT_EQ(status, CUBLAS_STATUS_INVALID_VALUE);

  // Odd leading dimensions with a fused epilogue.
  Product odd({.m = 16,
               .n = 16,
               .k = 16,
               .in = CUDA_R_16BF,
               .out = CUDA_R_16BF,
               .epilogue = CUBLASLT_EPILOGUE_BGRADB,
               .pad = 1});
  DeviceArray<float> sums(16);
  odd.Set<void*>(CUBLASLT_MATMUL_DESC_BIAS_POINTER, sums.data());
  odd.Algorithms(&status);
  EXPECT_EQ(status, CUBLAS_STATUS_NOT_SUPPORTED);

  Product sizes({.m = 16, .n = 16, .k = 16});
  const int32_t too_short = 0;
  EXPECT_EQ(sizes.TrySet(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, too_short), CUBLAS_STATUS_INVALID_VALUE);
}

TEST(CublasLtDeathTest, MatricesMustBeWhereTheyAreSaidToBe) {
  Product product({.m = 16, .n = 16, .k = 16});
  Array a(Values(255, 1), CUDA_R_32F), b(Values(256, 2), CUDA_R_32F), d(Values(256, 3), CUDA_R_32F);
  EXPECT_DEATH(product.Run(a.data(), b.data(), d.data(), d.data(), nullptr), "matrix A goes beyond its memory");
  std::vector<float> host(256);
  EXPECT_DEATH(product.Run(b.data(), host.data(), d.data(), d.data(), nullptr), "matrix B is pageable host memory");
  EXPECT_DEATH(product.Run(b.data(), d.data(), d.data(), d.data(), nullptr), "D overwrites an input");
}

}  // namespace
}  // namespace cuda_emulator
