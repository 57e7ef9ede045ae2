// What the bf16 attention kernels are made of: tiles of token rows in shared memory, strips of 16 token rows in a
// warp's registers, and the two kinds of product between them on tensor cores:
//
//   scores  [16, columns] = strip [16, head_dim] x tile [columns, head_dim]^T       contracts over head_dim
//   outputs [16, head_dim] += weights [16, columns] x tile [columns, head_dim]      contracts over the tile's rows
//
// Both read one tile as it lies in memory, the second through a transposing load, so nothing is stored twice. Scores
// leave the first product in the layout in which the second takes its weights (Dao, FlashAttention-2, arXiv
// 2307.08691). A head_dim of 72 is four steps of 16 and one of 8 where it is contracted over, and nine columns of 8
// otherwise: no padding is multiplied.
//
// Lane l of a warp is in group l / 4 (a row of a strip, and the row 8 below) and has place l % 4 in it.
#pragma once

#include "core/cuda/launch.cuh"
#include "core/cuda/ptx.cuh"

namespace shardit::cuda::attention {

using Bf16 = __nv_bfloat16;

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kStripRows = 16;
constexpr int kTileRows = 64;  // what one group of asynchronous copies brings, of each of two operands
constexpr int kStepRows = 32;  // rings are multiples of this
constexpr float kLog2E = 1.44269504088896340736f;
constexpr float kLn2 = 0.69314718055994530942f;

template <int kHeadDim>
struct RowLayout {
  static_assert(kHeadDim % 8 == 0);
  static constexpr int kChunks = kHeadDim / 8;  // of 8 elements, 16 bytes
  static constexpr int kSteps = kHeadDim / 16;  // of a contraction over head_dim
  static constexpr bool kTail = kChunks % 2 != 0;
  // Elements from row to row in shared memory: an odd number of chunks, so that the 8 rows of a matrix load lie in 8
  // different groups of banks.
  static constexpr int kPitch = (kChunks | 1) * 8;
};

__device__ __forceinline__ int Lane() { return static_cast<int>(threadIdx.x) % kWarp; }
// The warp's number in its block. Asked of one lane, so that the compiler knows it to be the same in all of them.
__device__ __forceinline__ int WarpIndex() { return __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / kWarp, 0); }
__device__ __forceinline__ int Group() { return Lane() / 4; }
__device__ __forceinline__ int Place() { return Lane() % 4; }

// Two values as bf16 in one register, `low` in the lower half.
__device__ __forceinline__ uint32_t PackPair(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  uint32_t bits;
  memcpy(&bits, &pair, sizeof(bits));
  return bits;
}

__device__ __forceinline__ float2 UnpackPair(uint32_t bits) {
  return {__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u)};
}

// Among the four lanes of a group: word j of lane i becomes word i of lane j.
__device__ __forceinline__ void TransposeWords(uint32_t (&word)[4]) {
#pragma unroll
  for (int bit = 1; bit <= 2; bit *= 2) {
    const bool upper = (Lane() & bit) != 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (j & bit) continue;
      const uint32_t got = __shfl_xor_sync(kAllLanes, upper ? word[j] : word[j + bit], bit);
      word[j] = upper ? got : word[j];
      word[j + bit] = upper ? word[j + bit] : got;
    }
  }
}

__device__ __forceinline__ float SumOfGroup(float value) {
  value += __shfl_xor_sync(kAllLanes, value, 1);
  return value + __shfl_xor_sync(kAllLanes, value, 2);
}
__device__ __forceinline__ float MaxOfGroup(float value) {
  value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, 1));
  return fmaxf(value, __shfl_xor_sync(kAllLanes, value, 2));
}

// Starts copying `rows` token rows to shared memory by all threads of the block; rows from `valid` on become zeros.
template <int kHeadDim>
__device__ __forceinline__ void CopyTile(Bf16* tile, const Bf16* from, int64_t stride, int rows, int valid) {
  using Layout = RowLayout<kHeadDim>;
  for (int n = static_cast<int>(threadIdx.x); n < rows * Layout::kChunks; n += static_cast<int>(blockDim.x)) {
    const int row = n / Layout::kChunks, column = n % Layout::kChunks * 8;
    const bool inside = row < valid;
    CopyAsync16(tile + row * Layout::kPitch + column, from + (inside ? row : 0) * stride + column, inside);
  }
}

// Waits until all but the latest `pending` groups of this thread's copies have arrived (or more of them).
__device__ __forceinline__ void WaitForCopies(int pending) {
  if (pending <= 0) {
    CopyWait<0>();
  } else if (pending == 1) {
    CopyWait<1>();
  } else if (pending == 2) {
    CopyWait<2>();
  } else if (pending == 3) {
    CopyWait<3>();
  } else {
    CopyWait<4>();
  }
}

// Token rows of two operands on their way through shared memory: a ring of `ring_rows` rows of the first, then one of
// the second. Row t lies at t % ring_rows; all rows stay where the ring is long enough. Tiles of kTileRows rows (the
// last of a ring that holds everything may be shorter) are loaded in order, each one group of copies. Rows beyond
// `count` are zeros.
template <int kHeadDim>
struct TilePairs {
  static constexpr int kPitch = RowLayout<kHeadDim>::kPitch;

  __device__ __forceinline__ void Load(int tile) const {
    const int begin = tile * kTileRows;
    if (begin < count) {
      const int at = begin % ring_rows, rows = min(kTileRows, ring_rows - at);
      Bf16* to = shared + at * kPitch;
      CopyTile<kHeadDim>(to, first + begin * first_stride, first_stride, rows, count - begin);
      CopyTile<kHeadDim>(to + ring_rows * kPitch, second + begin * second_stride, second_stride, rows, count - begin);
    }
    CopyCommit();
  }

  Bf16* shared;
  int ring_rows;
  int count;
  const Bf16* first;
  int64_t first_stride;
  const Bf16* second;
  int64_t second_stride;
};

// Shared memory of a ring, bytes.
template <int kHeadDim>
constexpr int64_t RingBytes(int64_t ring_rows) {
  return ring_rows * 2 * RowLayout<kHeadDim>::kPitch * static_cast<int64_t>(sizeof(Bf16));
}

// Sixteen token rows as left operands of a contraction over head_dim.
template <int kHeadDim>
struct Strip {
  using Layout = RowLayout<kHeadDim>;

  // From device memory, 16 bytes a lane; rows from `valid` on are zeros.
  __device__ __forceinline__ void Load(const Bf16* rows, int64_t stride, int valid) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = Group() + 8 * half;
      const bool inside = row < valid;
      const Bf16* from = rows + (inside ? row : 0) * stride;
#pragma unroll
      for (int chunk = 0; chunk + 4 <= Layout::kChunks; chunk += 4) {
        uint4 loaded{0, 0, 0, 0};
        if (inside) loaded = *reinterpret_cast<const uint4*>(from + (chunk + Place()) * 8);
        uint32_t word[4] = {loaded.x, loaded.y, loaded.z, loaded.w};
        TransposeWords(word);
#pragma unroll
        for (int j = 0; j < 4; ++j) Set(half, chunk + j, word[j]);
      }
#pragma unroll
      for (int chunk = Layout::kChunks / 4 * 4; chunk < Layout::kChunks; ++chunk) {
        Set(half, chunk, inside ? *reinterpret_cast<const uint32_t*>(from + chunk * 8 + Place() * 2) : 0u);
      }
    }
  }

  // From a tile in shared memory.
  __device__ __forceinline__ void LoadShared(const Bf16* rows) {
    const Bf16* from = rows + Lane() % 16 * Layout::kPitch;
#pragma unroll
    for (int step = 0; step < Layout::kSteps; ++step) LoadMatrixX4(steps[step], from + step * 16 + Lane() / 16 * 8);
    if constexpr (Layout::kTail) LoadMatrixX2(tail, from + Layout::kSteps * 16);
  }

  __device__ __forceinline__ void Set(int half, int chunk, uint32_t word) {
    if (Layout::kTail && chunk == Layout::kChunks - 1) {
      tail[half] = word;
    } else {
      steps[chunk / 2][half + chunk % 2 * 2] = word;
    }
  }

  uint32_t steps[Layout::kSteps][4];
  uint32_t tail[2];
};

// scores[strip][j] = columns 8 j .. 8 j + 7, one per row of the tile; 8 kColumns of them, kColumns 2 or 4.
template <int kHeadDim, int kStrips, int kColumns>
__device__ __forceinline__ void MultiplyRows(float (&scores)[kStrips][kColumns][4],
                                             const Strip<kHeadDim> (&strips)[kStrips], const Bf16* tile) {
  using Layout = RowLayout<kHeadDim>;
  static_assert(kColumns == 2 || kColumns == 4);
#pragma unroll
  for (int s = 0; s < kStrips; ++s) {
#pragma unroll
    for (int j = 0; j < kColumns; ++j) scores[s][j][0] = scores[s][j][1] = scores[s][j][2] = scores[s][j][3] = 0.0f;
  }
  const Bf16* from = tile + (Lane() / 16 * 8 + Lane() % 8) * Layout::kPitch + Lane() / 8 % 2 * 8;
#pragma unroll
  for (int step = 0; step < Layout::kSteps; ++step) {
#pragma unroll
    for (int j = 0; j < kColumns; j += 2) {
      uint32_t b[4];
      LoadMatrixX4(b, from + j * 8 * Layout::kPitch + step * 16);
      const uint32_t left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
#pragma unroll
      for (int s = 0; s < kStrips; ++s) {
        MmaM16N8K16(scores[s][j], strips[s].steps[step], left, scores[s][j]);
        MmaM16N8K16(scores[s][j + 1], strips[s].steps[step], right, scores[s][j + 1]);
      }
    }
  }
  if constexpr (Layout::kTail) {
    uint32_t b[kColumns];
    const Bf16* last = tile + Lane() % (8 * kColumns) * Layout::kPitch + Layout::kSteps * 16;
    if constexpr (kColumns == 4) {
      LoadMatrixX4(b, last);
    } else {
      LoadMatrixX2(b, last);
    }
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
#pragma unroll
      for (int s = 0; s < kStrips; ++s) MmaM16N8K8(scores[s][j], strips[s].tail, b[j], scores[s][j]);
    }
  }
}

// outputs[strip][chunk] += weights times the first 8 kColumns rows of the tile; weights as PackWeights leaves them.
template <int kHeadDim, int kStrips, int kHalves>
__device__ __forceinline__ void MultiplyColumns(float (&outputs)[kStrips][kHeadDim / 8][4],
                                                const uint32_t (&weights)[kStrips][kHalves][4], const Bf16* tile) {
  using Layout = RowLayout<kHeadDim>;
  const Bf16* from = tile + Lane() % 16 * Layout::kPitch + Lane() / 16 * 8;
#pragma unroll
  for (int half = 0; half < kHalves; ++half) {
#pragma unroll
    for (int chunk = 0; chunk + 2 <= Layout::kChunks; chunk += 2) {
      uint32_t b[4];
      LoadMatrixX4Transposed(b, from + half * 16 * Layout::kPitch + chunk * 8);
      const uint32_t left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
#pragma unroll
      for (int s = 0; s < kStrips; ++s) {
        MmaM16N8K16(outputs[s][chunk], weights[s][half], left, outputs[s][chunk]);
        MmaM16N8K16(outputs[s][chunk + 1], weights[s][half], right, outputs[s][chunk + 1]);
      }
    }
  }
  if constexpr (Layout::kTail) {
    constexpr int kLast = Layout::kChunks - 1;
    uint32_t b[2 * kHalves];
    const Bf16* last = tile + Lane() % (16 * kHalves) * Layout::kPitch + kLast * 8;
    if constexpr (kHalves == 2) {
      LoadMatrixX4Transposed(b, last);
    } else {
      LoadMatrixX2Transposed(b, last);
    }
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      const uint32_t part[2] = {b[2 * half], b[2 * half + 1]};
#pragma unroll
      for (int s = 0; s < kStrips; ++s) MmaM16N8K16(outputs[s][kLast], weights[s][half], part, outputs[s][kLast]);
    }
  }
}

// Scores, rounded to bf16, as left operands of MultiplyColumns.
template <int kStrips, int kColumns>
__device__ __forceinline__ void PackWeights(const float (&scores)[kStrips][kColumns][4],
                                            uint32_t (&weights)[kStrips][kColumns / 2][4]) {
#pragma unroll
  for (int s = 0; s < kStrips; ++s) {
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      weights[s][j / 2][j % 2 * 2] = PackPair(scores[s][j][0], scores[s][j][1]);
      weights[s][j / 2][j % 2 * 2 + 1] = PackPair(scores[s][j][2], scores[s][j][3]);
    }
  }
}

// Writes one strip of outputs, rows [0, valid) of 16, each multiplied by its half's factor.
template <int kChunks>
__device__ __forceinline__ void StoreStrip(const float (&outputs)[kChunks][4], const float (&factor)[2], Bf16* rows,
                                           int64_t stride, int valid) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = Group() + 8 * half;
    const bool inside = row < valid;
    Bf16* to = rows + (inside ? row : 0) * stride;
    const auto word_of = [&](int chunk) {
      return PackPair(outputs[chunk][2 * half] * factor[half], outputs[chunk][2 * half + 1] * factor[half]);
    };
#pragma unroll
    for (int chunk = 0; chunk + 4 <= kChunks; chunk += 4) {
      uint32_t word[4] = {word_of(chunk), word_of(chunk + 1), word_of(chunk + 2), word_of(chunk + 3)};
      TransposeWords(word);
      if (inside) {
        *reinterpret_cast<uint4*>(to + (chunk + Place()) * 8) = make_uint4(word[0], word[1], word[2], word[3]);
      }
    }
#pragma unroll
    for (int chunk = kChunks / 4 * 4; chunk < kChunks; ++chunk) {
      const uint32_t word = word_of(chunk);
      if (inside) *reinterpret_cast<uint32_t*>(to + chunk * 8 + Place() * 2) = word;
    }
  }
}

// Strips of scores, or their gradients: columns from `valid` on get the value.
template <int kStrips, int kColumns>
__device__ __forceinline__ void MaskColumns(float (&scores)[kStrips][kColumns][4], int valid, float value) {
#pragma unroll
  for (int j = 0; j < kColumns; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      if (8 * j + 2 * Place() + e % 2 < valid) continue;
#pragma unroll
      for (int s = 0; s < kStrips; ++s) scores[s][j][e] = value;
    }
  }
}

// The head dims that have a path on tensor cores: what body.operator()<kHeadDim>() returns. False for any other.
template <class Body>
bool WithTensorHeadDim(int64_t head_dim, const Body& body) {
  switch (head_dim) {
    case 32:
      return body.template operator()<32>();
    case 48:
      return body.template operator()<48>();
    case 64:
      return body.template operator()<64>();
    case 72:
      return body.template operator()<72>();
    case 96:
      return body.template operator()<96>();
    case 128:
      return body.template operator()<128>();
    default:
      return false;
  }
}

}  // namespace shardit::cuda::attention
