#include "trainer/evaluate/feature_store.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/check.h"
#include "core/base/crc32c.h"
#include "core/base/log.h"
#include "core/base/status_macros.h"

namespace shardit {
namespace {

// The header as it lies on disk, little-endian and without padding.
struct StoredHeader {
  char magic[8] = {'S', 'D', 'F', 'E', 'A', 'T', '0', '1'};
  uint64_t key = 0;
  int64_t first = 0, count = 0;
  int64_t feature_dim = 0, spatial_dim = 0, logit_dim = 0;
  uint32_t data_crc = 0;
  uint32_t header_crc = 0;  // of all before
};
static_assert(sizeof(StoredHeader) == FeatureStore::kHeaderBytes);
constexpr size_t kCheckedBytes = offsetof(StoredHeader, header_crc);

int64_t Bytes(const std::vector<float>& values) { return static_cast<int64_t>(values.size() * sizeof(float)); }

}  // namespace

absl::StatusOr<FeatureStore> FeatureStore::Open(FileSystem& fs, const std::string& folder,
                                                const FeatureStoreOptions& options) {
  CHECK(options.samples >= 0 && options.chunk_samples >= 1 && options.feature_dim >= 0 && options.spatial_dim >= 0 &&
        options.logit_dim >= 0)
      << "[FeatureStore] " << options.samples << " samples in chunks of " << options.chunk_samples;
  RETURN_IF_ERROR(MakeFolders(fs, folder));
  return FeatureStore(fs, folder, options);
}

FeatureStore::FeatureStore(FileSystem& fs, std::string folder, const FeatureStoreOptions& options)
    : fs_(&fs), folder_(std::move(folder)), options_(options) {}

Range FeatureStore::Samples(int64_t chunk) const {
  CHECK(chunk >= 0 && chunk < chunks()) << "[FeatureStore] chunk " << chunk << " of " << chunks();
  const int64_t begin = chunk * options_.chunk_samples;
  return {begin, std::min(begin + options_.chunk_samples, options_.samples)};
}

std::string FeatureStore::Path(int64_t chunk) const {
  return JoinPath(folder_, absl::StrFormat("chunk-%06d.features", chunk));
}

std::string FeatureStore::Header(int64_t chunk, uint32_t data_crc) const {
  const Range samples = Samples(chunk);
  StoredHeader header;
  header.key = options_.key;
  header.first = samples.begin;
  header.count = samples.size();
  header.feature_dim = options_.feature_dim;
  header.spatial_dim = options_.spatial_dim;
  header.logit_dim = options_.logit_dim;
  header.data_crc = data_crc;
  header.header_crc = Crc32c(&header, kCheckedBytes);
  return std::string(reinterpret_cast<const char*>(&header), sizeof(header));
}

std::vector<uint8_t> FeatureStore::Present(Range chunks) const {
  std::vector<uint8_t> present;
  for (int64_t chunk = chunks.begin; chunk < chunks.end; ++chunk) {
    const absl::Status status = Read(chunk).status();
    present.push_back(status.ok() ? 1 : 0);
    if (!status.ok() && !absl::IsNotFound(status)) LOG_WARN("{}; extracting it again", std::string(status.message()));
  }
  return present;
}

absl::StatusOr<FeatureChunk> FeatureStore::Read(int64_t chunk) const {
  ASSIGN_OR_RETURN(const RandomAccessFile file, RandomAccessFile::Open(Path(chunk), RandomAccessFile::Links::kRefuse));
  const auto refused = [&](absl::string_view reason) {
    return absl::DataLossError(absl::StrCat("features in ", Quoted(file.path()), " are not used: ", reason));
  };
  const auto floats = [&](int64_t dim) { return std::vector<float>(static_cast<size_t>(Samples(chunk).size() * dim)); };
  FeatureChunk content;
  const int64_t sample_floats = options_.feature_dim + options_.spatial_dim + options_.logit_dim;
  const int64_t expected = kHeaderBytes + Samples(chunk).size() * sample_floats * static_cast<int64_t>(sizeof(float));
  if (file.size() != expected) {
    return refused(absl::StrCat("expected ", expected, " bytes, got ", file.size()));
  }
  content.features = floats(options_.feature_dim);
  content.spatial = floats(options_.spatial_dim);
  content.logits = floats(options_.logit_dim);

  std::string header(kHeaderBytes, '\0');
  RETURN_IF_ERROR(file.ReadAt(0, header.data(), kHeaderBytes));
  uint32_t crc = 0;
  int64_t offset = kHeaderBytes;
  for (std::vector<float>* part : {&content.features, &content.spatial, &content.logits}) {
    RETURN_IF_ERROR(file.ReadAt(offset, part->data(), Bytes(*part)));
    crc = Crc32cExtend(crc, part->data(), static_cast<size_t>(Bytes(*part)));
    offset += Bytes(*part);
  }
  // One comparison says all: key, range, dims and checksum are what they would be, written now with this data.
  if (header == Header(chunk, crc)) return content;
  StoredHeader stored;
  std::memcpy(&stored, header.data(), sizeof(stored));
  const bool whole = stored.header_crc == Crc32c(&stored, kCheckedBytes) && stored.data_crc == crc;
  return refused(whole ? "they belong to another evaluation" : "checksums do not match");
}

absl::Status FeatureStore::Write(int64_t chunk, const FeatureChunk& content) {
  const size_t count = static_cast<size_t>(Samples(chunk).size());
  CHECK_EQ(content.features.size(), count * options_.feature_dim);
  CHECK_EQ(content.spatial.size(), count * options_.spatial_dim);
  CHECK_EQ(content.logits.size(), count * options_.logit_dim);
  const std::vector<float>* parts[] = {&content.features, &content.spatial, &content.logits};
  uint32_t crc = 0;
  for (const auto* part : parts) crc = Crc32cExtend(crc, part->data(), static_cast<size_t>(Bytes(*part)));
  return ReplaceFile(*fs_, Path(chunk), [&](const std::string& temporary) -> absl::Status {
    ASSIGN_OR_RETURN(const std::unique_ptr<WritableFile> file, fs_->Create(temporary));
    RETURN_IF_ERROR(file->WriteAt(0, Header(chunk, crc).data(), kHeaderBytes));
    int64_t offset = kHeaderBytes;
    for (const auto* part : parts) {
      RETURN_IF_ERROR(file->WriteAt(offset, part->data(), Bytes(*part)));
      offset += Bytes(*part);
    }
    RETURN_IF_ERROR(file->Sync());
    return file->Close();
  });
}

}  // namespace shardit
