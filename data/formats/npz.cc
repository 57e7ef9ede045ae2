#include "data/formats/npz.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "data/formats/float16.h"

namespace shardit {
namespace {

constexpr absl::string_view kSuffix = ".npy";
constexpr int64_t kStagingElements = 16384;

template <typename From, typename Convert>
void Widen(const char* bytes, int64_t count, double* out, Convert convert) {
  for (int64_t i = 0; i < count; ++i) {
    From value;
    std::memcpy(&value, bytes + i * static_cast<int64_t>(sizeof(From)), sizeof(From));
    out[i] = static_cast<double>(convert(value));
  }
}

template <typename From>
void Widen(const char* bytes, int64_t count, double* out) {
  Widen<From>(bytes, count, out, [](From value) { return value; });
}

void WidenToDouble(NpyType type, const char* bytes, int64_t count, double* out) {
  switch (type) {
    case NpyType::kBool:
      return Widen<uint8_t>(bytes, count, out, [](uint8_t value) { return value != 0; });
    case NpyType::kU8:
      return Widen<uint8_t>(bytes, count, out);
    case NpyType::kI8:
      return Widen<int8_t>(bytes, count, out);
    case NpyType::kU16:
      return Widen<uint16_t>(bytes, count, out);
    case NpyType::kI16:
      return Widen<int16_t>(bytes, count, out);
    case NpyType::kU32:
      return Widen<uint32_t>(bytes, count, out);
    case NpyType::kI32:
      return Widen<int32_t>(bytes, count, out);
    case NpyType::kU64:
      return Widen<uint64_t>(bytes, count, out);
    case NpyType::kI64:
      return Widen<int64_t>(bytes, count, out);
    case NpyType::kF16:
      return Widen<uint16_t>(bytes, count, out, FloatFromFloat16Bits);
    case NpyType::kF32:
      return Widen<float>(bytes, count, out);
    case NpyType::kF64:
      return Widen<double>(bytes, count, out);
  }
}

absl::string_view ArrayName(const ZipEntry& entry) { return absl::StripSuffix(entry.name, kSuffix); }

}  // namespace

absl::Status NpyArray::ParseHeader() {
  const ZipEntry& entry = source_.entry();
  std::string start(static_cast<size_t>(std::min(entry.bytes, kMaxNpyHeaderBytes)), '\0');
  RETURN_IF_ERROR(source_.ReadAt(0, static_cast<int64_t>(start.size()), start.data()));
  const std::string where =
      absl::StrCat(Quoted(source_.path()), ", array '", absl::CHexEscape(ArrayName(entry)), "': ");
  auto header = ParseNpyHeader(start);
  if (!header.ok()) return absl::Status(header.status().code(), absl::StrCat(where, header.status().message()));
  header_ = *std::move(header);
  if (header_.data_bytes == entry.bytes - header_.header_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(where, "shape (", absl::StrJoin(header_.shape, ", "), ") of ",
                                                 TypeName(header_.type), " needs ", header_.data_bytes,
                                                 " bytes of data, got ", entry.bytes - header_.header_bytes));
}

absl::Status NpyArray::Read(int64_t offset, int64_t bytes, void* out) {
  CHECK(offset >= 0 && bytes >= 0 && bytes <= header_.data_bytes - offset)
      << "[NpyArray] bytes " << offset << " + " << bytes << " of " << header_.data_bytes;
  return source_.ReadAt(header_.header_bytes + offset, bytes, out);
}

absl::Status NpyArray::ReadAsDouble(int64_t first, int64_t count, double* out) {
  const int64_t item = ItemBytes(header_.type);
  std::vector<char> staging(static_cast<size_t>(std::min(count, kStagingElements) * item));
  for (int64_t done = 0; done < count;) {
    const int64_t piece = std::min(count - done, kStagingElements);
    RETURN_IF_ERROR(Read((first + done) * item, piece * item, staging.data()));
    WidenToDouble(header_.type, staging.data(), piece, out + done);
    done += piece;
  }
  return absl::OkStatus();
}

absl::Status NpyArray::Verify() { return has_crc_ ? source_.VerifyCrc() : absl::OkStatus(); }

absl::StatusOr<NpzReader> NpzReader::Open(const std::string& path) {
  ASSIGN_OR_RETURN(RandomAccessFile file, RandomAccessFile::Open(path));
  NpzReader reader;
  char magic[2] = {};
  if (file.size() >= 2) RETURN_IF_ERROR(file.ReadAt(0, magic, 2));
  if (magic[0] == '\x93' && magic[1] == 'N') {
    reader.is_archive_ = false;
    reader.entries_.push_back({.name = "arr_0.npy", .stored_bytes = file.size(), .bytes = file.size()});
  } else {
    ASSIGN_OR_RETURN(reader.entries_, ReadZipDirectory(file));
  }
  reader.file_ = std::make_shared<const RandomAccessFile>(std::move(file));
  return reader;
}

std::vector<std::string> NpzReader::names() const {
  std::vector<std::string> names;
  for (const ZipEntry& entry : entries_) names.emplace_back(ArrayName(entry));
  return names;
}

absl::StatusOr<NpyArray> NpzReader::Array(absl::string_view name) const {
  for (const ZipEntry& entry : entries_) {
    if (ArrayName(entry) != name) continue;
    NpyArray array(ZipEntryReader(file_, entry), is_archive_);
    RETURN_IF_ERROR(array.ParseHeader());
    return array;
  }
  return absl::NotFoundError(absl::StrCat(Quoted(file_->path()), " has no array '", absl::CHexEscape(name), "', only ",
                                          absl::CHexEscape(absl::StrJoin(names(), ", "))));
}

NpzWriter::NpzWriter(FileSystem& fs, std::string path, std::string temporary, ZipWriter zip)
    : fs_(&fs), path_(std::move(path)), temporary_(std::move(temporary)), zip_(std::move(zip)) {}

NpzWriter::NpzWriter(NpzWriter&& other) noexcept
    : fs_(std::exchange(other.fs_, nullptr)),
      path_(std::move(other.path_)),
      temporary_(std::move(other.temporary_)),
      zip_(std::move(other.zip_)),
      in_array_(other.in_array_) {}

NpzWriter::~NpzWriter() {
  if (fs_ != nullptr) fs_->RemoveFile(temporary_).IgnoreError();  // best effort: the writer already failed
}

absl::StatusOr<NpzWriter> NpzWriter::Create(FileSystem& fs, const std::string& path) {
  const std::string temporary = absl::StrCat(path, ".tmp-", getpid());
  ASSIGN_OR_RETURN(ZipWriter zip, ZipWriter::Create(fs, temporary));
  return NpzWriter(fs, path, temporary, std::move(zip));
}

absl::Status NpzWriter::BeginArray(absl::string_view name, NpyType type, const std::vector<int64_t>& shape) {
  if (in_array_) RETURN_IF_ERROR(zip_.EndEntry());
  const std::string header = FormatNpyHeader(type, shape);
  int64_t bytes = ItemBytes(type);
  for (const int64_t dim : shape) bytes *= dim;
  in_array_ = true;
  RETURN_IF_ERROR(zip_.BeginEntry(absl::StrCat(name, kSuffix), static_cast<int64_t>(header.size()) + bytes));
  return zip_.Append(header.data(), static_cast<int64_t>(header.size()));
}

absl::Status NpzWriter::Append(const void* data, int64_t bytes) { return zip_.Append(data, bytes); }

absl::Status NpzWriter::Finish() {
  if (in_array_) RETURN_IF_ERROR(zip_.EndEntry());
  RETURN_IF_ERROR(zip_.Finish());
  RETURN_IF_ERROR(fs_->Rename(temporary_, path_));
  return std::exchange(fs_, nullptr)->SyncFolder(ParentFolder(path_));
}

}  // namespace shardit
