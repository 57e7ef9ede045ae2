#include "core/base/status_macros.h"
#include "core/cuda/cublas_lt.h"
#include "core/cuda/shared_library.h"

namespace shardit::cuda {
namespace {

// Under emulation the emulator's functions, which are linked.
#ifdef SHARDIT_CUDA_EMULATION
#define SHARDIT_CUBLAS_LT(name) lt.name = &cublasLt##name
#else
#define SHARDIT_CUBLAS_LT(name) RETURN_IF_ERROR(library.Load("cublasLt" #name, lt.name))
#endif

absl::StatusOr<CublasLt> Load() {
  CublasLt lt;
#ifdef SHARDIT_CUDA_EMULATION
  lt.path = "emulator";
#else
  ASSIGN_OR_RETURN(const SharedLibrary library, SharedLibrary::Open(kCublasLtNames));
  lt.path = library.path();
#endif
  SHARDIT_CUBLAS_LT(Create);
  SHARDIT_CUBLAS_LT(Destroy);
  SHARDIT_CUBLAS_LT(GetStatusName);
  SHARDIT_CUBLAS_LT(Matmul);
  SHARDIT_CUBLAS_LT(MatmulDescCreate);
  SHARDIT_CUBLAS_LT(MatmulDescDestroy);
  SHARDIT_CUBLAS_LT(MatmulDescSetAttribute);
  SHARDIT_CUBLAS_LT(MatrixLayoutCreate);
  SHARDIT_CUBLAS_LT(MatrixLayoutDestroy);
  SHARDIT_CUBLAS_LT(MatrixLayoutSetAttribute);
  SHARDIT_CUBLAS_LT(MatmulPreferenceCreate);
  SHARDIT_CUBLAS_LT(MatmulPreferenceDestroy);
  SHARDIT_CUBLAS_LT(MatmulPreferenceSetAttribute);
  SHARDIT_CUBLAS_LT(MatmulAlgoGetHeuristic);
  SHARDIT_CUBLAS_LT(MatmulAlgoConfigGetAttribute);
  return lt;
}

}  // namespace

const absl::StatusOr<CublasLt>& LoadCublasLt() {
  static const absl::StatusOr<CublasLt> lt = Load();
  return lt;
}

}  // namespace shardit::cuda
