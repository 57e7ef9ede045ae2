#include "core/cuda/peak_flops.h"

namespace shardit::cuda {
namespace {

struct Peak {
  std::string_view name;
  double tflops;
};

// Data sheets quote Hopper's and Ada's products with sparsity: half of that is dense.
constexpr Peak kPeaks[] = {
    {"NVIDIA A100-SXM4-40GB", 312},
    {"NVIDIA A100-SXM4-80GB", 312},
    {"NVIDIA A100-PCIE-40GB", 312},
    {"NVIDIA A100 80GB PCIe", 312},
    {"NVIDIA A30", 165},
    {"NVIDIA A40", 149.7},
    {"NVIDIA A10", 125},
    {"NVIDIA H100 80GB HBM3", 989.4},  // SXM5
    {"NVIDIA H100 PCIe", 756.5},
    {"NVIDIA H100 NVL", 835.5},
    {"NVIDIA H200", 989.4},  // SXM5
    {"NVIDIA H200 NVL", 835.5},
    {"NVIDIA L4", 121},
    {"NVIDIA L40", 181.05},
    {"NVIDIA L40S", 362.05},
    {"NVIDIA GeForce RTX 4090", 165.2},
};

}  // namespace

std::optional<double> PeakBf16Flops(std::string_view device_name) {
  for (const Peak& peak : kPeaks) {
    if (peak.name == device_name) return 1e12 * peak.tflops;
  }
  return std::nullopt;
}

}  // namespace shardit::cuda
