// The shape of a Diffusion Transformer: what a run's configuration says about the model, checked. Plain values, copied
// freely.
//
// Source: Peebles & Xie, "Scalable Diffusion Models with Transformers" (arXiv 2212.09748), sections 3.2 and 4.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace shardit {

// How a block sees the timestep and the label (figure 3 of the paper).
enum class Conditioning {
  kAdaLnZero,       // shift, scale and gate from the condition, gates zero at the start: 6 D per block
  kAdaLn,           // shift and scale only: 4 D per block
  kCrossAttention,  // a cross-attention after self-attention over the tokens t, y; affine norms
  kInContext,       // the tokens t, y appended to the sequence and removed after the last block; affine norms
};

// Configuration spelling: "ADALN_ZERO", "ADALN", "CROSS_ATTENTION", "IN_CONTEXT".
std::string_view Name(Conditioning conditioning);
// InvalidArgument names the four spellings.
absl::StatusOr<Conditioning> ParseConditioning(std::string_view name);

struct DitConfig {
  std::string name;        // "DiT-XL/2", or empty for a size without a name
  int64_t depth = 0;       // blocks
  int64_t width = 0;       // D
  int64_t heads = 0;       // divides width
  int64_t patch = 0;       // latent elements along one edge of a token; divides side
  int64_t channels = 4;    // of the latent
  int64_t side = 32;       // of the latent, elements
  int64_t classes = 1000;  // without the null class
  bool learn_sigma = true;
  float class_dropout = 0.1f;  // probability that training replaces a label by the null class
  Conditioning conditioning = Conditioning::kAdaLnZero;

  int64_t grid() const { return side / patch; }       // tokens along one edge
  int64_t tokens() const { return grid() * grid(); }  // T of an image, without conditioning tokens
  int64_t head_dim() const { return width / heads; }  // K
  int64_t mlp_width() const { return 4 * width; }
  int64_t out_channels() const { return learn_sigma ? 2 * channels : channels; }
  int64_t patch_in() const { return channels * patch * patch; }  // latent elements of one token
  int64_t patch_out() const { return out_channels() * patch * patch; }
  int64_t latent_elements() const { return channels * side * side; }
  int64_t null_class() const { return classes; }
  int64_t label_rows() const { return classes + 1; }  // the null class's row exists even without dropout

  // InvalidArgument with field, expectation, value and remedy. What passes can be sized in int64 without overflow.
  absl::Status Validate() const;

  bool operator==(const DitConfig&) const = default;
};

}  // namespace shardit
