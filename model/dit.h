// Dit: the Diffusion Transformer of Peebles and Xie (arXiv 2212.09748, section 3.2) in its four conditioning designs.
// Written once, for a single device; parallelism arrives as data: which units of the model a call runs, which slice of
// each parameter is here, and the seams (TensorAxis, ParameterUnits) that a sharded run hands in.
//
// The model is a chain of units: unit 0 is the embedding (patches, timestep, label), unit 1 + i is block i, the last is
// the final layer. What flows between them is a DitFlow.
//
// Types: the model computes in the type of its parameters' values, fp32 or (on a GPU) bf16; latents and output are
// fp32.
//
// Shape letters: N batch, T tokens, D width, H heads, K head dim, C channels, E patch elements; x_NTD is [N, T, D].
//
// Parameter names and shapes are those of the published weights (x_embedder, t_embedder, y_embedder, blocks.N,
// final_layer). pos_embed is fixed and therefore not a parameter; it is exported beside them.
#pragma once

#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "core/autograd/tape.h"
#include "core/nn/layers.h"
#include "core/nn/parameter.h"
#include "core/nn/parameter_units.h"
#include "core/nn/tensor_axis.h"
#include "model/dit_config.h"
#include "model/recompute_mode.h"

namespace shardit {

struct DitInput {
  Tensor x_NCHW;  // noised latents, fp32
  Tensor t_N;     // original timesteps, i64
  Tensor y_N;     // labels, i32; `classes` is the null class
};

// Where the rank computes, from host memory of the caller that outlives the input: x [n, C, H, W], t and y [n].
DitInput InputFromHost(RankContext& context, const DitConfig& config, const float* x, const int64_t* t,
                       const int32_t* y, int64_t n);

// Units [begin, end) of the chain.
struct UnitRange {
  int begin = 0;
  int end = 0;
  friend bool operator==(const UnitRange&, const UnitRange&) = default;
};

// What one unit hands to the next: the tokens, and the conditioning that later units read ([N, D], SiLU of t + y, for
// the adaLN designs; the tokens t, y [N, 2, D] for cross-attention; undefined for in-context, whose tokens hold it).
struct DitFlow {
  Var x_NTD;
  Var condition;
};

struct DitForwardOptions {
  RecomputeMode recompute = RecomputeMode::kNone;
  const TensorAxis* tensor_axis = nullptr;  // null: every layer is whole
  ParameterUnits* units = nullptr;          // null: every parameter is in place
  // Called with "embed", "blocks.0", ... and the tokens after each: for goldens and debugging. May be empty.
  std::function<void(std::string_view name, const Tensor& x_NTD)> probe;
};

class Dit {
 public:
  // Registers every parameter, on meta: `parameters().Allocate()` or flat buffers give them memory. The configuration
  // must have passed Validate().
  explicit Dit(const DitConfig& config);
  ~Dit();
  Dit(const Dit&) = delete;
  Dit& operator=(const Dit&) = delete;

  const DitConfig& config() const { return config_; }
  ParameterList& parameters() { return parameters_; }
  const ParameterList& parameters() const { return parameters_; }

  int units() const { return static_cast<int>(config_.depth) + 2; }

  // The model's output [N, C or 2 C, H, W]: the prediction, then the variance value where it is learned.
  Var Forward(Tape& tape, const DitInput& input, const DitForwardOptions& options = {}) const;
  // A part of the chain. `input` is read by unit 0, which ignores `flow`; after the final layer, x_NTD is the model's
  // output. Parts run one after another, on one tape or several, give what Forward gives.
  DitFlow ForwardUnits(Tape& tape, UnitRange part, const DitInput* input, DitFlow flow,
                       const DitForwardOptions& options = {}) const;
  // Tokens that flow between units: those of the image, and for in-context the two of the condition.
  int64_t flow_tokens() const;
  // Shape of DitFlow::condition for `images` images; no dims where it is undefined.
  Shape condition_shape(int64_t images) const;

  // Fixed 2-D sin-cos table [T, D], computed in fp64 (first half of D from the column, second half from the row); fp32,
  // in host memory.
  const Tensor& position_table() const { return position_table_; }
  // Puts the table where the model is to run. Needed before the first Forward on a GPU; `allocator` outlives the model.
  void PlaceConstants(Allocator& allocator);

 private:
  struct Block;
  struct Seams;

  DitFlow Embed(Tape& tape, const DitInput& input, const DitForwardOptions& options) const;
  Var FinalLayer(Tape& tape, const Var& x_NTD, const Seams& seams) const;
  std::vector<Tensor> GatherModulations(RankContext& context, UnitRange part, const Var& condition,
                                        const DitForwardOptions& options) const;

  const DitConfig config_;
  ParameterList parameters_;
  std::vector<float> position_values_;
  Tensor position_table_;
  Tensor placed_table_;  // a copy on the GPU, or the table itself

  Parameter* patch_weight_ = nullptr;
  Parameter* patch_bias_ = nullptr;
  LinearLayer timestep_in_, timestep_out_;
  Parameter* label_table_ = nullptr;
  std::vector<std::unique_ptr<Block>> blocks_;
  LinearLayer final_modulation_;  // the two adaLN designs
  LayerNormLayer final_norm_;     // the other two
  LinearLayer final_linear_;
};

// The table itself, [grid * grid, width], as Dit uses it.
std::vector<float> SinCosPositionTable(int64_t width, int64_t grid);

}  // namespace shardit
