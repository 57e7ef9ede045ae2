#include "trainer/parity.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "data/formats/safetensors.h"
#include "model/diffusion_loss.h"
#include "trainer/weights/weights_file.h"

namespace shardit {
namespace {

// What the inputs file holds, checked against the model.
struct ParityInputs {
  int64_t images = 0;
  Tensor x_0, noise;  // [N, C, H, W]
  Tensor t, y;        // i64, i32
};

absl::Status CheckShape(const SafetensorsReader& file, const SafetensorsEntry& entry,
                        const std::vector<int64_t>& expected) {
  if (entry.shape == expected) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(Quoted(file.path()), ": tensor ", entry.name, " is [",
                                                 absl::StrJoin(entry.shape, ", "), "], expected [",
                                                 absl::StrJoin(expected, ", "), "]"));
}

absl::StatusOr<Tensor> ReadLatents(RankContext& context, const SafetensorsReader& file, const char* name,
                                   const Shape& shape) {
  ASSIGN_OR_RETURN(const SafetensorsEntry* entry, file.Require(name));
  RETURN_IF_ERROR(CheckShape(file, *entry, {shape.begin(), shape.end()}));
  Tensor tensor = Tensor::Empty(context.allocator(), shape);
  RETURN_IF_ERROR(file.ReadAsFloat(*entry, 0, entry->elements(), tensor.data()));
  return tensor;
}

// An integer tensor [N] with every value in [0, limit).
absl::StatusOr<std::vector<int64_t>> ReadIndices(const SafetensorsReader& file, const char* name, int64_t images,
                                                 int64_t limit) {
  ASSIGN_OR_RETURN(const SafetensorsEntry* entry, file.Require(name));
  RETURN_IF_ERROR(CheckShape(file, *entry, {images}));
  std::vector<int64_t> values(static_cast<size_t>(images));
  RETURN_IF_ERROR(file.ReadAsInt64(*entry, 0, images, values.data()));
  for (const int64_t value : values) {
    if (value >= 0 && value < limit) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(Quoted(file.path()), ": tensor ", name, " holds ", value, ", expected 0 to ", limit - 1));
  }
  return values;
}

absl::StatusOr<ParityInputs> ReadInputs(RankContext& context, const RunOptions& options, const std::string& path) {
  ASSIGN_OR_RETURN(const SafetensorsReader file, SafetensorsReader::Open(path));
  ASSIGN_OR_RETURN(const SafetensorsEntry* x, file.Require("x"));
  ParityInputs inputs;
  inputs.images = x->shape.empty() ? 0 : x->shape[0];
  if (inputs.images == 0) {
    return absl::InvalidArgumentError(absl::StrCat(Quoted(path), ": tensor x holds no image"));
  }
  const DitConfig& model = options.model;
  const Shape latents{inputs.images, model.channels, model.side, model.side};
  ASSIGN_OR_RETURN(inputs.x_0, ReadLatents(context, file, "x", latents));
  ASSIGN_OR_RETURN(inputs.noise, ReadLatents(context, file, "noise", latents));
  ASSIGN_OR_RETURN(const std::vector<int64_t> t, ReadIndices(file, "t", inputs.images, options.diffusion.steps));
  ASSIGN_OR_RETURN(const std::vector<int64_t> y, ReadIndices(file, "y", inputs.images, model.label_rows()));
  inputs.t = Tensor::Empty(context.allocator(), {inputs.images}, DType::kI64);
  inputs.y = Tensor::Empty(context.allocator(), {inputs.images}, DType::kI32);
  for (int64_t n = 0; n < inputs.images; ++n) {
    inputs.t.data<int64_t>()[n] = t[static_cast<size_t>(n)];
    inputs.y.data<int32_t>()[n] = static_cast<int32_t>(y[static_cast<size_t>(n)]);
  }
  return inputs;
}

SafetensorsTensor Named(const std::string& name, const Tensor& tensor) {
  return {{name, SafetensorsType::kF32, {tensor.shape().begin(), tensor.shape().end()}}, tensor.data()};
}

}  // namespace

absl::Status RunParity(RankContext& context, const RunOptions& options, const std::string& weights,
                       const std::string& inputs_path, const std::string& outputs) {
  Dit model(options.model);
  model.parameters().Allocate(context.allocator());
  RETURN_IF_ERROR(LoadWeights(weights, model));
  ASSIGN_OR_RETURN(const ParityInputs inputs, ReadInputs(context, options, inputs_path));
  const Diffusion diffusion(options.diffusion);

  const int64_t elements = options.model.latent_elements();
  const Tensor x_t = Tensor::Empty(context.allocator(), inputs.x_0.shape());
  for (int64_t n = 0; n < inputs.images; ++n) {
    diffusion.AddNoise(inputs.t.data<int64_t>()[n], inputs.x_0.data() + n * elements,
                       inputs.noise.data() + n * elements, elements, x_t.data() + n * elements);
  }
  Tape tape(context);
  const Var output = model.Forward(tape, {x_t, inputs.t, inputs.y});
  Tensor d_output = Tensor::Empty(context.allocator(), output.shape());
  std::vector<ImageLoss> per_image(static_cast<size_t>(inputs.images));
  DiffusionLossArgs args{.images = inputs.images, .elements = elements, .t = inputs.t.data<int64_t>()};
  args.x_0 = inputs.x_0.data();
  args.noise = inputs.noise.data();
  args.output = output.value().data();
  args.denominator = static_cast<double>(inputs.images);
  args.d_output = d_output.data();
  args.per_image = per_image;
  const LossResult loss = DiffusionLoss(diffusion, args, context.pool());
  tape.Backward({{output, std::move(d_output)}});

  const float scalars[] = {static_cast<float>(loss.loss), static_cast<float>(loss.mse), static_cast<float>(loss.vb)};
  std::vector<SafetensorsTensor> tensors{Named("output", output.value()),
                                         {{"loss", SafetensorsType::kF32, {1}}, &scalars[0]},
                                         {{"mse", SafetensorsType::kF32, {1}}, &scalars[1]},
                                         {{"vb", SafetensorsType::kF32, {1}}, &scalars[2]}};
  for (const auto& parameter : model.parameters().all()) {
    tensors.push_back(Named("grad." + parameter->name, parameter->grad));
  }
  return WriteSafetensors(PosixFileSystem(), outputs, std::move(tensors), {});
}

}  // namespace shardit
