// GemmPlans: how cuBLASLt is asked for each shape of matrix product, decided once and kept.
#pragma once

#include <memory>

#include "core/tensor/cuda_context.h"

namespace shardit::cuda {

class GemmPlans {
 public:
  static std::unique_ptr<GemmPlans> Make(Device device, const CudaOptions& options);
  virtual ~GemmPlans() = default;
};

}  // namespace shardit::cuda
