// cuBLASLt: descriptors, the rules of which calls it takes, and the choice of an algorithm. The algorithms differ in
// what they say of themselves only; their results are the same.
#include <algorithm>
#include <cstring>
#include <utility>

#include "cublasLt.h"
#include "tests/cuda_emulator/fatal.h"
#include "tests/cuda_emulator/gemm.h"
#include "tests/cuda_emulator/memory.h"
#include "tests/cuda_emulator/stream.h"

struct cublasLtContext {};

struct cublasLtMatrixLayoutOpaque_t {
  cudaDataType_t type;
  int32_t order;
  uint64_t rows;
  uint64_t columns;
  int64_t ld;
  int32_t batch;
  int64_t batch_stride;
};

struct cublasLtMatmulDescOpaque_t {
  int32_t compute_type;
  int32_t scale_type;
  int32_t pointer_mode;
  int32_t transpose_a;
  int32_t transpose_b;
  uint32_t epilogue;
  void* bias;
  int64_t bias_batch_stride;
  void* aux;
  int64_t aux_ld;
  int64_t aux_batch_stride;
  int32_t sm_count;
  int32_t aux_type;   // -1: D's
  int32_t bias_type;  // -1: D's
};

struct cublasLtMatmulPreferenceOpaque_t {
  uint32_t search_mode;
  uint64_t workspace_bytes;
  uint32_t reduction_mask;
  uint32_t alignment[4];  // of A, B, C and D in bytes
};

namespace cuda_emulator {
namespace {

constexpr uint64_t kMagic = 0x5348415244495430;
constexpr size_t kAlignment = 16;

struct Algorithm {
  uint32_t reduction;
  uint32_t split_k;
  size_t workspace_bytes;
  bool any_alignment;
};

// The first takes whatever is aligned to its elements; the others want 16 bytes, and workspace.
constexpr Algorithm kAlgorithms[] = {
    {CUBLASLT_REDUCTION_SCHEME_NONE, 1, 0, true},
    {CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, 3, 4096, false},
    {CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE, 4, 8192, false},
};
constexpr int kAlgorithmCount = static_cast<int>(std::size(kAlgorithms));

const Algorithm* Find(const cublasLtMatmulAlgo_t* algorithm) {
  if (algorithm == nullptr || algorithm->data[0] != kMagic || algorithm->data[1] >= kAlgorithmCount) return nullptr;
  return &kAlgorithms[algorithm->data[1]];
}

size_t ElementBytes(int32_t type) { return type == CUDA_R_32F ? 4 : 2; }

// Copies an attribute of exactly or at least its own size, as cuBLASLt asks.
template <class T>
cublasStatus_t Set(T& member, const void* value, size_t bytes) {
  if (value == nullptr || bytes != sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&member, value, sizeof(T));
  return CUBLAS_STATUS_SUCCESS;
}

template <class T>
cublasStatus_t Get(T value, void* to, size_t bytes, size_t* written) {
  if (written != nullptr) *written = sizeof(T);
  if (to == nullptr || bytes < sizeof(T)) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(to, &value, sizeof(T));
  return CUBLAS_STATUS_SUCCESS;
}

bool IsFloat(int32_t type) { return type == CUDA_R_32F || type == CUDA_R_16BF; }

bool KnownEpilogue(uint32_t epilogue) {
  switch (epilogue) {
    case CUBLASLT_EPILOGUE_DEFAULT:
    case CUBLASLT_EPILOGUE_BIAS:
    case CUBLASLT_EPILOGUE_GELU:
    case CUBLASLT_EPILOGUE_GELU_AUX:
    case CUBLASLT_EPILOGUE_GELU_BIAS:
    case CUBLASLT_EPILOGUE_GELU_AUX_BIAS:
    case CUBLASLT_EPILOGUE_DGELU:
    case CUBLASLT_EPILOGUE_DGELU_BGRAD:
    case CUBLASLT_EPILOGUE_BGRADA:
    case CUBLASLT_EPILOGUE_BGRADB:
      return true;
    default:
      return false;
  }
}

bool WritesBiasGrad(uint32_t epilogue) {
  return epilogue == CUBLASLT_EPILOGUE_DGELU_BGRAD || epilogue == CUBLASLT_EPILOGUE_BGRADA ||
         epilogue == CUBLASLT_EPILOGUE_BGRADB;
}
bool UsesBias(uint32_t epilogue) {
  return WritesBiasGrad(epilogue) ||
         (epilogue != CUBLASLT_EPILOGUE_DEFAULT && (epilogue & CUBLASLT_EPILOGUE_BIAS) != 0);
}
bool UsesAux(uint32_t epilogue) { return (epilogue & 128) != 0; }

struct Layouts {
  cublasLtMatrixLayout_t a, b, c, d;
};

// The rules that need no pointers of matrices.
cublasStatus_t CheckShapes(cublasLtMatmulDesc_t description, const Layouts& layouts) {
  if (description == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  for (const cublasLtMatrixLayout_t layout : {layouts.a, layouts.b, layouts.c, layouts.d}) {
    if (layout == nullptr || layout->rows == 0 || layout->columns == 0) return CUBLAS_STATUS_INVALID_VALUE;
    if (!IsFloat(layout->type) || layout->order != CUBLASLT_ORDER_COL) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (layout->ld < static_cast<int64_t>(layout->rows)) return CUBLAS_STATUS_INVALID_VALUE;
    if (layout->batch != layouts.d->batch) return CUBLAS_STATUS_INVALID_VALUE;
  }
  const bool ta = description->transpose_a != CUBLAS_OP_N, tb = description->transpose_b != CUBLAS_OP_N;
  const uint64_t m = ta ? layouts.a->columns : layouts.a->rows, k = ta ? layouts.a->rows : layouts.a->columns;
  const uint64_t k_of_b = tb ? layouts.b->columns : layouts.b->rows, n = tb ? layouts.b->rows : layouts.b->columns;
  if (k != k_of_b || layouts.d->rows != m || layouts.d->columns != n || layouts.c->rows != m ||
      layouts.c->columns != n) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  // Types: A and B alike; C and D alike, fp32, or bf16 where A and B are.
  if (layouts.a->type != layouts.b->type || layouts.c->type != layouts.d->type ||
      (layouts.d->type == CUDA_R_16BF && layouts.a->type != CUDA_R_16BF) || description->scale_type != CUDA_R_32F ||
      description->pointer_mode != CUBLASLT_POINTER_MODE_HOST) {
    return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  return CUBLAS_STATUS_SUCCESS;
}

bool Aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % kAlignment == 0; }

cublasStatus_t CheckEpilogue(const cublasLtMatmulDescOpaque_t& description, const Layouts& layouts) {
  const uint32_t epilogue = description.epilogue;
  if (!KnownEpilogue(epilogue)) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (UsesBias(epilogue)) {
    if (description.bias == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
    if (description.bias_type != -1 && description.bias_type != layouts.d->type) return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  if (UsesAux(epilogue)) {
    if (description.aux == nullptr || description.aux_ld % 8 != 0 ||
        description.aux_ld < static_cast<int64_t>(layouts.d->rows)) {
      return CUBLAS_STATUS_INVALID_VALUE;
    }
    if (description.aux_type != -1 && description.aux_type != layouts.d->type) return CUBLAS_STATUS_INVALID_VALUE;
    if (!Aligned(description.aux)) return CUBLAS_STATUS_NOT_SUPPORTED;
  }
  return CUBLAS_STATUS_SUCCESS;
}

// Whether columns begin at multiples of 16 bytes where the matrix does.
bool AlignedColumns(cublasLtMatrixLayout_t layout) {
  return static_cast<size_t>(layout->ld) * ElementBytes(layout->type) % kAlignment == 0;
}

// Fused epilogues other than a bias want everything aligned.
bool NeedsAlignment(const cublasLtMatmulDescOpaque_t& description) {
  return UsesAux(description.epilogue) || WritesBiasGrad(description.epilogue);
}

Matrix MatrixOf(const void* data, cublasLtMatrixLayout_t layout) {
  return {data, layout->type, layout->ld, layout->batch_stride};
}

void CheckMatrix(const char* name, const void* data, cublasLtMatrixLayout_t layout) {
  Memory& memory = Memory::Instance();
  if (memory.Find(data) == Place::kPageable) {
    Fatal(std::string("cublasLtMatmul: matrix ") + name + " is pageable host memory");
  }
  const int64_t last = (layout->batch - 1) * layout->batch_stride +
                       static_cast<int64_t>(layout->columns - 1) * layout->ld + static_cast<int64_t>(layout->rows);
  if (!memory.IsValidRange(data, static_cast<size_t>(last) * ElementBytes(layout->type))) {
    Fatal(std::string("cublasLtMatmul: matrix ") + name + " goes beyond its memory");
  }
}

GemmCall MakeCall(const cublasLtMatmulDescOpaque_t& description, const Layouts& layouts, const void* a, const void* b,
                  const void* c, void* d, float alpha, float beta) {
  GemmCall call;
  call.transpose_a = description.transpose_a != CUBLAS_OP_N;
  call.transpose_b = description.transpose_b != CUBLAS_OP_N;
  call.m = static_cast<int64_t>(layouts.d->rows);
  call.n = static_cast<int64_t>(layouts.d->columns);
  call.k = static_cast<int64_t>(call.transpose_a ? layouts.a->rows : layouts.a->columns);
  call.batch = layouts.d->batch;
  call.tf32 = description.compute_type == CUBLAS_COMPUTE_32F_FAST_TF32;
  call.alpha = alpha;
  call.beta = beta;
  call.a = MatrixOf(a, layouts.a);
  call.b = MatrixOf(b, layouts.b);
  call.c = MatrixOf(c, layouts.c);
  call.d = MatrixOf(d, layouts.d);
  call.aux = {description.aux, layouts.d->type, description.aux_ld, description.aux_batch_stride};
  call.epilogue = description.epilogue;
  call.bias = description.bias;
  call.bias_type = layouts.d->type;
  call.bias_batch_stride = description.bias_batch_stride;
  return call;
}

}  // namespace
}  // namespace cuda_emulator

using cuda_emulator::Algorithm;
using cuda_emulator::kAlgorithmCount;
using cuda_emulator::kAlgorithms;
using cuda_emulator::kMagic;
using cuda_emulator::Layouts;

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = new cublasLtContext;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}

size_t cublasLtGetVersion() { return 130000; }

const char* cublasLtGetStatusName(cublasStatus_t status) {
  switch (status) {
#define CUDA_EMULATOR_CASE(name) \
  case name:                     \
    return #name;
    CUDA_EMULATOR_CASE(CUBLAS_STATUS_SUCCESS)
    CUDA_EMULATOR_CASE(CUBLAS_STATUS_NOT_INITIALIZED)
    CUDA_EMULATOR_CASE(CUBLAS_STATUS_ALLOC_FAILED)
    CUDA_EMULATOR_CASE(CUBLAS_STATUS_INVALID_VALUE)
    CUDA_EMULATOR_CASE(CUBLAS_STATUS_ARCH_MISMATCH)
    CUDA_EMULATOR_CASE(CUBLAS_STATUS_MAPPING_ERROR)
    CUDA_EMULATOR_CASE(CUBLAS_STATUS_EXECUTION_FAILED)
    CUDA_EMULATOR_CASE(CUBLAS_STATUS_INTERNAL_ERROR)
    CUDA_EMULATOR_CASE(CUBLAS_STATUS_NOT_SUPPORTED)
    CUDA_EMULATOR_CASE(CUBLAS_STATUS_LICENSE_ERROR)
#undef CUDA_EMULATOR_CASE
  }
  return "an unknown cublasStatus_t";
}

const char* cublasLtGetStatusString(cublasStatus_t status) { return cublasLtGetStatusName(status); }

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType type, uint64_t rows,
                                          uint64_t columns, int64_t ld) {
  *layout = new cublasLtMatrixLayoutOpaque_t{type, CUBLASLT_ORDER_COL, rows, columns, ld, 1, 0};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete layout;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute, const void* value,
                                                size_t bytes) {
  switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_TYPE:
      return cuda_emulator::Set(layout->type, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_ORDER:
      return cuda_emulator::Set(layout->order, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_ROWS:
      return cuda_emulator::Set(layout->rows, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_COLS:
      return cuda_emulator::Set(layout->columns, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_LD:
      return cuda_emulator::Set(layout->ld, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT:
      return cuda_emulator::Set(layout->batch, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET:
      return cuda_emulator::Set(layout->batch_stride, value, bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* description, cublasComputeType_t compute_type,
                                        cudaDataType_t scale_type) {
  *description = new cublasLtMatmulDescOpaque_t{.compute_type = compute_type,
                                                .scale_type = scale_type,
                                                .epilogue = CUBLASLT_EPILOGUE_DEFAULT,
                                                .aux_type = -1,
                                                .bias_type = -1};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t description) {
  delete description;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t description,
                                              cublasLtMatmulDescAttributes_t attribute, const void* value,
                                              size_t bytes) {
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_COMPUTE_TYPE:
      return cuda_emulator::Set(description->compute_type, value, bytes);
    case CUBLASLT_MATMUL_DESC_SCALE_TYPE:
      return cuda_emulator::Set(description->scale_type, value, bytes);
    case CUBLASLT_MATMUL_DESC_POINTER_MODE:
      return cuda_emulator::Set(description->pointer_mode, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSA:
      return cuda_emulator::Set(description->transpose_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
      return cuda_emulator::Set(description->transpose_b, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
      return cuda_emulator::Set(description->epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
      return cuda_emulator::Set(description->bias, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE:
      return cuda_emulator::Set(description->bias_batch_stride, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER:
      return cuda_emulator::Set(description->aux, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD:
      return cuda_emulator::Set(description->aux_ld, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE:
      return cuda_emulator::Set(description->aux_batch_stride, value, bytes);
    case CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET:
      return cuda_emulator::Set(description->sm_count, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE:
      return cuda_emulator::Set(description->aux_type, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
      return cuda_emulator::Set(description->bias_type, value, bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = new cublasLtMatmulPreferenceOpaque_t{0, 0, CUBLASLT_REDUCTION_SCHEME_MASK, {256, 256, 256, 256}};
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  delete preference;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
                                                    size_t bytes) {
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_SEARCH_MODE:
      return cuda_emulator::Set(preference->search_mode, value, bytes);
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
      return cuda_emulator::Set(preference->workspace_bytes, value, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
      return cuda_emulator::Set(preference->reduction_mask, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
      return cuda_emulator::Set(preference->alignment[0], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
      return cuda_emulator::Set(preference->alignment[1], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
      return cuda_emulator::Set(preference->alignment[2], value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
      return cuda_emulator::Set(preference->alignment[3], value, bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t description,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int requested,
                                              cublasLtMatmulHeuristicResult_t results[], int* found) {
  *found = 0;
  if (handle == nullptr || preference == nullptr || requested <= 0) return CUBLAS_STATUS_INVALID_VALUE;
  const Layouts layouts{a, b, c, d};
  if (const cublasStatus_t status = cuda_emulator::CheckShapes(description, layouts); status != CUBLAS_STATUS_SUCCESS) {
    return status;
  }
  if (const cublasStatus_t status = cuda_emulator::CheckEpilogue(*description, layouts);
      status != CUBLAS_STATUS_SUCCESS) {
    return status;
  }
  bool aligned = true;
  for (const uint32_t bytes : preference->alignment) aligned = aligned && bytes % cuda_emulator::kAlignment == 0;
  for (const cublasLtMatrixLayout_t layout : {a, b, c, d}) {
    aligned = aligned && cuda_emulator::AlignedColumns(layout);
  }
  for (int i = 0; i < kAlgorithmCount && *found < requested; ++i) {
    const Algorithm& algorithm = kAlgorithms[i];
    const bool any_alignment = algorithm.any_alignment && !cuda_emulator::NeedsAlignment(*description);
    if (!aligned && !any_alignment) continue;
    if (algorithm.workspace_bytes > preference->workspace_bytes) continue;
    if ((algorithm.reduction & ~preference->reduction_mask) != 0) continue;
    cublasLtMatmulHeuristicResult_t& result = results[(*found)++];
    result = {};
    result.algo.data[0] = kMagic;
    result.algo.data[1] = static_cast<uint64_t>(i);
    result.workspaceSize = algorithm.workspace_bytes;
    result.state = CUBLAS_STATUS_SUCCESS;
    result.wavesCount = 1;
  }
  return *found > 0 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulAlgoCapGetAttribute(const cublasLtMatmulAlgo_t* algorithm,
                                                 cublasLtMatmulAlgoCapAttributes_t attribute, void* value, size_t bytes,
                                                 size_t* written) {
  const Algorithm* found = cuda_emulator::Find(algorithm);
  if (found == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  switch (attribute) {
    case CUBLASLT_ALGO_CAP_SPLITK_SUPPORT:
      return cuda_emulator::Get<int32_t>(found->split_k > 1, value, bytes, written);
    case CUBLASLT_ALGO_CAP_REDUCTION_SCHEME_MASK:
      return cuda_emulator::Get<uint32_t>(found->reduction, value, bytes, written);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t* algorithm,
                                                    cublasLtMatmulAlgoConfigAttributes_t attribute, void* value,
                                                    size_t bytes, size_t* written) {
  const Algorithm* found = cuda_emulator::Find(algorithm);
  if (found == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  switch (attribute) {
    case CUBLASLT_ALGO_CONFIG_ID:
      return cuda_emulator::Get<int32_t>(static_cast<int32_t>(found - kAlgorithms), value, bytes, written);
    case CUBLASLT_ALGO_CONFIG_SPLITK_NUM:
      return cuda_emulator::Get<int32_t>(static_cast<int32_t>(found->split_k), value, bytes, written);
    case CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME:
      return cuda_emulator::Get<uint32_t>(found->reduction, value, bytes, written);
    case CUBLASLT_ALGO_CONFIG_TILE_ID:
    case CUBLASLT_ALGO_CONFIG_STAGES_ID:
      return cuda_emulator::Get<uint32_t>(0, value, bytes, written);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t description, const void* alpha,
                              const void* a, cublasLtMatrixLayout_t a_layout, const void* b,
                              cublasLtMatrixLayout_t b_layout, const void* beta, const void* c,
                              cublasLtMatrixLayout_t c_layout, void* d, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t* algorithm, void* workspace, size_t workspace_bytes,
                              cudaStream_t stream) {
  using namespace cuda_emulator;
  const Layouts layouts{a_layout, b_layout, c_layout, d_layout};
  if (handle == nullptr || alpha == nullptr || beta == nullptr || a == nullptr || b == nullptr || d == nullptr) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  if (const cublasStatus_t status = CheckShapes(description, layouts); status != CUBLAS_STATUS_SUCCESS) return status;
  if (const cublasStatus_t status = CheckEpilogue(*description, layouts); status != CUBLAS_STATUS_SUCCESS) {
    return status;
  }
  float alpha_value, beta_value;
  std::memcpy(&alpha_value, alpha, sizeof(float));
  std::memcpy(&beta_value, beta, sizeof(float));
  if (beta_value != 0 && c == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  if (c == d && c_layout->ld != d_layout->ld) return CUBLAS_STATUS_INVALID_VALUE;
  const Algorithm* chosen = algorithm == nullptr ? &kAlgorithms[0] : Find(algorithm);
  if (chosen == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  if (workspace_bytes < chosen->workspace_bytes || (chosen->workspace_bytes > 0 && workspace == nullptr)) {
    return CUBLAS_STATUS_INVALID_VALUE;
  }
  if (workspace_bytes > 0 && !Aligned(workspace)) return CUBLAS_STATUS_INVALID_VALUE;
  const bool aligned = Aligned(a) && Aligned(b) && Aligned(c) && Aligned(d) && AlignedColumns(a_layout) &&
                       AlignedColumns(b_layout) && AlignedColumns(c_layout) && AlignedColumns(d_layout);
  if (!aligned && (!chosen->any_alignment || NeedsAlignment(*description))) return CUBLAS_STATUS_NOT_SUPPORTED;
  CheckMatrix("A", a, a_layout);
  CheckMatrix("B", b, b_layout);
  if (beta_value != 0) CheckMatrix("C", c, c_layout);
  CheckMatrix("D", d, d_layout);
  if (d == a || d == b) Fatal("cublasLtMatmul: D overwrites an input");

  auto lock = Scheduler::Instance().Acquire();
  CUstream_st* resolved = Streams::Instance().Resolve(stream);
  if (resolved == nullptr) return CUBLAS_STATUS_INVALID_VALUE;
  Operation operation{.name = "cublasLtMatmul", .type = cudaGraphNodeTypeKernel};
  operation.run = [call = MakeCall(*description, layouts, a, b, c, d, alpha_value, beta_value), workspace,
                   used = chosen->workspace_bytes] {
    if (used > 0) std::memset(workspace, 0xFF, used);  // as someone else's would be overwritten
    RunGemm(call);
  };
  return Streams::Instance().Issue(lock, resolved, std::move(operation)) == cudaSuccess
             ? CUBLAS_STATUS_SUCCESS
             : CUBLAS_STATUS_EXECUTION_FAILED;
}
