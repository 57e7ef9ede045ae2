#include <algorithm>
#include <array>
#include <cstdio>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/base/check.h"
#include "core/cuda/cublas_lt.h"
#include "core/cuda/gemm_plans.h"
#include "core/cuda/graph.h"
#include "core/cuda/growing_memory.h"
#include "core/cuda/launch.cuh"
#include "core/cuda/log_line.h"
#include "core/cuda/trial.h"
#include "core/tensor/device_memory.h"

namespace shardit::cuda {
namespace {

using Epilogue = MatrixProduct::Epilogue;

// cuBLAS's own recommendation for Hopper.
constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;
constexpr int kMaxCandidates = 16;
// More than this no kernel asks for: what tensor memory copies and the widest loads need.
constexpr int64_t kMaxAlignment = 16;

void CheckCublas(cublasStatus_t status, const char* call) {
  CHECK(status == CUBLAS_STATUS_SUCCESS) << call << ": " << LoadCublasLt()->GetStatusName(status);
}
#define CUBLAS_CHECK(call) CheckCublas(call, #call)

// What cuBLASLt answers where it cannot do what it is asked for; nothing has been issued then.
bool Refuses(cublasStatus_t status) {
  return status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE;
}

cudaDataType_t CudaType(DType dtype) {
  CHECK(dtype == DType::kF32 || dtype == DType::kBF16) << "[Gemm] operand of type " << Name(dtype);
  return dtype == DType::kF32 ? CUDA_R_32F : CUDA_R_16BF;
}

cublasLtEpilogue_t LtEpilogue(Epilogue epilogue) {
  switch (epilogue) {
    case Epilogue::kNone:
      return CUBLASLT_EPILOGUE_DEFAULT;
    case Epilogue::kBias:
      return CUBLASLT_EPILOGUE_BIAS;
    case Epilogue::kBiasGelu:
      return CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
    case Epilogue::kGeluGrad:
      return CUBLASLT_EPILOGUE_DGELU;
    case Epilogue::kSumB:
      return CUBLASLT_EPILOGUE_BGRADB;
  }
  return CUBLASLT_EPILOGUE_DEFAULT;
}

// Of every matrix of a batch, in bytes.
int64_t Alignment(const void* pointer, int64_t stride_bytes = 0) {
  const int64_t bits = static_cast<int64_t>(reinterpret_cast<uintptr_t>(pointer)) | stride_bytes | kMaxAlignment;
  return bits & -bits;
}
int64_t AlignmentOfA(const MatrixProduct& p) { return Alignment(p.a.raw(), p.a_stride * SizeOf(p.a.dtype())); }
int64_t AlignmentOfD(const MatrixProduct& p) { return Alignment(p.d.raw(), p.d_stride * SizeOf(p.d.dtype())); }

// Everything that decides which algorithms there are.
using Key = std::array<int64_t, 25>;
Key KeyOf(const MatrixProduct& p, const CudaContext& context) {
  return {p.rows,
          p.columns,
          p.inner,
          p.transpose_a,
          p.transpose_b,
          static_cast<int64_t>(p.a.dtype()),
          static_cast<int64_t>(p.d.dtype()),
          p.lda,
          p.ldb,
          p.ldd,
          p.accumulate,
          static_cast<int64_t>(p.epilogue),
          p.ldaux,
          p.batch,
          p.a_stride,
          p.bias_stride,
          p.d_stride,
          AlignmentOfA(p),
          Alignment(p.b.raw()),
          AlignmentOfD(p),
          Alignment(p.bias),
          Alignment(p.aux),
          Alignment(p.sums),
          context.tf32,
          context.deterministic};
}

bool GoodUntimed(Epilogue epilogue, Device device) {
  if (epilogue == Epilogue::kNone || epilogue == Epilogue::kBias) return true;
  if (epilogue == Epilogue::kSumB) return false;
  int major = 0;
  CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device.index));
  return major == 9;
}

// cuBLASLt's descriptors of one shape. The operands' places are set before each use.
class Descriptors {
 public:
  Descriptors(const CublasLt& lt, const MatrixProduct& p, const CudaContext& context) : lt_(lt) {
    const bool tf32 = p.a.dtype() == DType::kF32 && context.tf32;
    CUBLAS_CHECK(lt.MatmulDescCreate(&product_, tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUDA_R_32F));
    Set(CUBLASLT_MATMUL_DESC_TRANSA, p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
    Set(CUBLASLT_MATMUL_DESC_TRANSB, p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
    Set(CUBLASLT_MATMUL_DESC_EPILOGUE, LtEpilogue(p.epilogue));
    if (p.aux != nullptr) Set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, p.ldaux);
    if (p.batch > 1 && p.bias != nullptr) Set(CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE, p.bias_stride);
    a_ = Layout(p.a.dtype(), p.transpose_a ? p.inner : p.rows, p.transpose_a ? p.rows : p.inner, p.lda);
    b_ = Layout(p.b.dtype(), p.transpose_b ? p.columns : p.inner, p.transpose_b ? p.inner : p.columns, p.ldb);
    d_ = Layout(p.d.dtype(), p.rows, p.columns, p.ldd);
    if (p.batch == 1) return;
    SetBatch(a_, p.batch, p.a_stride);
    SetBatch(b_, p.batch, 0);
    SetBatch(d_, p.batch, p.d_stride);
  }
  ~Descriptors() {
    for (cublasLtMatrixLayout_t layout : {a_, b_, d_}) CUBLAS_CHECK(lt_.MatrixLayoutDestroy(layout));
    CUBLAS_CHECK(lt_.MatmulDescDestroy(product_));
  }
  Descriptors(const Descriptors&) = delete;
  Descriptors& operator=(const Descriptors&) = delete;

  // The search for algorithms looks at these addresses too, for their alignment.
  void SetPlaces(const MatrixProduct& p) {
    const void* vector = p.epilogue == Epilogue::kSumB ? p.sums : p.bias;
    if (vector != nullptr) Set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, vector);
    if (p.aux != nullptr) Set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, p.aux);
  }

  cublasLtMatmulDesc_t product() const { return product_; }
  cublasLtMatrixLayout_t a() const { return a_; }
  cublasLtMatrixLayout_t b() const { return b_; }
  cublasLtMatrixLayout_t d() const { return d_; }

 private:
  template <class T>
  void Set(cublasLtMatmulDescAttributes_t attribute, const T& value) {
    CUBLAS_CHECK(lt_.MatmulDescSetAttribute(product_, attribute, &value, sizeof(value)));
  }
  cublasLtMatrixLayout_t Layout(DType dtype, int64_t rows, int64_t columns, int64_t ld) {
    cublasLtMatrixLayout_t layout = nullptr;
    CUBLAS_CHECK(lt_.MatrixLayoutCreate(&layout, CudaType(dtype), static_cast<uint64_t>(rows),
                                        static_cast<uint64_t>(columns), ld));
    return layout;
  }
  void SetBatch(cublasLtMatrixLayout_t layout, int64_t batch, int64_t stride) {
    const auto count = static_cast<int32_t>(batch);
    CUBLAS_CHECK(lt_.MatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof(count)));
    CUBLAS_CHECK(
        lt_.MatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof(stride)));
  }

  const CublasLt& lt_;
  cublasLtMatmulDesc_t product_ = nullptr;
  cublasLtMatrixLayout_t a_ = nullptr, b_ = nullptr, d_ = nullptr;
};

class Preference {
 public:
  Preference(const CublasLt& lt, const MatrixProduct& p, const CudaContext& context) : lt_(lt) {
    CUBLAS_CHECK(lt.MatmulPreferenceCreate(&preference_));
    Set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<uint64_t>(kWorkspaceBytes));
    // Parts of a sum that are added in the output's type would be rounded to it; parts added in place are ordered by
    // counters.
    const bool parts_in_fp32 = context.deterministic || p.d.dtype() != DType::kF32;
    Set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
        static_cast<uint32_t>(parts_in_fp32 ? CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE : CUBLASLT_REDUCTION_SCHEME_MASK));
    Set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, static_cast<uint32_t>(AlignmentOfA(p)));
    Set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<uint32_t>(Alignment(p.b.raw())));
    Set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, static_cast<uint32_t>(AlignmentOfD(p)));
    Set(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, static_cast<uint32_t>(AlignmentOfD(p)));
  }
  ~Preference() { CUBLAS_CHECK(lt_.MatmulPreferenceDestroy(preference_)); }
  Preference(const Preference&) = delete;
  Preference& operator=(const Preference&) = delete;
  cublasLtMatmulPreference_t get() const { return preference_; }

 private:
  template <class T>
  void Set(cublasLtMatmulPreferenceAttributes_t attribute, T value) {
    CUBLAS_CHECK(lt_.MatmulPreferenceSetAttribute(preference_, attribute, &value, sizeof(value)));
  }

  const CublasLt& lt_;
  cublasLtMatmulPreference_t preference_ = nullptr;
};

struct Algorithm {
  cublasLtMatmulAlgo_t algo;
  size_t workspace_bytes;
  double microseconds = 0;  // 0: not timed
};

struct Plan : GemmPlan {
  Plan(const CublasLt& lt, const MatrixProduct& product, const CudaContext& context)
      : shape(product), descriptors(lt, product, context) {}

  const MatrixProduct shape;  // its addresses are of the first meeting
  Descriptors descriptors;
  std::vector<Algorithm> algorithms;  // the best first
};

const char* EpilogueName(Epilogue epilogue) {
  constexpr const char* kNames[] = {"", "bias", "bias+gelu", "gelu'", "sums"};
  return kNames[static_cast<int>(epilogue)];
}

template <class T>
T ConfigOf(const CublasLt& lt, const Algorithm& algorithm, cublasLtMatmulAlgoConfigAttributes_t attribute) {
  T value = -1;
  size_t written = 0;
  if (lt.MatmulAlgoConfigGetAttribute(&algorithm.algo, attribute, &value, sizeof(value), &written) !=
      CUBLAS_STATUS_SUCCESS) {
    return -1;
  }
  return value;
}

std::string Describe(const CublasLt& lt, const Plan& plan) {
  const MatrixProduct& p = plan.shape;
  char line[256];
  int length = std::snprintf(line, sizeof(line), "%c%c %4s->%-4s %6ld %6ld %6ld %s %-9s", p.transpose_a ? 'T' : 'N',
                             p.transpose_b ? 'T' : 'N', Name(p.a.dtype()).data(), Name(p.d.dtype()).data(), p.rows,
                             p.columns, p.inner, p.accumulate ? "+=" : " =", EpilogueName(p.epilogue));
  std::string text(line, static_cast<size_t>(length));
  if (p.batch > 1) text += " batch " + std::to_string(p.batch);
  if (!plan.possible) return text + " not in cuBLASLt";
  const Algorithm& best = plan.algorithms.front();
  length = std::snprintf(line, sizeof(line), " algorithm %2d of %2d split %2d workspace %8zu",
                         ConfigOf<int32_t>(lt, best, CUBLASLT_ALGO_CONFIG_ID), plan.offered,
                         ConfigOf<int32_t>(lt, best, CUBLASLT_ALGO_CONFIG_SPLITK_NUM), best.workspace_bytes);
  text.append(line, static_cast<size_t>(length));
  if (plan.microseconds > 0) {
    const double flops = 2.0 * static_cast<double>(p.batch * p.rows) * static_cast<double>(p.columns * p.inner);
    length = std::snprintf(line, sizeof(line), " %9.1f us %7.1f TFLOP/s", plan.microseconds,
                           flops / plan.microseconds * 1e-6);
    text.append(line, static_cast<size_t>(length));
  }
  if (plan.in_parts_microseconds > 0) {
    length = std::snprintf(line, sizeof(line), " in parts %9.1f us", plan.in_parts_microseconds);
    text.append(line, static_cast<size_t>(length));
  }
  return text;
}

class LtPlans : public GemmPlans {
 public:
  LtPlans(Device device, const CudaOptions& options)
      : device_(device),
        tune_(options.tune_products),
        workspace_(AllocateDeviceMemory(device, kWorkspaceBytes)),
        trial_memory_(device) {
    CHECK(workspace_ != nullptr) << "out of memory on " << device << ": " << kWorkspaceBytes
                                 << " bytes of cuBLAS workspace";
    // Here, since it allocates memory of its own, which a capture would not allow.
    if (LoadCublasLt().ok()) CUBLAS_CHECK(LoadCublasLt()->Create(&handle_));
  }
  ~LtPlans() override {
    plans_.clear();
    if (handle_ != nullptr) CUBLAS_CHECK(lt().Destroy(handle_));
    FreeDeviceMemory(device_, workspace_);
  }

  GemmPlan& Find(const MatrixProduct& product, CudaContext& context) override {
    const auto [place, is_new] = plans_.try_emplace(KeyOf(product, context));
    if (is_new) place->second = NewPlan(product, context);
    return *place->second;
  }

  bool Run(GemmPlan& any_plan, const MatrixProduct& product, CudaContext& context) override {
    Plan& plan = static_cast<Plan&>(any_plan);
    plan.descriptors.SetPlaces(product);
    while (!plan.algorithms.empty()) {
      if (Issue(plan, plan.algorithms.front(), product, context)) return true;
      plan.algorithms.erase(plan.algorithms.begin());
    }
    plan.possible = false;
    return false;
  }

  bool Tunes(CudaContext& context) const override {
    return tune_ && !context.deterministic && !IsCapturing(context.stream);
  }

  void* TrialMemory(int64_t bytes) override { return trial_memory_.Get(bytes); }

  std::string Table() const override {
    std::string table;
    for (const auto& [key, plan] : plans_) table += Describe(lt(), *plan) + "\n";
    return table;
  }

 private:
  const CublasLt& lt() const {
    const absl::StatusOr<CublasLt>& lt = LoadCublasLt();
    CHECK(lt.ok()) << lt.status();
    return *lt;
  }

  std::unique_ptr<Plan> NewPlan(const MatrixProduct& product, CudaContext& context) {
    auto plan = std::make_unique<Plan>(lt(), product, context);
    plan->descriptors.SetPlaces(product);
    FindAlgorithms(*plan, product, context);
    plan->offered = static_cast<int>(plan->algorithms.size());
    if (Tunes(context)) Tune(*plan, product, context);
    plan->possible = !plan->algorithms.empty();
    plan->good_untimed = GoodUntimed(product.epilogue, device_);
    LogDebugLine(Describe(lt(), *plan));
    return plan;
  }

  void FindAlgorithms(Plan& plan, const MatrixProduct& product, const CudaContext& context) {
    const Preference preference(lt(), product, context);
    const Descriptors& shape = plan.descriptors;
    std::array<cublasLtMatmulHeuristicResult_t, kMaxCandidates> results;
    int count = 0;
    const cublasStatus_t status =
        lt().MatmulAlgoGetHeuristic(handle_, shape.product(), shape.a(), shape.b(), shape.d(), shape.d(),
                                    preference.get(), kMaxCandidates, results.data(), &count);
    if (Refuses(status)) return;
    CheckCublas(status, "cublasLtMatmulAlgoGetHeuristic");
    for (int i = 0; i < count; ++i) {
      const auto& result = results[static_cast<size_t>(i)];
      if (result.state == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= static_cast<size_t>(kWorkspaceBytes)) {
        plan.algorithms.push_back({result.algo, result.workspaceSize});
      }
    }
  }

  // Times all algorithms on the operands as given, but for a D that accumulates: that is let alone.
  void Tune(Plan& plan, MatrixProduct product, CudaContext& context) {
    if (product.accumulate) {
      const int64_t elements = (product.batch - 1) * product.d_stride + product.ldd * product.columns;
      void* memory = TrialMemory(elements * SizeOf(product.d.dtype()));
      if (memory == nullptr) return;
      product.d = {memory, product.d.dtype()};
    }
    std::erase_if(plan.algorithms,
                  [&](const Algorithm& algorithm) { return !Issue(plan, algorithm, product, context); });
    for (Algorithm& algorithm : plan.algorithms) {
      algorithm.microseconds = TimeOnStream(context.stream, [&] { Issue(plan, algorithm, product, context); });
    }
    std::stable_sort(plan.algorithms.begin(), plan.algorithms.end(),
                     [](const Algorithm& a, const Algorithm& b) { return a.microseconds < b.microseconds; });
    if (!plan.algorithms.empty()) plan.microseconds = plan.algorithms.front().microseconds;
  }

  // False: refused before anything was issued.
  bool Issue(const Plan& plan, const Algorithm& algorithm, const MatrixProduct& product, CudaContext& context) {
    const float alpha = 1, beta = product.accumulate ? 1 : 0;
    const Descriptors& shape = plan.descriptors;
    void* d = product.d.raw();
    const cublasStatus_t status = lt().Matmul(
        handle_, shape.product(), &alpha, product.a.raw(), shape.a(), product.b.raw(), shape.b(), &beta, d, shape.d(),
        d, shape.d(), &algorithm.algo, workspace_, algorithm.workspace_bytes, Handle(context.stream));
    if (Refuses(status)) return false;
    CheckCublas(status, "cublasLtMatmul");
    return true;
  }

  const Device device_;
  const bool tune_;
  void* const workspace_;
  GrowingMemory trial_memory_;
  cublasLtHandle_t handle_ = nullptr;
  std::map<Key, std::unique_ptr<Plan>> plans_;
};

}  // namespace

std::unique_ptr<GemmPlans> GemmPlans::Make(Device device, const CudaOptions& options) {
  return std::make_unique<LtPlans>(device, options);
}

}  // namespace shardit::cuda
