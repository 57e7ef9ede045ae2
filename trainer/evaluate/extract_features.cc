#include "trainer/evaluate/extract_features.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "core/base/log.h"
#include "core/base/math.h"
#include "core/base/status_macros.h"
#include "parallel/comm/agree_status.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

using Clock = std::chrono::steady_clock;

constexpr CallSite kPresentSite{"stored chunks", /*control=*/true};
constexpr CallSite kPixelSite{"pixels"};
constexpr CallSite kFeatureSite{"features"};
constexpr std::chrono::seconds kProgressPeriod(10);

class Extraction {
 public:
  Extraction(const Crew& crew, RankContext& context, const FeatureExtractor& extractor, ImageSource& source,
             const ExtractOptions& options)
      : crew_(crew), context_(context), extractor_(extractor), source_(source), options_(options) {
    const ExtractorInfo& info = extractor.info();
    set_.count = source.shape().count;
    set_.feature_dim = info.feature_dim;
    set_.features.resize(static_cast<size_t>(set_.count * info.feature_dim));
    if (options.keep_spatial) set_.spatial_dim = info.spatial_dim;
    set_.spatial.resize(static_cast<size_t>(set_.count * set_.spatial_dim));
    if (options.keep_logits) set_.classes = info.classes;
    set_.logits.resize(static_cast<size_t>(set_.count * set_.classes));
  }

  absl::StatusOr<FeatureSet> Run() {
    RETURN_IF_ERROR(FindWork());
    const int64_t ranks = crew_.comm.size(), count = static_cast<int64_t>(work_.size());
    Clock::time_point told = Clock::now();
    for (int64_t begin = 0; begin < count; begin += ranks) {
      const int64_t mine = begin + crew_.comm.rank();
      absl::Status status;
      pixels_.clear();
      if (mine < count) status = Extract(work_[static_cast<size_t>(mine)]);
      RETURN_IF_ERROR(AgreeStatus(crew_.comm, status));
      RETURN_IF_ERROR(HandOverPixels(begin));
      if (Clock::now() - told > kProgressPeriod && crew_.comm.rank() == 0) {
        LOG_INFO("extracted {} of {} chunks of {}", std::min(begin + ranks, count), count, options_.name);
        told = Clock::now();
      }
      RETURN_IF_ERROR(CheckStop(crew_));
    }
    RETURN_IF_ERROR(Collect());
    RETURN_IF_ERROR(CheckFinite());
    return std::move(set_);
  }

 private:
  Range Images(int64_t chunk) const {
    return {chunk * options_.chunk, std::min((chunk + 1) * options_.chunk, set_.count)};
  }

  // Which chunks are stored, as rank 0 sees it, and which are to be done.
  absl::Status FindWork() {
    const int64_t chunks = CeilDiv(set_.count, options_.chunk);
    present_.assign(static_cast<size_t>(chunks), 0);
    if (options_.store != nullptr) {
      if (crew_.comm.rank() == 0) present_ = options_.store->Present({0, chunks});
      crew_.comm.Broadcast(present_.data(), chunks, 0, kPresentSite).Wait();
    }
    int64_t stored = 0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const bool is_stored = present_[static_cast<size_t>(chunk)] != 0;
      stored += is_stored ? 1 : 0;
      if (!is_stored || Images(chunk).begin < options_.images_taken) work_.push_back(chunk);
    }
    if (stored > 0 && crew_.comm.rank() == 0) {
      LOG_INFO("{} of {} chunks of {} are stored: {} to extract", stored, chunks, options_.name, work_.size());
    }
    return absl::OkStatus();
  }

  absl::Status Extract(int64_t chunk) {
    const Range images = Images(chunk);
    ImageShape shape = source_.shape();
    const int64_t image_bytes = shape.bytes() / shape.count;
    pixels_.resize(static_cast<size_t>(images.size() * image_bytes));
    RETURN_IF_ERROR(source_.Read(images.begin, pixels_));
    FeatureChunk content;
    FeatureBatch batch;
    for (int64_t done = 0; done < images.size(); done += shape.count) {
      shape.count = std::min(options_.batch, images.size() - done);
      const std::span<const uint8_t> pixels = pixels_;
      RETURN_IF_ERROR(extractor_.Extract(
          context_, pixels.subspan(static_cast<size_t>(done * image_bytes), static_cast<size_t>(shape.bytes())), shape,
          &batch));
      content.features.insert(content.features.end(), batch.features.begin(), batch.features.end());
      content.spatial.insert(content.spatial.end(), batch.spatial.begin(), batch.spatial.end());
      content.logits.insert(content.logits.end(), batch.logits.begin(), batch.logits.end());
    }
    Keep(chunk, content);
    if (options_.store == nullptr || present_[static_cast<size_t>(chunk)] != 0) return absl::OkStatus();
    RETURN_IF_ERROR(options_.store->Write(chunk, content));
    KillPoint("evaluate.chunk_stored");
    return absl::OkStatus();
  }

  void Keep(int64_t chunk, const FeatureChunk& content) {
    const int64_t first = Images(chunk).begin;
    std::copy(content.features.begin(), content.features.end(), set_.features.begin() + first * set_.feature_dim);
    if (set_.spatial_dim > 0) {
      std::copy(content.spatial.begin(), content.spatial.end(), set_.spatial.begin() + first * set_.spatial_dim);
    }
    if (set_.classes > 0) {
      std::copy(content.logits.begin(), content.logits.end(), set_.logits.begin() + first * set_.classes);
    }
  }

  // Chunks of a round lie on the ranks in order, so what is gathered is in order too.
  absl::Status HandOverPixels(int64_t begin) {
    const Range first = Images(work_[static_cast<size_t>(begin)]);
    if (first.begin >= options_.images_taken) return absl::OkStatus();
    const std::string_view bytes(reinterpret_cast<const char*>(pixels_.data()), pixels_.size());
    const std::vector<std::string> parts = crew_.comm.GatherBytes(bytes, 0, kPixelSite);
    absl::Status taken;
    for (size_t i = 0; i < parts.size() && taken.ok() && !parts[i].empty(); ++i) {
      const Range images = Images(work_[static_cast<size_t>(begin) + i]);
      if (images.begin >= options_.images_taken) break;
      taken = options_.take_images(images.begin, {reinterpret_cast<const uint8_t*>(parts[i].data()), parts[i].size()});
    }
    return AgreeStatus(crew_.comm, taken);
  }

  // World: every chunk from the rank that has it, in order: rank 0 for those that were stored before.
  absl::Status Collect() {
    std::vector<int> owner(present_.size(), 0);
    for (size_t i = 0; i < work_.size(); ++i) {
      owner[static_cast<size_t>(work_[i])] = static_cast<int>(static_cast<int64_t>(i) % crew_.comm.size());
    }
    absl::Status read;
    if (crew_.comm.rank() == 0) read = ReadStored();
    RETURN_IF_ERROR(AgreeStatus(crew_.comm, read));
    for (size_t chunk = 0; chunk < owner.size(); ++chunk) {
      const Range images = Images(static_cast<int64_t>(chunk));
      Spread(set_.features, set_.feature_dim, images, owner[chunk]);
      Spread(set_.spatial, set_.spatial_dim, images, owner[chunk]);
      Spread(set_.logits, set_.classes, images, owner[chunk]);
    }
    return absl::OkStatus();
  }

  absl::Status ReadStored() {
    for (size_t chunk = 0, next = 0; chunk < present_.size(); ++chunk) {
      if (next < work_.size() && work_[next] == static_cast<int64_t>(chunk)) {
        ++next;
        continue;
      }
      ASSIGN_OR_RETURN(const FeatureChunk content, options_.store->Read(static_cast<int64_t>(chunk)));
      Keep(static_cast<int64_t>(chunk), content);
    }
    return absl::OkStatus();
  }

  void Spread(std::vector<float>& values, int64_t dim, Range images, int owner) {
    crew_.comm.Broadcast(values.data() + images.begin * dim, images.size() * dim, owner, kFeatureSite).Wait();
  }

  absl::Status CheckFinite() const {
    const auto check = [this](const std::vector<float>& values, int64_t dim) {
      for (size_t i = 0; i < values.size(); ++i) {
        if (std::isfinite(values[i])) continue;
        return WithExitCode(absl::InvalidArgumentError(
                                absl::StrCat("features of image ", static_cast<int64_t>(i) / dim, " of ", options_.name,
                                             " are not finite: the extractor's weights do not fit")),
                            ExitCode::kNumerics);
      }
      return absl::OkStatus();
    };
    RETURN_IF_ERROR(check(set_.features, set_.feature_dim));
    RETURN_IF_ERROR(check(set_.spatial, set_.spatial_dim));
    return check(set_.logits, set_.classes);
  }

  const Crew& crew_;
  RankContext& context_;
  const FeatureExtractor& extractor_;
  ImageSource& source_;
  const ExtractOptions& options_;
  FeatureSet set_;
  std::vector<uint8_t> present_;  // by chunk
  std::vector<int64_t> work_;     // chunks to be done, ascending: the i-th by rank i mod ranks
  std::vector<uint8_t> pixels_;   // of the chunk that was done last
};

}  // namespace

absl::StatusOr<FeatureSet> ExtractFeatures(const Crew& crew, RankContext& context, const FeatureExtractor& extractor,
                                           ImageSource& source, const ExtractOptions& options) {
  return Extraction(crew, context, extractor, source, options).Run();
}

}  // namespace shardit
