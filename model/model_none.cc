// Stands in for model/*.cu in a build without CUDA.
#include "core/cuda/unavailable.h"
#include "model/diffusion_batch.h"
#include "model/diffusion_loss.h"

namespace shardit::cuda {

void AddImageLosses(const ImageLoss* images, int64_t count, int64_t* limbs, CudaContext& context) { Unavailable(); }
void DiffusionLoss(const DeviceLossArgs& args, CudaContext& context) { Unavailable(); }
void DrawNoise(const NoiseArgs& args, CudaContext& context) { Unavailable(); }

}  // namespace shardit::cuda
