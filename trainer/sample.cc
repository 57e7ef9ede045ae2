#include "trainer/sample.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "core/base/log.h"
#include "core/base/math.h"
#include "core/base/status_macros.h"
#include "data/formats/npz.h"
#include "parallel/comm/agree_status.h"
#include "trainer/image_set.h"
#include "trainer/model_sampler.h"
#include "trainer/run_config/exit_code.h"
#include "trainer/train/compute_device.h"
#include "trainer/train/cpu_share.h"

namespace shardit {
namespace {

absl::StatusOr<ModelSampler> LoadSampler(RankContext& context, const SampleRequest& request) {
  if (!absl::EndsWith(request.out, ".npz") && !absl::EndsWith(request.out, ".png")) {
    const std::string message =
        absl::StrCat("--out ", Quoted(request.out), ": expected a name that ends in .npz or .png");
    return WithExitCode(absl::InvalidArgumentError(message), ExitCode::kUsage);
  }
  return ModelSampler::Load(context, request);
}

// The picture has a row a class, but sample i is of class i mod k: transposes.
absl::Status WriteGrid(const std::string& path, const std::vector<float>& latents, int64_t num,
                       const std::vector<int64_t>& classes, const DitConfig& config) {
  const int64_t rows = static_cast<int64_t>(classes.size()), columns = CeilDiv(num, rows);
  const size_t elements = static_cast<size_t>(config.latent_elements());
  std::vector<float> by_class(static_cast<size_t>(rows * columns) * elements, 1.0f);
  for (int64_t i = 0; i < num; ++i) {
    const size_t place = static_cast<size_t>((i % rows) * columns + i / rows);
    std::copy_n(latents.data() + static_cast<size_t>(i) * elements, elements, by_class.data() + place * elements);
  }
  const PixelSet pixels = LatentsToPixels(by_class, rows * columns, config);
  return WritePng(PosixFileSystem(), path, ClassGrid(pixels, columns, classes, config, ""));
}

absl::Status WriteNpz(const std::string& path, const std::vector<float>& latents, int64_t num,
                      const std::vector<int64_t>& classes, const DitConfig& config) {
  const PixelSet set = LatentsToPixels(latents, num, config);
  if (set.false_colour)
    LOG_WARN("{}-channel latents are written in false colour: decode them to get images", config.channels);
  ASSIGN_OR_RETURN(NpzWriter npz, NpzWriter::Create(PosixFileSystem(), path));
  RETURN_IF_ERROR(npz.BeginArray("arr_0", NpyType::kU8, {num, config.side, config.side, set.channels}));
  RETURN_IF_ERROR(npz.Append(set.pixels.data(), static_cast<int64_t>(set.pixels.size())));
  std::vector<int64_t> labels(static_cast<size_t>(num));
  for (size_t i = 0; i < labels.size(); ++i) labels[i] = classes[i % classes.size()];
  RETURN_IF_ERROR(npz.BeginArray("arr_1", NpyType::kI64, {num}));
  RETURN_IF_ERROR(npz.Append(labels.data(), num * static_cast<int64_t>(sizeof(int64_t))));
  return npz.Finish();
}

}  // namespace

SampledModel SampledModelOf(RankContext& context, const Dit& model) {
  return [&context, &model](const float* x, const int64_t* t, const int32_t* y, int64_t n, float* out) {
    const DitConfig& config = model.config();
    Tape tape(context, Tape::Mode::kInference);
    model.Forward(tape, InputFromHost(context, config, x, t, y, n)).value().ToHost(out);
  };
}

std::vector<float> DrawSamples(RankContext& context, const SampledModel& model, const Sampler& sampler, int64_t batch,
                               int64_t first, const std::vector<int32_t>& labels) {
  const int64_t count = static_cast<int64_t>(labels.size()), elements = sampler.latent_elements();
  std::vector<float> latents(static_cast<size_t>(count * elements));
  std::vector<int64_t> samples(static_cast<size_t>(batch));
  std::vector<int32_t> batch_labels(static_cast<size_t>(batch));
  std::vector<float> out(static_cast<size_t>(batch * elements));
  for (int64_t begin = 0; begin < count; begin += batch) {
    // A short last batch is filled up with repeats of its first sample, so that every pass has the same shape.
    const int64_t valid = std::min(batch, count - begin);
    for (int64_t i = 0; i < batch; ++i) {
      const int64_t source = begin + (i < valid ? i : 0);
      samples[static_cast<size_t>(i)] = first + source;
      batch_labels[static_cast<size_t>(i)] = labels[static_cast<size_t>(source)];
    }
    sampler.Sample(model, samples, batch_labels, context.pool(), out.data());
    std::copy_n(out.data(), valid * elements, latents.data() + begin * elements);
  }
  return latents;
}

absl::Status RunSample(World& world, const SampleRequest& request) {
  const CpuShare share = DivideCpus(world, request.threads);
  BindToShare(share);
  const absl::StatusOr<Device> device = ChooseDevice(world, request.device, request.precision);
  RETURN_IF_ERROR(device.status());
  RankContext context = MakeRankContext({.device = *device, .precision = request.precision}, share);
  const absl::StatusOr<ModelSampler> sampler = LoadSampler(context, request);
  const absl::Status agreed = AgreeStatus(world.comm(), sampler.status());
  if (!agreed.ok()) return sampler.ok() ? agreed : WithExitCode(agreed, ExitCodeOf(sampler.status()));

  const DitConfig& config = sampler->config();
  const Range own = PartRange(request.num, world.size(), world.rank());
  const std::vector<float> mine = sampler->Draw(own.begin, own.size());

  // World: rank 0 writes one file of all samples.
  std::vector<float> all(world.rank() == 0 ? static_cast<size_t>(request.num * config.latent_elements()) : 0);
  const std::vector<std::string> parts = world.comm().GatherBytes(
      {reinterpret_cast<const char*>(mine.data()), mine.size() * sizeof(float)}, 0, {.tag = "samples"});
  absl::Status written;
  if (world.rank() == 0) {
    char* to = reinterpret_cast<char*>(all.data());
    for (const std::string& part : parts) to = std::copy(part.begin(), part.end(), to);
    written = absl::EndsWith(request.out, ".png") ? WriteGrid(request.out, all, request.num, sampler->classes(), config)
                                                  : WriteNpz(request.out, all, request.num, sampler->classes(), config);
    if (written.ok()) LOG_INFO("wrote {} samples to {}", request.num, request.out);
  }
  return AgreeStatus(world.comm(), written);
}

}  // namespace shardit
