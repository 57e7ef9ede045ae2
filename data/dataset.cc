#include "data/dataset.h"

#include <glob.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/base/hash.h"
#include "core/base/status_macros.h"
#include "core/tensor/rng.h"
#include "data/decode.h"
#include "data/hdf5_util.h"

namespace shardit {
namespace {

std::string ShapeText(const LatentShape& shape) {
  return absl::StrCat("[", shape.channels, ", ", shape.height, ", ", shape.width, "]");
}

// Refuses a file that does not fit the files before it.
absl::Status CheckFits(const LatentFileInfo& first, int64_t classes, const LatentFileInfo& next) {
  const auto refuse = [&](const char* what, const std::string& expected, const std::string& got) {
    return absl::InvalidArgumentError(absl::StrCat(EscapeForMessage(next.path), ": ", what, ": expected ", expected,
                                                   " as in the files before it, got ", got,
                                                   "; name only files of one data set"));
  };
  if (next.shape != first.shape) return refuse("latent shape", ShapeText(first.shape), ShapeText(next.shape));
  if (classes != 0 && next.classes != 0 && next.classes != classes) {
    return refuse("attribute classes", absl::StrCat(classes), absl::StrCat(next.classes));
  }
  return absl::OkStatus();
}

template <class T>
uint64_t HashValues(const T* values, size_t count, uint64_t seed) {
  return HashBytes({reinterpret_cast<const char*>(values), count * sizeof(T)}, seed);
}

}  // namespace

absl::StatusOr<std::vector<std::string>> MatchFiles(const std::string& pattern) {
  // A name that exists is that file, even if it holds characters that mean something in a pattern.
  std::error_code ignored;
  if (std::filesystem::exists(pattern, ignored)) return std::vector<std::string>{pattern};
  glob_t matches{};
  const int result = glob(pattern.c_str(), 0, nullptr, &matches);
  std::vector<std::string> files(matches.gl_pathv, matches.gl_pathv + matches.gl_pathc);
  globfree(&matches);
  if (result != 0 || files.empty()) {
    return absl::NotFoundError(
        absl::StrCat(EscapeForMessage(pattern), ": no such data file; check the path or pattern"));
  }
  std::sort(files.begin(), files.end());
  return files;
}

absl::StatusOr<std::shared_ptr<const Dataset>> Dataset::Open(const DatasetOptions& options) {
  ASSIGN_OR_RETURN(const std::vector<std::string> paths, MatchFiles(options.path));
  std::shared_ptr<Dataset> dataset(new Dataset());
  dataset->starts_.push_back(0);
  for (const std::string& path : paths) {
    ASSIGN_OR_RETURN(std::unique_ptr<LatentFile> file, LatentFile::Open(path, options.classes));
    const LatentFileInfo& info = file->info();
    if (!dataset->files_.empty()) RETURN_IF_ERROR(CheckFits(dataset->files_[0]->info(), dataset->classes_, info));
    dataset->classes_ = std::max(dataset->classes_, info.classes);
    dataset->starts_.push_back(dataset->starts_.back() + info.count);
    if (options.in_memory) RETURN_IF_ERROR(file->LoadIntoMemory());
    dataset->files_.push_back(std::move(file));
  }
  return dataset;
}

Dataset::Place Dataset::Find(int64_t sample) const {
  CHECK(sample >= 0 && sample < size()) << "[Dataset] sample " << sample << " of " << size();
  const auto next = std::upper_bound(starts_.begin() + 1, starts_.end(), sample);
  const auto file = static_cast<size_t>(next - starts_.begin() - 1);
  return {files_[file].get(), sample - starts_[file]};
}

int32_t Dataset::label(int64_t sample) const {
  const Place place = Find(sample);
  return place.file->labels()[static_cast<size_t>(place.sample)];
}

uint64_t Dataset::Fingerprint() const {
  uint64_t hash = HashBytes("");
  for (const auto& file : files_) {
    const LatentFileInfo& info = file->info();
    const int64_t facts[] = {info.file_bytes,
                             info.count,
                             info.shape.channels,
                             info.shape.height,
                             info.shape.width,
                             static_cast<int64_t>(info.kind),
                             static_cast<int64_t>(info.type),
                             info.classes,
                             info.flipped ? 1 : 0};
    hash = HashValues(facts, std::size(facts), hash);
    hash = HashValues(&info.scale, 1, hash);
    hash = HashValues(file->labels().data(), file->labels().size(), hash);
  }
  return hash;
}

absl::StatusOr<SampleReader> SampleReader::Make(const Dataset& dataset) {
  int64_t raw_bytes = 0, moment_values = 0;
  for (const auto& file : dataset.files()) {
    const LatentFileInfo& info = file->info();
    raw_bytes = std::max(raw_bytes, info.sample_bytes());
    if (info.kind == LatentKind::kMoments) moment_values = 2 * info.shape.elements();
  }
  SampleReader reader(dataset);
  ASSIGN_OR_RETURN(reader.raw_, AlignedBuffer<std::byte>::Make(raw_bytes, "one stored sample"));
  ASSIGN_OR_RETURN(reader.moments_, AlignedBuffer<float>::Make(moment_values, "one sample's moments"));
  return reader;
}

absl::StatusOr<const std::byte*> SampleReader::Stored(const Dataset::Place& place) {
  if (const std::byte* memory = place.file->InMemory(place.sample)) return memory;
  RETURN_IF_ERROR(place.file->ReadRaw(place.sample, 1, raw_.data()));
  return raw_.data();
}

absl::Status SampleReader::Read(int64_t sample, const SampleDraw& draw, float* x) {
  const Dataset::Place place = dataset_->Find(sample);
  const LatentFileInfo& info = place.file->info();
  const int64_t elements = info.shape.elements();
  const bool half = info.type == LatentType::kFloat16;
  if (info.kind == LatentKind::kMoments) {
    ASSIGN_OR_RETURN(const std::byte* const stored, Stored(place));
    const float* mean = reinterpret_cast<const float*>(stored);
    if (half) {
      HalfToFloat(reinterpret_cast<const uint16_t*>(stored), 2 * elements, moments_.data());
      mean = moments_.data();
    }
    FillNormal({draw.seed, RngPurpose::kPosterior, draw.stream}, 0, elements, x);
    Posterior(mean, mean + elements, elements, info.scale, x);
  } else {
    if (half) {
      ASSIGN_OR_RETURN(const std::byte* const stored, Stored(place));
      HalfToFloat(reinterpret_cast<const uint16_t*>(stored), elements, x);
    } else {
      RETURN_IF_ERROR(place.file->ReadRaw(place.sample, 1, x));
    }
    if (info.scale != 1.0f) Scale(x, elements, info.scale);
  }
  if (draw.mirror && !info.flipped) FlipWidth(x, info.shape.channels * info.shape.height, info.shape.width);
  return absl::OkStatus();
}

absl::Status ReadRange(const Dataset& dataset, SampleReader& reader, uint64_t seed, int64_t first, int64_t count,
                       std::span<float> x, std::span<int32_t> y) {
  const int64_t elements = dataset.shape().elements();
  CHECK_EQ(static_cast<int64_t>(x.size()), count * elements) << "[ReadRange] x";
  CHECK_EQ(static_cast<int64_t>(y.size()), count) << "[ReadRange] y";
  for (int64_t i = 0; i < count; ++i) {
    const SampleDraw draw{seed, static_cast<uint64_t>(first + i), false};
    RETURN_IF_ERROR(reader.Read(first + i, draw, x.data() + i * elements));
    y[static_cast<size_t>(i)] = dataset.label(first + i);
  }
  return absl::OkStatus();
}

}  // namespace shardit
