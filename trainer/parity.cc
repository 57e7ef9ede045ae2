#include "trainer/parity.h"

#include <deque>
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

// The inputs file, checked against the model and noised, in host memory.
absl::StatusOr<DiffusionBatch> ReadInputs(RankContext& context, const RunOptions& options, const Diffusion& diffusion,
                                          const std::string& path) {
  ASSIGN_OR_RETURN(const SafetensorsReader file, SafetensorsReader::Open(path));
  ASSIGN_OR_RETURN(const SafetensorsEntry* x, file.Require("x"));
  const int64_t images = x->shape.empty() ? 0 : x->shape[0];
  if (images == 0) return absl::InvalidArgumentError(absl::StrCat(Quoted(path), ": tensor x holds no image"));
  // Checked before memory of that size is asked for: the file's own bytes bound it.
  const DitConfig& model = options.model;
  RETURN_IF_ERROR(CheckShape(file, *x, {images, model.channels, model.side, model.side}));
  const DiffusionBatch batch = DiffusionBatch::ForHost(context, model, images);
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

// What is to be written, copied into host memory.
class Outputs {
 public:
  void Add(const std::string& name, const Tensor& tensor) {
    std::vector<float> values(static_cast<size_t>(tensor.elements()));
    tensor.ToHost(values.data());
    Add(name, {tensor.shape().begin(), tensor.shape().end()}, std::move(values));
  }
  void Add(const std::string& name, double scalar) { Add(name, {1}, {static_cast<float>(scalar)}); }

  absl::Status Write(const std::string& path) { return WriteSafetensors(PosixFileSystem(), path, tensors_, {}); }

 private:
  void Add(const std::string& name, std::vector<int64_t> shape, std::vector<float> values) {
    const std::vector<float>& kept = values_.emplace_back(std::move(values));
    tensors_.push_back({{name, SafetensorsType::kF32, std::move(shape)}, kept.data()});
  }

  std::deque<std::vector<float>> values_;
  std::vector<SafetensorsTensor> tensors_;
};

}  // namespace

absl::Status RunParity(RankContext& context, const RunOptions& options, const std::string& weights,
                       const std::string& inputs, const std::string& outputs) {
  Dit model(options.model);
  model.parameters().Allocate(context.allocator());
  model.PlaceConstants(context.allocator());
  RETURN_IF_ERROR(LoadWeights(weights, model));
  const Diffusion diffusion(options.diffusion);
  ASSIGN_OR_RETURN(const DiffusionBatch read, ReadInputs(context, options, diffusion, inputs));
  const DiffusionBatch batch = read.Placed(context, diffusion);
  Tape tape(context);
  ForwardLossResult result = ForwardLoss(tape, model, diffusion, batch, static_cast<double>(batch.images()));
  tape.Backward({{result.output, std::move(result.d_output)}});
  result.FetchLoss();

  Outputs written;
  written.Add("output", result.output.value());
  written.Add("loss", result.loss.loss);
  written.Add("mse", result.loss.mse);
  written.Add("vb", result.loss.vb);
  for (const auto& parameter : model.parameters().all()) written.Add("grad." + parameter->name, parameter->grad);
  return written.Write(outputs);
}

}  // namespace shardit
