// NCCL's functions, loaded when they are first needed. For *.cu files of this folder.
#pragma once

#include <nccl.h>

#include <string>

#include "absl/status/statusor.h"

namespace shardit::cuda {

// Member Foo is ncclFoo of nccl.h.
struct Nccl {
  std::string path;  // the library's file
  decltype(&ncclGetUniqueId) GetUniqueId;
  decltype(&ncclCommInitRankConfig) CommInitRankConfig;
  decltype(&ncclCommDestroy) CommDestroy;
  decltype(&ncclCommAbort) CommAbort;
  decltype(&ncclCommGetAsyncError) CommGetAsyncError;
  decltype(&ncclGetErrorString) GetErrorString;
  decltype(&ncclGetLastError) GetLastError;
  decltype(&ncclAllReduce) AllReduce;
  decltype(&ncclReduceScatter) ReduceScatter;
  decltype(&ncclAllGather) AllGather;
  decltype(&ncclBroadcast) Broadcast;
  decltype(&ncclReduce) Reduce;
  decltype(&ncclSend) Send;
  decltype(&ncclRecv) Recv;
  decltype(&ncclGroupStart) GroupStart;
  decltype(&ncclGroupEnd) GroupEnd;
};

// The same answer for the whole process; the library is opened by the first call. Fails as SharedLibrary::Open does.
// Any thread.
const absl::StatusOr<Nccl>& LoadNccl();

}  // namespace shardit::cuda
