#include "tests/core/ops/op_cases.h"

#include <iterator>

namespace shardit {

std::vector<OpCase> AllOpCases() {
  std::vector<OpCase> all;
  for (const auto& cases :
       {AttentionCases, BatchNormCases, ConcatChannelsCases, Conv2dCases, CrossEntropyCases, EmbeddingCases,
        GatedResidualCases, LayerNormCases, LinearCases, MlpCases, PatchifyCases, PatchProjectionCases, PoolCases,
        ReluCases, ResizeCases, SiluCases, SplitCases, TokensCases, UnpatchifyCases}) {
    std::vector<OpCase> some = cases();
    all.insert(all.end(), std::make_move_iterator(some.begin()), std::make_move_iterator(some.end()));
  }
  return all;
}

}  // namespace shardit
