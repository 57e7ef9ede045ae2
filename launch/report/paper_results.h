// What the paper measured (arXiv 2212.09748, Tables 4 and 5 and Section 5): 400K training steps at batch 256, FID-50K
// without guidance, 250 DDPM steps. Its "Gflops" are multiply-accumulates of one forward pass.
#pragma once

#include <array>
#include <cstdint>

namespace shardit {

struct PaperResult {
  const char* size;  // "S"
  int64_t patch;
  const char* conditioning;  // as in configurations, in lower case
  double gflops;
  double fid;
};

inline constexpr std::array<PaperResult, 12> kPaperModels = {{
    {"S", 8, "adaln_zero", 0.36, 153.60},
    {"S", 4, "adaln_zero", 1.41, 100.41},
    {"S", 2, "adaln_zero", 6.06, 68.40},
    {"B", 8, "adaln_zero", 1.42, 122.74},
    {"B", 4, "adaln_zero", 5.56, 68.38},
    {"B", 2, "adaln_zero", 23.01, 43.47},
    {"L", 8, "adaln_zero", 5.01, 118.87},
    {"L", 4, "adaln_zero", 19.70, 45.64},
    {"L", 2, "adaln_zero", 80.71, 23.33},
    {"XL", 8, "adaln_zero", 7.39, 106.41},
    {"XL", 4, "adaln_zero", 29.05, 43.01},
    {"XL", 2, "adaln_zero", 118.64, 19.47},
}};

inline constexpr std::array<PaperResult, 4> kPaperDesigns = {{
    {"XL", 2, "in_context", 119.37, 35.24},
    {"XL", 2, "cross_attention", 137.62, 26.14},
    {"XL", 2, "adaln", 118.56, 25.21},
    {"XL", 2, "adaln_zero", 118.64, 19.47},
}};

// Between Gflops (on a logarithmic axis) and FID, as the paper states it.
inline constexpr double kPaperCorrelation = -0.93;

}  // namespace shardit
