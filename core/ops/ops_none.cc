// Stands in for core/ops/*.cu in a build without CUDA: a kernel that has no line here is a link error there.
#include "core/cuda/unavailable.h"
#include "core/ops/adamw.h"
#include "core/ops/attention_kernel.h"
#include "core/ops/batch_norm.h"
#include "core/ops/column_sums.h"
#include "core/ops/conv2d.h"
#include "core/ops/cross_entropy.h"
#include "core/ops/embedding.h"
#include "core/ops/gated_residual.h"
#include "core/ops/gemm.h"
#include "core/ops/norm_kernel.h"
#include "core/ops/patch_embed.h"
#include "core/ops/pool2d.h"
#include "core/ops/relu.h"
#include "core/ops/resize.h"
#include "core/ops/silu.h"
#include "core/ops/timestep_embedding.h"
#include "core/ops/unpatchify.h"

namespace shardit::cuda {

void Add(const AddArgs& args, CudaContext& context) { Unavailable(); }
void AdamwEma(const AdamwRunsArgs& args, CudaContext& context) { Unavailable(); }
void AttentionBwd(const AttentionBwdArgs& args, CudaContext& context) { Unavailable(); }
void AttentionFwd(const AttentionFwdArgs& args, CudaContext& context) { Unavailable(); }
void BatchNorm(const BatchNormArgs& args, CudaContext& context) { Unavailable(); }
void Col2Im(const Col2ImArgs& args, CudaContext& context) { Unavailable(); }
void ColumnSums(const ColumnSumsArgs& args, CudaContext& context) { Unavailable(); }
void CrossEntropyBwd(const CrossEntropyBwdArgs& args, CudaContext& context) { Unavailable(); }
void CrossEntropyFwd(const CrossEntropyFwdArgs& args, CudaContext& context) { Unavailable(); }
void EmbeddingBwd(const EmbeddingBwdArgs& args, CudaContext& context) { Unavailable(); }
void EmbeddingFwd(const EmbeddingFwdArgs& args, CudaContext& context) { Unavailable(); }
void Gemm(const GemmArgs& args, CudaContext& context) { Unavailable(); }
void Im2Col(const Im2ColArgs& args, CudaContext& context) { Unavailable(); }
void NormBwd(const NormBwdArgs& args, CudaContext& context) { Unavailable(); }
void NormFwd(const NormFwdArgs& args, CudaContext& context) { Unavailable(); }
void Patchify(const PatchifyArgs& args, CudaContext& context) { Unavailable(); }
int64_t PlaceBlocks(std::span<SquaresRun> runs) { Unavailable(); }
int64_t PlaceTiles(std::span<AdamwRun> runs) { Unavailable(); }
void Pool2dBwd(const Pool2dBwdArgs& args, CudaContext& context) { Unavailable(); }
void Pool2dFwd(const Pool2dFwdArgs& args, CudaContext& context) { Unavailable(); }
void ReluBwd(const ReluBwdArgs& args, CudaContext& context) { Unavailable(); }
void ReluFwd(const ReluFwdArgs& args, CudaContext& context) { Unavailable(); }
void ResizeBilinear(const ResizeBilinearArgs& args, CudaContext& context) { Unavailable(); }
void SiluBwd(const SiluBwdArgs& args, CudaContext& context) { Unavailable(); }
void SiluFwd(const SiluFwdArgs& args, CudaContext& context) { Unavailable(); }
void SumOfSquares(const SumOfSquaresArgs& args, CudaContext& context) { Unavailable(); }
void TimestepFeatures(const TimestepFeaturesArgs& args, CudaContext& context) { Unavailable(); }
void UnpatchifyBwd(const UnpatchifyBwdArgs& args, CudaContext& context) { Unavailable(); }
void UnpatchifyFwd(const UnpatchifyFwdArgs& args, CudaContext& context) { Unavailable(); }

}  // namespace shardit::cuda
