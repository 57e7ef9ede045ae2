#include "trainer/sample.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/file.h"
#include "core/base/hash.h"
#include "core/base/log.h"
#include "core/base/math.h"
#include "core/base/status_macros.h"
#include "data/formats/npz.h"
#include "parallel/comm/agree_status.h"
#include "trainer/check_output.h"
#include "trainer/chunk_store.h"
#include "trainer/evaluate/deal.h"
#include "trainer/image_set.h"
#include "trainer/model_sampler.h"
#include "trainer/run_config/exit_code.h"
#include "trainer/train/compute_device.h"
#include "trainer/train/cpu_share.h"
#include "trainer/train/stop_signal.h"

namespace shardit {
namespace {

// Samples that are done and stored at once, at least: files should not be too many, and a signal not wait too long.
constexpr int64_t kLeastChunk = 16;

constexpr int64_t kFloatBytes = sizeof(float);
constexpr CallSite kPresentSite{"stored chunks", /*control=*/true};

absl::Status Usage(const std::string& message) {
  return WithExitCode(absl::InvalidArgumentError(message), ExitCode::kUsage);
}

// One sampling: chunks are drawn by all ranks into a folder beside the output, and put together by rank 0.
class Sampling {
 public:
  Sampling(World& world, const SampleRequest& request, RankContext& context, const StopSignal& stop)
      : crew_{world.comm(), context.pool(), &stop}, request_(request), context_(context) {}

  absl::Status Run() {
    RETURN_IF_ERROR(Identify());
    RETURN_IF_ERROR(Agree(Open()));
    absl::Status status = Draw();
    if (status.ok()) status = Agree(speaks() ? Write() : absl::OkStatus());
    if (!speaks()) return status;
    if (status.ok()) {
      LOG_INFO("wrote {} samples to {}", request_.num, request_.out);
      return RemoveTree(PosixFileSystem(), parts());
    }
    // What was drawn stays for the next attempt; where there is nothing, nothing is left.
    PosixFileSystem().RemoveEmptyFolder(parts()).IgnoreError();
    return status;
  }

 private:
  bool speaks() const { return crew_.comm.rank() == 0; }
  bool is_png() const { return absl::EndsWith(request_.out, ".png"); }
  std::string parts() const { return request_.out + ".parts"; }
  absl::Status Agree(const absl::Status& mine) { return AgreeStatus(crew_.comm, mine); }

  absl::Status Identify() {
    std::string packed;
    const auto identify = [&]() -> absl::Status {
      RETURN_IF_ERROR(CheckOutputPath(request_.out));
      ASSIGN_OR_RETURN(const ModelIdentity identity, IdentifyModel(request_.checkpoint));
      packed = identity.Pack();
      return absl::OkStatus();
    };
    RETURN_IF_ERROR(Agree(speaks() ? identify() : absl::OkStatus()));
    identity_ = ModelIdentity::Unpack(ShareText(crew_.comm, packed));
    return absl::OkStatus();
  }

  // Loads the model, and checks what can be wrong with the output. Not collective.
  absl::Status Open() {
    SampleRequest request = request_;
    request.checkpoint = identity_.path;
    ASSIGN_OR_RETURN(ModelSampler sampler, ModelSampler::Load(context_, request));
    sampler_.emplace(std::move(sampler));
    return is_png() ? CheckRoom() : absl::OkStatus();
  }

  absl::Status OpenStore() {
    const bool images = LatentsAreImages(config());
    const int64_t chunk = sampler_->batch() * CeilDiv(kLeastChunk, sampler_->batch());
    const std::string settings = absl::StrJoin(
        {DescribeSampling({"", identity_.sha256}, *sampler_, request_).dump(), absl::StrCat("chunk ", chunk),
         absl::StrCat("batch ", sampler_->batch()), absl::StrCat("on a GPU ", context_.on_cuda()),
         absl::StrCat("precision ", static_cast<int>(request_.precision))},
        "\n");
    ASSIGN_OR_RETURN(ChunkStore store,
                     ChunkStore::Open(PosixFileSystem(), parts(),
                                      {.kind = images ? "pixels" : "latents",
                                       .key = HashBytes(settings),
                                       .items = request_.num,
                                       .chunk_items = chunk,
                                       .item_bytes = config().latent_elements() * (images ? 1 : kFloatBytes)}));
    store_.emplace(std::move(store));
    return absl::OkStatus();
  }

  // Of the picture: a row a class, and the samples of a class beside each other.
  absl::Status CheckRoom() const {
    const int64_t classes = std::ssize(sampler_->classes());
    const int64_t rows = std::min(classes, request_.num), columns = CeilDiv(request_.num, classes);
    const GridRoom room = RoomForClassGrid(sampler_->classes(), config(), "");
    if (rows <= room.rows && columns <= room.columns) return absl::OkStatus();
    return Usage(absl::StrCat("--out ", Quoted(request_.out), ": a PNG has room for ", room.rows, " classes and ",
                              room.columns, " samples of each, got ", rows, " and ", columns,
                              "; give fewer --classes, a smaller --num, or an .npz"));
  }

  // Draws what is not stored yet. Collective.
  absl::Status Draw() {
    RETURN_IF_ERROR(Agree(OpenStore()));
    const int64_t chunks = store_->chunks();
    std::vector<uint8_t> present(static_cast<size_t>(chunks), 0);
    if (speaks()) present = store_->Present({0, chunks});
    // World: one view of what there is.
    crew_.comm.Broadcast(present.data(), chunks, 0, kPresentSite).Wait();
    std::vector<int64_t> missing;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      if (present[static_cast<size_t>(chunk)] == 0) missing.push_back(chunk);
    }
    if (std::ssize(missing) < chunks && speaks()) {
      LOG_INFO("{} of {} chunks of the samples are stored: {} to draw", chunks - std::ssize(missing), chunks,
               missing.size());
    }
    return DealChunks(crew_, missing, "the samples", [this](int64_t chunk) { return DrawChunk(chunk); });
  }

  absl::Status DrawChunk(int64_t chunk) {
    const Range samples = store_->Items(chunk);
    ASSIGN_OR_RETURN(const std::vector<float> latents, sampler_->Draw(samples.begin, samples.size()));
    std::string_view bytes(reinterpret_cast<const char*>(latents.data()), latents.size() * sizeof(float));
    PixelSet set;
    if (LatentsAreImages(config())) {
      set = LatentsToPixels(latents, samples.size(), config());
      bytes = {reinterpret_cast<const char*>(set.pixels.data()), set.pixels.size()};
    }
    RETURN_IF_ERROR(store_->Write(chunk, bytes));
    KillPoint("sample.chunk_stored");
    return absl::OkStatus();
  }

  absl::Status Write() const {
    if (is_png()) return WriteGrid();
    const int64_t num = request_.num, side = config().side;
    const bool images = LatentsAreImages(config());
    ASSIGN_OR_RETURN(NpzWriter npz, NpzWriter::Create(PosixFileSystem(), request_.out));
    RETURN_IF_ERROR(images ? npz.BeginArray("arr_0", NpyType::kU8, {num, side, side, config().channels})
                           : npz.BeginArray("latents", NpyType::kF32, {num, config().channels, side, side}));
    for (int64_t chunk = 0; chunk < store_->chunks(); ++chunk) {
      ASSIGN_OR_RETURN(const std::string bytes, store_->Read(chunk));
      RETURN_IF_ERROR(npz.Append(bytes.data(), std::ssize(bytes)));
    }
    RETURN_IF_ERROR(npz.BeginArray(images ? "arr_1" : "labels", NpyType::kI64, {num}));
    for (int64_t i = 0; i < num; ++i) {
      const int64_t label = sampler_->LabelOf(i);
      RETURN_IF_ERROR(npz.Append(&label, sizeof(label)));
    }
    return npz.Finish();
  }

  absl::Status WriteGrid() const {
    const int64_t num = request_.num, classes = std::ssize(sampler_->classes());
    std::string all;
    for (int64_t chunk = 0; chunk < store_->chunks(); ++chunk) {
      ASSIGN_OR_RETURN(const std::string bytes, store_->Read(chunk));
      all += bytes;
    }
    PixelSet set{.channels = config().channels};
    if (LatentsAreImages(config())) {
      set.pixels.assign(all.begin(), all.end());
    } else {
      LOG_WARN(
          "{}-channel latents have no colours of their own: the picture is a false-colour preview; an .npz keeps "
          "the latents, to be decoded",
          config().channels);
      std::vector<float> latents(all.size() / sizeof(float));
      std::memcpy(latents.data(), all.data(), all.size());
      set = LatentsToPixels(latents, num, config());
    }
    const Image grid =
        ClassGrid(GroupByClass(set, num, classes), CeilDiv(num, classes), sampler_->classes(), config(), "");
    return WritePng(PosixFileSystem(), request_.out, grid);
  }

  const DitConfig& config() const { return sampler_->config(); }

  const Crew crew_;
  const SampleRequest& request_;
  RankContext& context_;
  ModelIdentity identity_;
  std::optional<ModelSampler> sampler_;
  std::optional<ChunkStore> store_;
};

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
  if (!absl::EndsWith(request.out, ".npz") && !absl::EndsWith(request.out, ".png")) {
    return Usage(absl::StrCat("--out ", Quoted(request.out), ": expected a name that ends in .npz or .png"));
  }
  const StopSignal stop;
  const CpuShare share = DivideCpus(world, request.threads);
  BindToShare(share);
  const absl::StatusOr<Device> device = ChooseDevice(world, request.device, request.precision);
  RETURN_IF_ERROR(device.status());
  RankContext context = MakeRankContext({.device = *device, .precision = request.precision}, share);
  return Sampling(world, request, context, stop).Run();
}

}  // namespace shardit
