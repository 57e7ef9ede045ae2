#include "trainer/evaluate/evaluate.h"

#include <chrono>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "core/base/file.h"
#include "core/base/hash.h"
#include "core/base/log.h"
#include "core/base/status_macros.h"
#include "core/ops/resize.h"
#include "parallel/comm/agree_status.h"
#include "trainer/check_output.h"
#include "trainer/chunk_store.h"
#include "trainer/evaluate/evaluate_outputs.h"
#include "trainer/evaluate/evaluation_side.h"
#include "trainer/evaluate/linear_algebra.h"
#include "trainer/evaluate/metric_choice.h"
#include "trainer/evaluate/scores.h"
#include "trainer/extractor/extractor_file.h"
#include "trainer/run_config/exit_code.h"
#include "trainer/train/compute_device.h"
#include "trainer/train/cpu_share.h"
#include "trainer/train/stop_signal.h"

namespace shardit {
namespace {

absl::Status Usage(const std::string& message) {
  return WithExitCode(absl::InvalidArgumentError(message), ExitCode::kUsage);
}

class Evaluation {
 public:
  Evaluation(World& world, const EvaluateRequest& request, RankContext& context, const StopSignal* stop)
      : world_(world), request_(request), context_(context), crew_{world.comm(), context.pool(), stop} {}

  absl::StatusOr<EvaluateReport> Run() {
    RETURN_IF_ERROR(Identify());
    RETURN_IF_ERROR(Agree(Open()));
    RETURN_IF_ERROR(Agree(PrepareOutputs()));
    RETURN_IF_ERROR(Extract());
    RETURN_IF_ERROR(ScoreAll());
    RETURN_IF_ERROR(Agree(world_.rank() == 0 ? WriteOutputs() : absl::OkStatus()));
    Describe();
    return std::move(report_);
  }

 private:
  absl::Status Agree(const absl::Status& mine) { return AgreeStatus(world_.comm(), mine); }

  absl::Status Identify() {
    const auto identify = [this](const std::string& path, SideIdentity* identity) {
      std::string packed;
      absl::Status status;
      if (world_.rank() == 0) {
        const absl::StatusOr<SideIdentity> found = IdentifySide(path);
        status = found.status();
        if (found.ok()) packed = found->Pack();
      }
      RETURN_IF_ERROR(Agree(status));
      *identity = SideIdentity::Unpack(ShareText(world_.comm(), packed));
      return absl::OkStatus();
    };
    RETURN_IF_ERROR(identify(request_.samples, &samples_identity_));
    return request_.reference.empty() ? absl::OkStatus() : identify(request_.reference, &reference_identity_);
  }

  // Opens both sides and the extractor, and checks that they fit each other. Not collective.
  absl::Status Open() {
    if (!request_.extractor.empty()) {
      ASSIGN_OR_RETURN(extractor_,
                       LoadExtractor(request_.extractor, context_,
                                     request_.tf1_resize ? ResizeMode::kBilinearTf1 : ResizeMode::kBilinear));
    }
    if (samples_identity_.kind == SideKind::kModel) {
      if (request_.num == 0) return Usage("--num is needed: the number of samples to draw from the model");
      ASSIGN_OR_RETURN(samples_, OpenModelSide(context_, samples_identity_, request_.num, request_.sampling));
    } else {
      ASSIGN_OR_RETURN(samples_, OpenFileSide(samples_identity_, request_.num, /*take_statistics=*/false));
    }
    if (!request_.reference.empty()) {
      if (reference_identity_.kind == SideKind::kModel) {
        return Usage(absl::StrCat("--reference ", Quoted(request_.reference), ": expected images or statistics, got a ",
                                  "model; draw its samples with shardit sample"));
      }
      // Published scores take the statistics of a reference set from the file that holds its images.
      const bool is_fid = extractor_ != nullptr && extractor_->info().is_fid;
      ASSIGN_OR_RETURN(reference_, OpenFileSide(reference_identity_, request_.reference_num, is_fid));
    }
    const MetricInputs inputs{.request = request_,
                              .drawn = samples_identity_.kind == SideKind::kModel,
                              .extractor = extractor_ == nullptr ? nullptr : &extractor_->info(),
                              .samples = samples_,
                              .reference = request_.reference.empty() ? nullptr : &reference_};
    ASSIGN_OR_RETURN(metrics_, ChooseMetrics(inputs));
    return TryExtractor();
  }

  // An extractor says what it does not take when it is asked: better now than after the first chunk.
  absl::Status TryExtractor() {
    for (const EvaluationSide* side : {&samples_, &reference_}) {
      if (extractor_ == nullptr || side->images == nullptr) continue;
      ImageShape shape = side->images->shape();
      shape.count = 1;
      FeatureBatch batch;
      const std::vector<uint8_t> pixels(static_cast<size_t>(shape.bytes()));
      const absl::Status status = extractor_->Extract(context_, pixels, shape, &batch);
      if (!status.ok()) {
        return absl::Status(status.code(),
                            absl::StrCat(Quoted(side->description.value("path", "")), ": ", status.message()));
      }
    }
    return absl::OkStatus();
  }

  // Folders and files to be written are made now, not after hours.
  absl::Status PrepareOutputs() {
    if (world_.rank() != 0) return absl::OkStatus();
    for (const std::string* path : {&request_.write_statistics, &request_.write_features, &request_.write_samples,
                                    &request_.write_grid, &request_.report_path}) {
      if (!path->empty()) RETURN_IF_ERROR(CheckOutputPath(*path));
    }
    if (!request_.work.empty()) RETURN_IF_ERROR(MakeFolders(PosixFileSystem(), request_.work));
    if (samples_identity_.kind != SideKind::kModel) return absl::OkStatus();
    ASSIGN_OR_RETURN(DrawnImages drawn,
                     DrawnImages::Create(request_.write_samples, request_.write_grid, samples_.images->shape(),
                                         samples_.images->labels(), DrawnClasses()));
    drawn_.emplace(std::move(drawn));
    return absl::OkStatus();
  }

  int64_t DrawnClasses() const { return static_cast<int64_t>(samples_.description["classes"].size()); }

  absl::Status Extract() {
    if (samples_.images != nullptr) {
      std::vector<uint8_t> wanted;
      if (samples_identity_.kind == SideKind::kModel) {
        wanted = DrawnImages::WantedChunks(request_.write_samples, request_.write_grid, samples_.images->shape(),
                                           DrawnClasses(), samples_.chunk);
      }
      ASSIGN_OR_RETURN(sample_features_, ExtractSide(samples_, "the samples", std::move(wanted)));
    }
    if (reference_.images != nullptr && metrics_.reference_features) {
      ASSIGN_OR_RETURN(reference_features_, ExtractSide(reference_, "the reference", {}));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<FeatureSet> ExtractSide(EvaluationSide& side, const std::string& name, std::vector<uint8_t> wanted) {
    const ExtractorInfo& info = extractor_->info();
    ExtractOptions options{
        .name = name,
        .batch = request_.batch,
        .chunk = side.chunk,
        .keep_spatial = metrics_.spatial || !request_.write_statistics.empty() || !request_.write_features.empty(),
        .keep_logits = true,
        .wanted = std::move(wanted)};
    options.take_images = [this](int64_t first, std::span<const uint8_t> pixels) {
      return drawn_->Take(first, pixels);
    };
    std::optional<FeatureStore> store;
    std::optional<ChunkStore> pixel_store;
    if (!request_.work.empty()) {
      const uint64_t key = StoreKey(side);
      const ImageShape& shape = side.images->shape();
      const std::string folder = JoinPath(request_.work, absl::StrFormat("features-%016x", key));
      absl::StatusOr<FeatureStore> opened = FeatureStore::Open(PosixFileSystem(), folder,
                                                               {.key = key,
                                                                .samples = shape.count,
                                                                .chunk_samples = side.chunk,
                                                                .feature_dim = info.feature_dim,
                                                                .spatial_dim = info.spatial_dim,
                                                                .logit_dim = info.classes});
      RETURN_IF_ERROR(Agree(opened.status()));
      store.emplace(*std::move(opened));
      options.store = &*store;
      if (!options.wanted.empty()) {
        absl::StatusOr<ChunkStore> pixels = ChunkStore::Open(PosixFileSystem(), folder,
                                                             {.kind = "pixels",
                                                              .key = key,
                                                              .items = shape.count,
                                                              .chunk_items = side.chunk,
                                                              .item_bytes = shape.bytes() / shape.count});
        RETURN_IF_ERROR(Agree(pixels.status()));
        pixel_store.emplace(*std::move(pixels));
        options.pixel_store = &*pixel_store;
      }
    }
    return ExtractFeatures(crew_, context_, *extractor_, *side.images, options);
  }

  // Of everything that determines the features. Not of the number of images: more of them go on from those there.
  uint64_t StoreKey(const EvaluationSide& side) const {
    const ExtractorInfo& info = extractor_->info();
    nlohmann::ordered_json description = side.description;
    description.erase("path");
    description.erase("images");
    return HashBytes(absl::StrJoin(
        {info.weights_sha256, info.resize, description.dump(), absl::StrCat(side.chunk),
         absl::StrCat("sampling batch ", request_.sampling.batch), absl::StrCat("on a GPU ", context_.on_cuda()),
         absl::StrCat("precision ", static_cast<int>(request_.sampling.precision))},
        "\n"));
  }

  absl::Status ScoreAll() {
    SetLinearAlgebraThreads(1);
    if (metrics_.frechet || !request_.write_statistics.empty()) RETURN_IF_ERROR(EstimateSamples());
    if (metrics_.frechet) RETURN_IF_ERROR(ScoreFrechet());
    const FeatureSet& samples = sample_features_;
    if (metrics_.inception_score) {
      ASSIGN_OR_RETURN(const InceptionScoreResult result,
                       InceptionScoreOf(samples, request_.split, request_.replicates));
      report_.inception_score = result.score;
      report_.inception_score_std = result.standard_deviation;
    }
    if (metrics_.precision_recall) {
      ASSIGN_OR_RETURN(const PrecisionRecall result,
                       PrecisionRecallOf(crew_, samples.feature_rows(), reference_features_.feature_rows(),
                                         request_.neighbours, request_.replicates));
      report_.precision = result.precision;
      report_.recall = result.recall;
    }
    if (metrics_.agreement) {
      report_.class_agreement = AgreementOf(samples, samples_.images->labels(), request_.replicates);
    }
    if (metrics_.reference_accuracy) {
      report_.reference_accuracy = AgreementOf(reference_features_, reference_.images->labels(), 0).value;
    }
    return absl::OkStatus();
  }

  // Mean and covariance of the samples, where they are not what was given.
  absl::Status EstimateSamples() {
    if (samples_.images == nullptr) return absl::OkStatus();
    samples_.statistics.emplace();
    ASSIGN_OR_RETURN(samples_.statistics->features, GaussianOf(sample_features_.feature_rows()));
    if (sample_features_.spatial_dim == 0) return absl::OkStatus();
    ASSIGN_OR_RETURN(samples_.statistics->spatial, GaussianOf(sample_features_.spatial_rows()));
    return absl::OkStatus();
  }

  absl::Status ScoreFrechet() {
    const bool has_rows = samples_.images != nullptr;
    const FeatureRows rows = sample_features_.feature_rows(), spatial = sample_features_.spatial_rows();
    if (!reference_.statistics.has_value()) {
      reference_.statistics.emplace();
      ASSIGN_OR_RETURN(reference_.statistics->features, GaussianOf(reference_features_.feature_rows()));
      if (metrics_.spatial) {
        ASSIGN_OR_RETURN(reference_.statistics->spatial, GaussianOf(reference_features_.spatial_rows()));
      }
    }
    if (metrics_.fid) {
      ASSIGN_OR_RETURN(report_.frechet, FrechetScore(crew_, samples_.statistics->features, has_rows ? &rows : nullptr,
                                                     reference_.statistics->features, request_.replicates));
    }
    if (metrics_.spatial) {
      ASSIGN_OR_RETURN(report_.spatial_frechet,
                       FrechetScore(crew_, *samples_.statistics->spatial, has_rows ? &spatial : nullptr,
                                    *reference_.statistics->spatial, request_.replicates));
    }
    return absl::OkStatus();
  }

  absl::Status WriteOutputs() {
    if (drawn_.has_value()) RETURN_IF_ERROR(drawn_->Finish());
    if (!request_.write_statistics.empty()) {
      RETURN_IF_ERROR(WriteStatisticsFile(PosixFileSystem(), request_.write_statistics, *samples_.statistics));
    }
    if (request_.write_features.empty()) return absl::OkStatus();
    const LabelledFeatures samples{&sample_features_, samples_.images->labels()};
    if (reference_features_.count == 0) return WriteFeatures(request_.write_features, samples, nullptr);
    const LabelledFeatures reference{&reference_features_, reference_.images->labels()};
    return WriteFeatures(request_.write_features, samples, &reference);
  }

  void Describe() {
    report_.n = samples_.count;
    if (metrics_.reference_features) report_.n_reference = reference_.count;
    report_.replicates = request_.replicates;
    report_.neighbours = request_.neighbours;
    report_.split = request_.split;
    if (extractor_ != nullptr) {
      report_.has_extractor = true;
      report_.extractor_path = request_.extractor;
      report_.extractor = extractor_->info();
    }
    report_.samples = samples_.description;
    report_.reference = request_.reference.empty() ? nlohmann::ordered_json(nullptr) : reference_.description;
  }

  World& world_;
  const EvaluateRequest& request_;
  RankContext& context_;
  const Crew crew_;

  SideIdentity samples_identity_, reference_identity_;
  EvaluationSide samples_, reference_;
  std::unique_ptr<FeatureExtractor> extractor_;
  ChosenMetrics metrics_;
  std::optional<DrawnImages> drawn_;  // rank 0, of a model
  FeatureSet sample_features_, reference_features_;
  EvaluateReport report_;
};

}  // namespace

absl::StatusOr<EvaluateReport> RunEvaluate(World& world, const EvaluateRequest& request) {
  const auto begin = std::chrono::steady_clock::now();
  RETURN_IF_ERROR(CheckEvaluateRequest(request));
  std::optional<StopSignal> stop;
  if (!request.work.empty()) stop.emplace();
  const CpuShare share = DivideCpus(world, request.sampling.threads);
  BindToShare(share);
  ASSIGN_OR_RETURN(const Device device, ChooseDevice(world, request.sampling.device, request.sampling.precision));
  RankContext context = MakeRankContext({.device = device, .precision = request.sampling.precision}, share);
  ASSIGN_OR_RETURN(EvaluateReport report,
                   Evaluation(world, request, context, stop.has_value() ? &*stop : nullptr).Run());
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return report;
}

}  // namespace shardit
