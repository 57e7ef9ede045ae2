#include "tests/cuda_emulator/nccl_data.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace cuda_emulator {
namespace {

const char* Name(NcclKind kind) {
  switch (kind) {
    case NcclKind::kAllReduce:
      return "ncclAllReduce";
    case NcclKind::kReduceScatter:
      return "ncclReduceScatter";
    case NcclKind::kAllGather:
      return "ncclAllGather";
    case NcclKind::kBroadcast:
      return "ncclBroadcast";
    case NcclKind::kReduce:
      return "ncclReduce";
    case NcclKind::kSend:
      return "ncclSend";
    case NcclKind::kRecv:
      return "ncclRecv";
  }
  return "?";
}

template <class Sum>
Sum Combine(ncclRedOp_t op, Sum a, Sum b) {
  switch (op) {
    case ncclProd:
      return static_cast<Sum>(a * b);
    case ncclMax:
      return std::max(a, b);
    case ncclMin:
      return std::min(a, b);
    default:
      return static_cast<Sum>(a + b);
  }
}

// out = op over ranks of in[rank].
template <class T>
void Reduce(const std::vector<const char*>& in, char* out, size_t count, ncclRedOp_t op) {
  using Sum = std::conditional_t<std::is_same_v<T, __nv_bfloat16>, float, T>;
  for (size_t i = 0; i < count; ++i) {
    Sum sum = static_cast<Sum>(reinterpret_cast<const T*>(in[0])[i]);
    for (size_t rank = 1; rank < in.size(); ++rank) {
      sum = Combine(op, sum, static_cast<Sum>(reinterpret_cast<const T*>(in[rank])[i]));
    }
    if (op == ncclAvg) sum = static_cast<Sum>(sum / static_cast<Sum>(in.size()));
    reinterpret_cast<T*>(out)[i] = static_cast<T>(sum);
  }
}

void Reduce(const std::vector<const char*>& in, char* out, size_t count, ncclDataType_t type, ncclRedOp_t op) {
  switch (type) {
    case ncclInt8:
      return Reduce<int8_t>(in, out, count, op);
    case ncclUint8:
      return Reduce<uint8_t>(in, out, count, op);
    case ncclInt32:
      return Reduce<int32_t>(in, out, count, op);
    case ncclUint32:
      return Reduce<uint32_t>(in, out, count, op);
    case ncclInt64:
      return Reduce<int64_t>(in, out, count, op);
    case ncclUint64:
      return Reduce<uint64_t>(in, out, count, op);
    case ncclFloat32:
      return Reduce<float>(in, out, count, op);
    case ncclFloat64:
      return Reduce<double>(in, out, count, op);
    case ncclBfloat16:
      return Reduce<__nv_bfloat16>(in, out, count, op);
    case ncclNumTypes:
      return;
  }
}

}  // namespace

size_t SizeOf(ncclDataType_t type) {
  switch (type) {
    case ncclInt8:
    case ncclUint8:
      return 1;
    case ncclBfloat16:
      return 2;
    case ncclInt32:
    case ncclUint32:
    case ncclFloat32:
      return 4;
    case ncclInt64:
    case ncclUint64:
    case ncclFloat64:
      return 8;
    case ncclNumTypes:
      return 0;
  }
  return 0;
}

std::string Describe(const NcclCall& call) {
  return std::string(Name(call.kind)) + " of " + std::to_string(call.count) + " elements of type " +
         std::to_string(call.type) + ", operation " + std::to_string(call.op) + ", root or peer " +
         std::to_string(call.peer);
}

size_t InBytes(const NcclCall& call, int ranks) {
  if (call.kind == NcclKind::kRecv) return 0;
  return call.count * SizeOf(call.type) * (call.kind == NcclKind::kReduceScatter ? static_cast<size_t>(ranks) : 1);
}

size_t OutBytes(const NcclCall& call, int ranks) {
  if (call.kind == NcclKind::kSend) return 0;
  return call.count * SizeOf(call.type) * (call.kind == NcclKind::kAllGather ? static_cast<size_t>(ranks) : 1);
}

// The result is complete before any buffer is written: calls may be in place.
void RunCollective(const std::vector<NcclCall>& calls) {
  const NcclCall& first = calls[0];
  const size_t ranks = calls.size();
  const size_t bytes = first.count * SizeOf(first.type);
  const bool sliced = first.kind == NcclKind::kReduceScatter;
  std::vector<const char*> in;
  for (const NcclCall& call : calls) in.push_back(static_cast<const char*>(call.in));
  std::vector<char> result;
  switch (first.kind) {
    case NcclKind::kAllReduce:
    case NcclKind::kReduce:
    case NcclKind::kReduceScatter: {
      const size_t count = first.count * (sliced ? ranks : 1);
      result.resize(count * SizeOf(first.type));
      Reduce(in, result.data(), count, first.type, first.op);
      break;
    }
    case NcclKind::kAllGather:
      for (const char* part : in) result.insert(result.end(), part, part + bytes);
      break;
    case NcclKind::kBroadcast: {
      const char* root = in[static_cast<size_t>(first.peer)];
      result.assign(root, root + bytes);
      break;
    }
    case NcclKind::kSend:
    case NcclKind::kRecv:
      return;
  }
  for (size_t rank = 0; rank < ranks; ++rank) {
    if (first.kind == NcclKind::kReduce && static_cast<int>(rank) != first.peer) continue;
    const size_t offset = sliced ? rank * bytes : 0;
    std::memcpy(calls[rank].out, result.data() + offset, OutBytes(calls[rank], static_cast<int>(ranks)));
  }
}

}  // namespace cuda_emulator
