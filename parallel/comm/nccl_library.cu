#include "core/base/status_macros.h"
#include "core/cuda/shared_library.h"
#include "parallel/comm/nccl_library.cuh"

namespace shardit::cuda {
namespace {

// Under emulation the emulator's functions, which are linked.
#ifdef SHARDIT_CUDA_EMULATION
#define SHARDIT_NCCL(name) nccl.name = &nccl##name
#else
#define SHARDIT_NCCL(name) RETURN_IF_ERROR(library.Load("nccl" #name, nccl.name))
#endif

absl::StatusOr<Nccl> Load() {
  Nccl nccl;
#ifdef SHARDIT_CUDA_EMULATION
  nccl.path = "emulator";
#else
  ASSIGN_OR_RETURN(const SharedLibrary library, SharedLibrary::Open(kNcclNames));
  nccl.path = library.path();
#endif
  SHARDIT_NCCL(GetUniqueId);
  SHARDIT_NCCL(CommInitRankConfig);
  SHARDIT_NCCL(CommDestroy);
  SHARDIT_NCCL(CommAbort);
  SHARDIT_NCCL(CommGetAsyncError);
  SHARDIT_NCCL(GetErrorString);
  SHARDIT_NCCL(GetLastError);
  SHARDIT_NCCL(AllReduce);
  SHARDIT_NCCL(ReduceScatter);
  SHARDIT_NCCL(AllGather);
  SHARDIT_NCCL(Broadcast);
  SHARDIT_NCCL(Reduce);
  SHARDIT_NCCL(Send);
  SHARDIT_NCCL(Recv);
  SHARDIT_NCCL(GroupStart);
  SHARDIT_NCCL(GroupEnd);
  return nccl;
}

}  // namespace

const absl::StatusOr<Nccl>& LoadNccl() {
  static const absl::StatusOr<Nccl> nccl = Load();
  return nccl;
}

}  // namespace shardit::cuda
