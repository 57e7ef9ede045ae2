#include "data/describe.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "data/aligned_buffer.h"
#include "data/dataset.h"
#include "data/decode.h"
#include "data/hdf5_util.h"

namespace shardit {
namespace {

constexpr int64_t kBlockBytes = int64_t{8} << 20;

// Checks one stored sample, given as float32.
absl::Status CheckValues(const LatentFileInfo& info, int64_t sample, const float* values) {
  const int64_t elements = info.shape.elements();
  const bool moments = info.kind == LatentKind::kMoments;
  const int64_t count = elements * (moments ? 2 : 1);
  for (int64_t i = 0; i < count; ++i) {
    const bool deviation = i >= elements;
    if (std::isfinite(values[i]) && !(deviation && values[i] < 0)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(EscapeForMessage(info.path), ": ", KindName(info.kind), " of sample ", sample, ", element ", i,
                     ": expected ", deviation ? "a finite standard deviation of at least 0" : "a finite value",
                     ", got ", values[i], "; encode the sample again or leave it out"));
  }
  return absl::OkStatus();
}

absl::Status VerifyFile(const LatentFile& file) {
  const LatentFileInfo& info = file.info();
  const int64_t sample_bytes = info.sample_bytes();
  const int64_t block = std::clamp<int64_t>(kBlockBytes / sample_bytes, 1, info.count);
  const bool half = info.type == LatentType::kFloat16;
  const int64_t stored_values = sample_bytes / (half ? 2 : 4);
  ASSIGN_OR_RETURN(AlignedBuffer<std::byte> raw, AlignedBuffer<std::byte>::Make(block * sample_bytes, "a block"));
  ASSIGN_OR_RETURN(AlignedBuffer<float> floats, AlignedBuffer<float>::Make(half ? stored_values : 0, "a sample"));
  for (int64_t first = 0; first < info.count; first += block) {
    const int64_t count = std::min(block, info.count - first);
    RETURN_IF_ERROR(file.ReadRaw(first, count, raw.data()));
    for (int64_t i = 0; i < count; ++i) {
      const std::byte* const stored = raw.data() + i * sample_bytes;
      const float* values = reinterpret_cast<const float*>(stored);
      if (half) {
        HalfToFloat(reinterpret_cast<const uint16_t*>(stored), stored_values, floats.data());
        values = floats.data();
      }
      RETURN_IF_ERROR(CheckValues(info, first + i, values));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<DataInfo> DescribeData(const std::string& path) {
  ASSIGN_OR_RETURN(const std::shared_ptr<const Dataset> dataset, Dataset::Open({path}));
  DataInfo result;
  result.count = dataset->size();
  result.shape = dataset->shape();
  result.classes = dataset->classes();
  result.fingerprint = dataset->Fingerprint();
  result.class_counts.resize(static_cast<size_t>(result.classes));
  for (const auto& file : dataset->files()) {
    result.files.push_back(file->info());
    for (const int32_t label : file->labels()) {
      const auto index = static_cast<size_t>(label);
      if (index >= result.class_counts.size()) result.class_counts.resize(index + 1);
      ++result.class_counts[index];
      result.max_label = std::max<int64_t>(result.max_label, label);
    }
  }
  return result;
}

absl::Status VerifyData(const std::string& path) {
  ASSIGN_OR_RETURN(const std::shared_ptr<const Dataset> dataset, Dataset::Open({path}));
  for (const auto& file : dataset->files()) {
    // A file without the attribute must still fit the classes that its neighbours state.
    const auto& labels = file->labels();
    const auto above = std::find_if(labels.begin(), labels.end(), [&](int32_t label) {
      return dataset->classes() != 0 && label >= dataset->classes();
    });
    if (above != labels.end()) {
      return absl::InvalidArgumentError(absl::StrCat(EscapeForMessage(file->info().path), ": labels[",
                                                     above - labels.begin(), "]: expected a class in [0, ",
                                                     dataset->classes(), ") as the other files state, got ", *above,
                                                     "; correct the labels or the attribute classes"));
    }
    RETURN_IF_ERROR(VerifyFile(*file));
  }
  return absl::OkStatus();
}

const char* TypeName(LatentType type) { return type == LatentType::kFloat16 ? "float16" : "float32"; }

const char* KindName(LatentKind kind) { return kind == LatentKind::kMoments ? "moments" : "latents"; }

const char* LayoutName(LatentLayout layout) {
  switch (layout) {
    case LatentLayout::kContiguous:
      return "contiguous";
    case LatentLayout::kChunked:
      return "chunked";
    case LatentLayout::kCompact:
      return "compact";
  }
  return "unknown";
}

}  // namespace shardit
