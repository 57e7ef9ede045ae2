#include "trainer/evaluate/extract_features.h"

#include <algorithm>
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

constexpr CallSite kPresentSite{"stored chunks", /*control=*/true};
constexpr CallSite kPixelSite{"pixels"};
constexpr CallSite kFeatureSite{"features"};

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
    FindWork();
    const bool kept = options_.pixel_store != nullptr, hand_over = !options_.wanted.empty();
    std::function<absl::Status(int64_t)> after_round;
    if (hand_over && !kept) after_round = [this](int64_t begin) { return HandOverRound(begin); };
    const auto body = [this](int64_t chunk) { return Do(chunk); };
    RETURN_IF_ERROR(DealChunks(crew_, work_, options_.name, body, after_round));
    if (hand_over && kept) {
      RETURN_IF_ERROR(AgreeStatus(crew_.comm, crew_.comm.rank() == 0 ? HandOverStored() : absl::OkStatus()));
    }
    RETURN_IF_ERROR(Collect());
    RETURN_IF_ERROR(CheckFinite());
    return std::move(set_);
  }

 private:
  Range Images(int64_t chunk) const {
    return {chunk * options_.chunk, std::min((chunk + 1) * options_.chunk, set_.count)};
  }

  int64_t chunks() const { return CeilDiv(set_.count, options_.chunk); }
  bool Wants(int64_t chunk) const {
    return !options_.wanted.empty() && options_.wanted[static_cast<size_t>(chunk)] != 0;
  }
  bool Has(const std::vector<uint8_t>& present, int64_t chunk) const {
    return present[static_cast<size_t>(chunk)] != 0;
  }

  // What a store (or none: null) holds, as rank 0 sees it.
  template <class Store>
  std::vector<uint8_t> FindStored(const Store* store) {
    std::vector<uint8_t> present(static_cast<size_t>(chunks()), 0);
    if (store == nullptr) return present;
    if (crew_.comm.rank() == 0) present = store->Present({0, chunks()});
    crew_.comm.Broadcast(present.data(), chunks(), 0, kPresentSite).Wait();
    return present;
  }

  // Which chunks are to be done: those of which something is missing.
  void FindWork() {
    has_features_ = FindStored(options_.store);
    has_pixels_ = FindStored(options_.pixel_store);
    bool any = false;
    for (int64_t chunk = 0; chunk < chunks(); ++chunk) {
      any = any || Has(has_features_, chunk);
      if (!Has(has_features_, chunk) || (Wants(chunk) && !Has(has_pixels_, chunk))) work_.push_back(chunk);
    }
    if (!any || crew_.comm.rank() != 0) return;
    const int64_t missing = std::ssize(work_);
    LOG_INFO("{} of {} chunks of {} are stored: {} to extract", chunks() - missing, chunks(), options_.name, missing);
  }

  // What is missing of a chunk, pixels first: with their features stored, a chunk counts as done.
  absl::Status Do(int64_t chunk) {
    RETURN_IF_ERROR(ReadPixels(chunk));
    if (!Has(has_features_, chunk)) RETURN_IF_ERROR(Extract(chunk));
    if (options_.store != nullptr) KillPoint("evaluate.chunk_stored");
    return absl::OkStatus();
  }

  absl::Status ReadPixels(int64_t chunk) {
    const ImageShape& shape = source_.shape();
    if (Has(has_pixels_, chunk)) {
      ASSIGN_OR_RETURN(const std::string bytes, options_.pixel_store->Read(chunk));
      pixels_.assign(bytes.begin(), bytes.end());
      return absl::OkStatus();
    }
    pixels_.resize(static_cast<size_t>(Images(chunk).size() * (shape.bytes() / shape.count)));
    RETURN_IF_ERROR(source_.Read(Images(chunk).begin, pixels_));
    if (options_.pixel_store == nullptr || !Wants(chunk)) return absl::OkStatus();
    return options_.pixel_store->Write(chunk, PixelBytes());
  }

  std::string_view PixelBytes() const { return {reinterpret_cast<const char*>(pixels_.data()), pixels_.size()}; }

  absl::Status Extract(int64_t chunk) {
    const Range images = Images(chunk);
    ImageShape shape = source_.shape();
    const int64_t image_bytes = shape.bytes() / shape.count;
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
    return options_.store == nullptr ? absl::OkStatus() : options_.store->Write(chunk, content);
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

  // Chunks of a round lie on the ranks in order, so what is gathered is in order too. Collective.
  absl::Status HandOverRound(int64_t begin) {
    const int64_t mine = begin + crew_.comm.rank();
    const bool has = mine < std::ssize(work_) && Wants(work_[static_cast<size_t>(mine)]);
    // World: to rank 0, which writes.
    const std::vector<std::string> parts =
        crew_.comm.GatherBytes(has ? PixelBytes() : std::string_view(), 0, kPixelSite);
    for (size_t i = 0; i < parts.size(); ++i) {
      if (!parts[i].empty()) RETURN_IF_ERROR(Take(work_[static_cast<size_t>(begin) + i], parts[i]));
    }
    return absl::OkStatus();
  }

  absl::Status HandOverStored() {
    for (int64_t chunk = 0; chunk < chunks(); ++chunk) {
      if (!Wants(chunk)) continue;
      ASSIGN_OR_RETURN(const std::string bytes, options_.pixel_store->Read(chunk));
      RETURN_IF_ERROR(Take(chunk, bytes));
    }
    return absl::OkStatus();
  }

  absl::Status Take(int64_t chunk, const std::string& bytes) {
    return options_.take_images(Images(chunk).begin, {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
  }

  // World: the features of every chunk from the rank that has them, in order: rank 0 for those that were stored before.
  absl::Status Collect() {
    std::vector<int> owner(static_cast<size_t>(chunks()), 0);
    for (int64_t i = 0; i < std::ssize(work_); ++i) {
      const int64_t chunk = work_[static_cast<size_t>(i)];
      if (!Has(has_features_, chunk)) owner[static_cast<size_t>(chunk)] = static_cast<int>(i % crew_.comm.size());
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
    for (int64_t chunk = 0; chunk < chunks(); ++chunk) {
      if (!Has(has_features_, chunk)) continue;
      ASSIGN_OR_RETURN(const FeatureChunk content, options_.store->Read(chunk));
      Keep(chunk, content);
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
  std::vector<uint8_t> has_features_, has_pixels_;  // by chunk: stored before
  std::vector<int64_t> work_;                       // chunks to be done, ascending: the i-th by rank i mod ranks
  std::vector<uint8_t> pixels_;                     // of the chunk that was done last
};

}  // namespace

absl::StatusOr<FeatureSet> ExtractFeatures(const Crew& crew, RankContext& context, const FeatureExtractor& extractor,
                                           ImageSource& source, const ExtractOptions& options) {
  return Extraction(crew, context, extractor, source, options).Run();
}

}  // namespace shardit
