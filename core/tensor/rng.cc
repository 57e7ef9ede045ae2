#include "core/tensor/rng.h"

namespace shardit {
namespace {

// Walks the blocks that cover [first, first + count), so that each block is computed once.
template <class FromWord>
void Fill(const RngKey& key, uint64_t first, int64_t count, float* out, FromWord from_word) {
  int64_t written = 0;
  while (written < count) {
    const uint64_t element = first + static_cast<uint64_t>(written);
    const PhiloxBlock block = key.Block(element / 4);
    for (uint64_t lane = element % 4; lane < 4 && written < count; ++lane) out[written++] = from_word(block.word[lane]);
  }
}

}  // namespace

void FillUniform(const RngKey& key, uint64_t first, int64_t count, float* out) {
  Fill(key, first, count, out, UniformFromWord);
}

void FillNormal(const RngKey& key, uint64_t first, int64_t count, float* out) {
  Fill(key, first, count, out, NormalFromWord);
}

}  // namespace shardit
