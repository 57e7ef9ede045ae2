// The paper's models as rows of a table, and what a model of any size costs: parameters and multiply-accumulates in
// closed form, checked against the paper's figures by tests/model/dit_variants_test.cc. Nothing is built or allocated.
//
// Source: arXiv 2212.09748, tables 1 and 4, and the authors' code (facebookresearch/DiT, models.py). The authors
// released adaLN-Zero alone; the parameter counts of table 4 pin the structure of the others:
//   in-context       the tokens t, y are appended to the sequence before the first block and removed after the last; no
//   adaLN,
//                    the final layer included; every layer norm is affine
//   cross-attention  affine norm, self-attention, affine norm, attention to the tokens t, y (q, kv and output
//                    projections with bias), affine norm, MLP; no adaLN, the final layer included
//   adaLN            shift and scale, no gate: 4 D a block, 2 D in the final layer
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "model/dit_config.h"

namespace shardit {

// One row of the paper's table of sizes.
struct DitVariant {
  std::string_view name;  // "DiT-S/8"
  int64_t depth;
  int64_t width;
  int64_t heads;
  int64_t patch;
};

inline constexpr std::array<Conditioning, 4> kAllConditionings = {
    Conditioning::kAdaLnZero, Conditioning::kAdaLn, Conditioning::kCrossAttention, Conditioning::kInContext};

// The 12 sizes, S/8 first, XL/2 last.
std::span<const DitVariant> DitVariants();

// The named size with adaLN-Zero, 4 x 32 x 32 latents and 1000 classes; the caller changes what differs. NotFound lists
// the names, with the nearest first.
absl::StatusOr<DitConfig> FindVariant(std::string_view name);

// All 48 combinations, sizes in table order, each with the four conditionings.
std::vector<DitConfig> AllVariants();

// Elements of all parameters, the fixed position table included. `config` has passed Validate().
int64_t ParameterCount(const DitConfig& config);
// Elements of the position table, which is not trained: [T, D]. The paper's rounded "parameters" leave it out.
int64_t PositionTableCount(const DitConfig& config);

// Multiply-accumulates of one image's forward: every matrix product, both products of attention included; norms,
// activations and additions are not counted. An integer, exact below 2^53. The paper's "Gflops" are 1e-9 of this.
double MacsForward(const DitConfig& config);
inline double GmacsForward(const DitConfig& config) { return 1e-9 * MacsForward(config); }

// The same by unit of the chain (model/dit.h): embedding, blocks, final layer. Sums to MacsForward.
std::vector<double> UnitMacs(const DitConfig& config);

// Floating-point operations to train on one image: two to a multiply-accumulate, and backward costs twice the forward.
inline double TrainFlops(const DitConfig& config) { return 3.0 * 2.0 * MacsForward(config); }

}  // namespace shardit
