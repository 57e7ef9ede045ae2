// The cases of every op, made in *_cases.cc.
#pragma once

#include <vector>

#include "tests/core/op_case.h"

namespace shardit {

std::vector<OpCase> AttentionCases();
std::vector<OpCase> BatchNormCases();
std::vector<OpCase> ConcatChannelsCases();
std::vector<OpCase> Conv2dCases();
std::vector<OpCase> CrossEntropyCases();
std::vector<OpCase> EmbeddingCases();
std::vector<OpCase> GatedResidualCases();
std::vector<OpCase> LayerNormCases();
std::vector<OpCase> LinearCases();
std::vector<OpCase> MlpCases();
std::vector<OpCase> PatchifyCases();
std::vector<OpCase> PatchProjectionCases();
std::vector<OpCase> PoolCases();
std::vector<OpCase> ReluCases();
std::vector<OpCase> ResizeCases();
std::vector<OpCase> SiluCases();
std::vector<OpCase> SplitCases();
std::vector<OpCase> TokensCases();
std::vector<OpCase> UnpatchifyCases();

// All of them. Names are unique.
std::vector<OpCase> AllOpCases();

// Not among them: tiles of windows that end within an image, and images of several tiles, on the CPU, whose tiles are
// the smaller ones.
std::vector<OpCase> Conv2dTileCases();

// A shape of a published model, for large cases.
struct ModelWidth {
  int64_t width;
  int64_t heads;
};
inline constexpr ModelWidth kModelWidths[] = {{384, 6}, {768, 12}, {1024, 16}, {1152, 16}};  // S, B, L, XL
inline constexpr int64_t kModelTokens = 256;                                                 // patch 2
inline constexpr int64_t kModelBatch = 8;

}  // namespace shardit
