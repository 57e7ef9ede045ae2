#include "trainer/parity.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "data/formats/safetensors.h"
#include "model/diffusion_batch.h"
#include "trainer/weights/weights_file.h"

namespace shardit {
namespace {

absl::Status CheckShape(const SafetensorsReader& file, const SafetensorsEntry& entry,
                        const std::vector<int64_t>& expected) {
  if (entry.shape == expected) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(Quoted(file.path()), ": tensor ", entry.name, " is [",
                                                 absl::StrJoin(entry.shape, ", "), "], expected [",
                                                 absl::StrJoin(expected, ", "), "]"));
}

absl::Status ReadLatents(const SafetensorsReader& file, const char* name, const Tensor& out) {
  ASSIGN_OR_RETURN(const SafetensorsEntry* entry, file.Require(name));
  RETURN_IF_ERROR(CheckShape(file, *entry, {out.shape().begin(), out.shape().end()}));
  return file.ReadAsFloat(*entry, 0, entry->elements(), out.data());
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

// The inputs file, checked against the model and noised.
absl::StatusOr<DiffusionBatch> ReadInputs(RankContext& context, const RunOptions& options, const Diffusion& diffusion,
                                          const std::string& path) {
  ASSIGN_OR_RETURN(const SafetensorsReader file, SafetensorsReader::Open(path));
  ASSIGN_OR_RETURN(const SafetensorsEntry* x, file.Require("x"));
  const int64_t images = x->shape.empty() ? 0 : x->shape[0];
  if (images == 0) return absl::InvalidArgumentError(absl::StrCat(Quoted(path), ": tensor x holds no image"));
  // Checked before memory of that size is asked for: the file's own bytes bound it.
  const DitConfig& model = options.model;
  RETURN_IF_ERROR(CheckShape(file, *x, {images, model.channels, model.side, model.side}));
  const DiffusionBatch batch = DiffusionBatch::Allocate(context.allocator(), model, images);
  RETURN_IF_ERROR(ReadLatents(file, "x", batch.x_0));
  RETURN_IF_ERROR(ReadLatents(file, "noise", batch.noise));
  ASSIGN_OR_RETURN(const std::vector<int64_t> t, ReadIndices(file, "t", images, options.diffusion.steps));
  ASSIGN_OR_RETURN(const std::vector<int64_t> y, ReadIndices(file, "y", images, model.label_rows()));
  for (int64_t n = 0; n < images; ++n) {
    batch.input.t_N.data<int64_t>()[n] = t[static_cast<size_t>(n)];
    batch.input.y_N.data<int32_t>()[n] = static_cast<int32_t>(y[static_cast<size_t>(n)]);
    batch.NoiseImage(diffusion, n);
  }
  return batch;
}

SafetensorsTensor Named(const std::string& name, const Tensor& tensor) {
  return {{name, SafetensorsType::kF32, {tensor.shape().begin(), tensor.shape().end()}}, tensor.data()};
}

}  // namespace

absl::Status RunParity(RankContext& context, const RunOptions& options, const std::string& weights,
                       const std::string& inputs, const std::string& outputs) {
  Dit model(options.model);
  model.parameters().Allocate(context.allocator());
  RETURN_IF_ERROR(LoadWeights(weights, model));
  const Diffusion diffusion(options.diffusion);
  ASSIGN_OR_RETURN(const DiffusionBatch batch, ReadInputs(context, options, diffusion, inputs));
  Tape tape(context);
  ForwardLossResult result = ForwardLoss(tape, model, diffusion, batch, static_cast<double>(batch.images()));
  tape.Backward({{result.output, std::move(result.d_output)}});

  const LossResult& loss = result.loss;
  const float scalars[] = {static_cast<float>(loss.loss), static_cast<float>(loss.mse), static_cast<float>(loss.vb)};
  std::vector<SafetensorsTensor> tensors{Named("output", result.output.value()),
                                         {{"loss", SafetensorsType::kF32, {1}}, &scalars[0]},
                                         {{"mse", SafetensorsType::kF32, {1}}, &scalars[1]},
                                         {{"vb", SafetensorsType::kF32, {1}}, &scalars[2]}};
  for (const auto& parameter : model.parameters().all()) {
    tensors.push_back(Named("grad." + parameter->name, parameter->grad));
  }
  return WriteSafetensors(PosixFileSystem(), outputs, std::move(tensors), {});
}

}  // namespace shardit
