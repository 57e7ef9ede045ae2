// Warp functions and the PTX instructions that a whole warp executes: what the last lane to arrive computes for all.
#include <cstring>

#include "cuda_emulator_device.h"
#include "tests/cuda_emulator/block.h"

namespace cuda_emulator {
namespace {

// Value of a lane that does not take part: a NaN, and improbable as a number.
constexpr uint64_t kNoValue = ~uint64_t{0};

struct ShuffleLane {
  uint64_t value;
  int operand;
  int width;
  uint64_t result;
};

// The lane whose value `lane` receives; its own where the other is outside its segment of `width` lanes.
int SourceLane(Shuffle kind, int lane, int operand, int width) {
  const int begin = lane & ~(width - 1), end = begin + width;
  switch (kind) {
    case Shuffle::kIndex:
      return begin | (operand & (width - 1));
    case Shuffle::kUp:
      return lane - operand < begin ? lane : lane - operand;
    case Shuffle::kDown:
      return lane + operand >= end ? lane : lane + operand;
    case Shuffle::kXor:
      return (lane ^ operand) >= end ? lane : lane ^ operand;
  }
  return lane;
}

template <Shuffle kKind>
void ShuffleAll(void* const payloads[kWarpSize], unsigned lanes) {
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (payloads[lane] == nullptr) continue;
    ShuffleLane& mine = *static_cast<ShuffleLane*>(payloads[lane]);
    const int source = SourceLane(kKind, lane, mine.operand, mine.width);
    const void* other = source >= 0 && source < kWarpSize ? payloads[source] : nullptr;
    mine.result = other == nullptr ? kNoValue : static_cast<const ShuffleLane*>(other)->value;
  }
}

struct VoteLane {
  unsigned value;
  unsigned result;
};

void BallotAll(void* const payloads[kWarpSize], unsigned lanes) {
  unsigned ballot = 0;
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (payloads[lane] != nullptr && static_cast<VoteLane*>(payloads[lane])->value != 0) ballot |= 1u << lane;
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (payloads[lane] != nullptr) static_cast<VoteLane*>(payloads[lane])->result = ballot;
  }
}

void AnyAll(void* const payloads[kWarpSize], unsigned lanes) {
  BallotAll(payloads, lanes);
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (payloads[lane] == nullptr) continue;
    VoteLane& vote = *static_cast<VoteLane*>(payloads[lane]);
    vote.result = vote.result != 0;
  }
}

void AllAll(void* const payloads[kWarpSize], unsigned lanes) {
  BallotAll(payloads, lanes);
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (payloads[lane] == nullptr) continue;
    VoteLane& vote = *static_cast<VoteLane*>(payloads[lane]);
    vote.result = vote.result == lanes;
  }
}

unsigned Combine(Reduction kind, unsigned a, unsigned b) {
  switch (kind) {
    case Reduction::kAdd:
    case Reduction::kAddSigned:
      return a + b;
    case Reduction::kMin:
      return a < b ? a : b;
    case Reduction::kMax:
      return a > b ? a : b;
    case Reduction::kMinSigned:
      return static_cast<int>(a) < static_cast<int>(b) ? a : b;
    case Reduction::kMaxSigned:
      return static_cast<int>(a) > static_cast<int>(b) ? a : b;
    case Reduction::kAnd:
      return a & b;
    case Reduction::kOr:
      return a | b;
    case Reduction::kXor:
      return a ^ b;
  }
  return 0;
}

struct ReduceLane {
  Reduction kind;
  unsigned value;
  unsigned result;
};

void ReduceAll(void* const payloads[kWarpSize], unsigned lanes) {
  bool first = true;
  Reduction kind = Reduction::kAdd;
  unsigned total = 0;
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (payloads[lane] == nullptr) continue;
    const ReduceLane& mine = *static_cast<ReduceLane*>(payloads[lane]);
    if (!first && mine.kind != kind) FatalInKernel("lanes of one warp meet in different reductions");
    total = first ? mine.value : Combine(mine.kind, total, mine.value);
    kind = mine.kind;
    first = false;
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (payloads[lane] != nullptr) static_cast<ReduceLane*>(payloads[lane])->result = total;
  }
}

void RequireWholeWarp(const char* name, unsigned lanes) {
  if (lanes != kAllLanes) FatalInKernel(std::string(name) + " without the whole warp");
}

float FloatOf(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
float LowBFloat16(uint32_t pair) { return FloatOf(pair << 16); }
float HighBFloat16(uint32_t pair) { return FloatOf(pair & 0xffff0000u); }

struct MmaLane {
  float* d;
  const uint32_t* a;
  const uint32_t* b;
  const float* c;
};

// Fragments (PTX ISA, "Matrix fragments for mma.m16n8k16"), with g = lane / 4 and t = lane % 4:
//   a[0] = A[g][2t, 2t+1]      a[1] = A[g+8][2t, 2t+1]      a[2] = A[g][2t+8, 2t+9]      a[3] = A[g+8][2t+8, 2t+9]
//   b[0] = B[2t, 2t+1][g]      b[1] = B[2t+8, 2t+9][g]
//   c[0], c[1] = C[g][2t, 2t+1]                             c[2], c[3] = C[g+8][2t, 2t+1]
void MmaBf16All(void* const payloads[kWarpSize], unsigned lanes) {
  RequireWholeWarp("mma", lanes);
  float a[16][16], b[16][8], d[16][8];
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const MmaLane& mine = *static_cast<MmaLane*>(payloads[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) {
      const int row = g + 8 * (i % 2), column = 2 * t + 8 * (i / 2);
      a[row][column] = LowBFloat16(mine.a[i]);
      a[row][column + 1] = HighBFloat16(mine.a[i]);
    }
    for (int i = 0; i < 2; ++i) {
      b[2 * t + 8 * i][g] = LowBFloat16(mine.b[i]);
      b[2 * t + 8 * i + 1][g] = HighBFloat16(mine.b[i]);
    }
    for (int i = 0; i < 4; ++i) d[g + 8 * (i / 2)][2 * t + i % 2] = mine.c[i];
  }
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < 16; ++k) {
      for (int column = 0; column < 8; ++column) d[row][column] += a[row][k] * b[k][column];
    }
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const MmaLane& mine = *static_cast<MmaLane*>(payloads[lane]);
    for (int i = 0; i < 4; ++i) mine.d[i] = d[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2];
  }
}

// Fragments (PTX ISA, "Matrix fragments for mma.m16n8k8", .tf32):
//   a[0] = A[g][t]     a[1] = A[g+8][t]     a[2] = A[g][t+4]     a[3] = A[g+8][t+4]
//   b[0] = B[t][g]     b[1] = B[t+4][g]     c, d as above
void MmaTf32All(void* const payloads[kWarpSize], unsigned lanes) {
  RequireWholeWarp("mma", lanes);
  constexpr uint32_t kTf32Bits = 0xffffe000u;
  float a[16][8], b[8][8], d[16][8];
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const MmaLane& mine = *static_cast<MmaLane*>(payloads[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) a[g + 8 * (i % 2)][t + 4 * (i / 2)] = FloatOf(mine.a[i] & kTf32Bits);
    for (int i = 0; i < 2; ++i) b[t + 4 * i][g] = FloatOf(mine.b[i] & kTf32Bits);
    for (int i = 0; i < 4; ++i) d[g + 8 * (i / 2)][2 * t + i % 2] = mine.c[i];
  }
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < 8; ++k) {
      for (int column = 0; column < 8; ++column) d[row][column] += a[row][k] * b[k][column];
    }
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const MmaLane& mine = *static_cast<MmaLane*>(payloads[lane]);
    for (int i = 0; i < 4; ++i) mine.d[i] = d[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2];
  }
}

struct LdMatrixLane {
  uint32_t* registers;
  const void* row;
};

// Register j of lane l: elements 2 (l % 4) and 2 (l % 4) + 1 of row l / 4 of matrix j, whose rows are at the addresses
// of lanes 8j .. 8j + 7; transposed, those two elements of column l / 4.
template <int kMatrices, bool kTransposed>
void LdMatrixAll(void* const payloads[kWarpSize], unsigned lanes) {
  RequireWholeWarp("ldmatrix", lanes);
  uint16_t matrix[kMatrices][8][8];
  for (int lane = 0; lane < 8 * kMatrices; ++lane) {
    const void* row = static_cast<LdMatrixLane*>(payloads[lane])->row;
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0) {
      FatalInKernel("ldmatrix: the row of lane " + std::to_string(lane) + " is not aligned to 16 bytes");
    }
    std::memcpy(matrix[lane / 8][lane % 8], row, 16);
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    uint32_t* registers = static_cast<LdMatrixLane*>(payloads[lane])->registers;
    const int g = lane / 4, t = lane % 4;
    for (int j = 0; j < kMatrices; ++j) {
      const uint32_t low = kTransposed ? matrix[j][2 * t][g] : matrix[j][g][2 * t];
      const uint32_t high = kTransposed ? matrix[j][2 * t + 1][g] : matrix[j][g][2 * t + 1];
      registers[j] = low | high << 16;
    }
  }
}

template <int kMatrices, bool kTransposed>
void LdMatrix(uint32_t* registers, const void* row, Location where) {
  LdMatrixLane lane{registers, row};
  static constexpr char kName[] = "ldmatrix";
  WarpRendezvous(kName, kAllLanes, &lane, &LdMatrixAll<kMatrices, kTransposed>, where);
}

void NothingForAll(void* const[kWarpSize], unsigned) {}

}  // namespace

uint64_t WarpShuffle(Shuffle kind, unsigned mask, uint64_t value, int operand, int width, Location where) {
  if (width < 1 || width > kWarpSize || (width & (width - 1)) != 0) {
    FatalInKernel("a shuffle over a width of " + std::to_string(width) + " lanes");
  }
  ShuffleLane lane{value, operand, width, 0};
  switch (kind) {
    case Shuffle::kIndex:
      WarpRendezvous("__shfl_sync", mask, &lane, &ShuffleAll<Shuffle::kIndex>, where);
      break;
    case Shuffle::kUp:
      WarpRendezvous("__shfl_up_sync", mask, &lane, &ShuffleAll<Shuffle::kUp>, where);
      break;
    case Shuffle::kDown:
      WarpRendezvous("__shfl_down_sync", mask, &lane, &ShuffleAll<Shuffle::kDown>, where);
      break;
    case Shuffle::kXor:
      WarpRendezvous("__shfl_xor_sync", mask, &lane, &ShuffleAll<Shuffle::kXor>, where);
      break;
  }
  return lane.result;
}

unsigned WarpVote(Vote kind, unsigned mask, int predicate, Location where) {
  VoteLane lane{predicate != 0, 0};
  switch (kind) {
    case Vote::kBallot:
      WarpRendezvous("__ballot_sync", mask, &lane, &BallotAll, where);
      break;
    case Vote::kAny:
      WarpRendezvous("__any_sync", mask, &lane, &AnyAll, where);
      break;
    case Vote::kAll:
      WarpRendezvous("__all_sync", mask, &lane, &AllAll, where);
      break;
  }
  return lane.result;
}

unsigned WarpReduce(Reduction kind, unsigned mask, unsigned value, Location where) {
  ReduceLane lane{kind, value, 0};
  WarpRendezvous("__reduce_sync", mask, &lane, &ReduceAll, where);
  return lane.result;
}

void WarpBarrier(unsigned mask, Location where) { WarpRendezvous("__syncwarp", mask, nullptr, &NothingForAll, where); }

// CUDA promises no more than that the calling lane is in it.
unsigned ActiveMask() { return 1u << CurrentLane(); }

void MmaM16N8K16Bf16(float d[4], const uint32_t a[4], const uint32_t b[2], const float c[4], Location where) {
  MmaLane lane{d, a, b, c};
  WarpRendezvous("mma.m16n8k16", kAllLanes, &lane, &MmaBf16All, where);
}

void MmaM16N8K8Tf32(float d[4], const uint32_t a[4], const uint32_t b[2], const float c[4], Location where) {
  MmaLane lane{d, a, b, c};
  WarpRendezvous("mma.m16n8k8", kAllLanes, &lane, &MmaTf32All, where);
}

void LdMatrixX1(uint32_t r[1], const void* shared_row, Location where) { LdMatrix<1, false>(r, shared_row, where); }
void LdMatrixX2(uint32_t r[2], const void* shared_row, Location where) { LdMatrix<2, false>(r, shared_row, where); }
void LdMatrixX4(uint32_t r[4], const void* shared_row, Location where) { LdMatrix<4, false>(r, shared_row, where); }
void LdMatrixX1Trans(uint32_t r[1], const void* shared_row, Location where) { LdMatrix<1, true>(r, shared_row, where); }
void LdMatrixX2Trans(uint32_t r[2], const void* shared_row, Location where) { LdMatrix<2, true>(r, shared_row, where); }
void LdMatrixX4Trans(uint32_t r[4], const void* shared_row, Location where) { LdMatrix<4, true>(r, shared_row, where); }

}  // namespace cuda_emulator
