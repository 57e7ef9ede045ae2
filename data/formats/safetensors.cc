#include "data/formats/safetensors.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "data/formats/float16.h"
#include "data/formats/safetensors_header.h"

namespace shardit {
namespace {

constexpr int64_t kLengthBytes = 8;
constexpr int64_t kStagingElements = 16384;

absl::Status In(const std::string& path, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat("safetensors file ", Quoted(path), ": ", status.message()));
}

absl::Status BadFile(const std::string& path, absl::string_view what) {
  return In(path, absl::InvalidArgumentError(what));
}

// Converts `count` elements of type From at `bytes` (any alignment) with `convert`.
template <typename From, typename To, typename Convert>
void ConvertElements(const char* bytes, int64_t count, To* out, Convert convert) {
  for (int64_t i = 0; i < count; ++i) {
    From value;
    std::memcpy(&value, bytes + i * static_cast<int64_t>(sizeof(From)), sizeof(From));
    out[i] = convert(value);
  }
}

bool ConvertToFloat(SafetensorsType type, const char* bytes, int64_t count, float* out) {
  switch (type) {
    case SafetensorsType::kF64:
      ConvertElements<double>(bytes, count, out, [](double v) { return static_cast<float>(v); });
      return true;
    case SafetensorsType::kF32:
      ConvertElements<float>(bytes, count, out, [](float v) { return v; });
      return true;
    case SafetensorsType::kF16:
      ConvertElements<uint16_t>(bytes, count, out, FloatFromFloat16Bits);
      return true;
    case SafetensorsType::kBF16:
      ConvertElements<uint16_t>(bytes, count, out, FloatFromBFloat16Bits);
      return true;
    default:
      return false;
  }
}

bool ConvertToInt64(SafetensorsType type, const char* bytes, int64_t count, int64_t* out) {
  const auto widen = [](auto v) { return static_cast<int64_t>(v); };
  switch (type) {
    case SafetensorsType::kI64:
      ConvertElements<int64_t>(bytes, count, out, widen);
      return true;
    case SafetensorsType::kI32:
      ConvertElements<int32_t>(bytes, count, out, widen);
      return true;
    case SafetensorsType::kU8:
      ConvertElements<uint8_t>(bytes, count, out, widen);
      return true;
    default:
      return false;
  }
}

// Reads in pieces through a small buffer; `convert` says false for a type it does not take.
template <typename To>
absl::Status ReadConverted(const SafetensorsReader& reader, const SafetensorsEntry& entry, int64_t first, int64_t count,
                           bool (*convert)(SafetensorsType, const char*, int64_t, To*), absl::string_view wanted,
                           To* out) {
  if (!convert(entry.type, nullptr, 0, nullptr)) {
    return BadFile(reader.path(), absl::StrCat("tensor '", absl::CHexEscape(entry.name), "' has type ",
                                               TypeName(entry.type), ", expected ", wanted));
  }
  const int64_t item = ItemBytes(entry.type);
  std::vector<char> staging(static_cast<size_t>(std::min(count, kStagingElements) * item));
  for (int64_t done = 0; done < count;) {
    const int64_t piece = std::min(count - done, kStagingElements);
    RETURN_IF_ERROR(reader.Read(entry, (first + done) * item, piece * item, staging.data()));
    convert(entry.type, staging.data(), piece, out + done);
    done += piece;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SafetensorsReader> SafetensorsReader::Open(const std::string& path) {
  ASSIGN_OR_RETURN(RandomAccessFile file, RandomAccessFile::Open(path));
  if (file.size() < kLengthBytes) {
    return BadFile(path, absl::StrCat("has ", file.size(), " bytes, expected at least 8"));
  }
  uint64_t length = 0;
  RETURN_IF_ERROR(file.ReadAt(0, &length, kLengthBytes));
  const int64_t limit = std::min(kMaxSafetensorsHeaderBytes, file.size() - kLengthBytes);
  if (length > static_cast<uint64_t>(limit)) {
    return BadFile(path, absl::StrCat("claims a header of ", length, " bytes, expected at most ", limit,
                                      " (100 MB, and what the file holds)"));
  }
  std::string json(static_cast<size_t>(length), '\0');
  RETURN_IF_ERROR(file.ReadAt(kLengthBytes, json.data(), static_cast<int64_t>(length)));

  SafetensorsReader reader(std::move(file));
  reader.header_bytes_ = kLengthBytes + static_cast<int64_t>(length);
  auto header = ParseSafetensorsHeader(json, reader.file_.size() - reader.header_bytes_);
  if (!header.ok()) return In(path, header.status());
  reader.entries_ = std::move(header->entries);
  reader.metadata_ = std::move(header->metadata);
  for (SafetensorsEntry& entry : reader.entries_) entry.begin += reader.header_bytes_;
  reader.by_name_.resize(reader.entries_.size());
  std::iota(reader.by_name_.begin(), reader.by_name_.end(), size_t{0});
  std::sort(reader.by_name_.begin(), reader.by_name_.end(),
            [&](size_t a, size_t b) { return reader.entries_[a].name < reader.entries_[b].name; });
  return reader;
}

const SafetensorsEntry* SafetensorsReader::Find(absl::string_view name) const {
  const auto at = std::lower_bound(by_name_.begin(), by_name_.end(), name,
                                   [&](size_t index, absl::string_view n) { return entries_[index].name < n; });
  return at != by_name_.end() && entries_[*at].name == name ? &entries_[*at] : nullptr;
}

absl::StatusOr<const SafetensorsEntry*> SafetensorsReader::Require(absl::string_view name) const {
  const SafetensorsEntry* entry = Find(name);
  if (entry == nullptr) {
    return absl::NotFoundError(absl::StrCat("safetensors file ", Quoted(path()), " has no tensor '",
                                            absl::CHexEscape(name), "' (it holds ", entries_.size(), ")"));
  }
  return entry;
}

absl::Status SafetensorsReader::Read(const SafetensorsEntry& entry, int64_t offset, int64_t bytes, void* out) const {
  CHECK(offset >= 0 && bytes >= 0 && bytes <= entry.bytes - offset)
      << "[SafetensorsReader] " << entry.name << ": bytes " << offset << " + " << bytes << " of " << entry.bytes;
  return file_.ReadAt(entry.begin + offset, out, bytes);
}

absl::Status SafetensorsReader::ReadAsFloat(const SafetensorsEntry& entry, int64_t first, int64_t count,
                                            float* out) const {
  if (entry.type == SafetensorsType::kF32) return Read(entry, first * 4, count * 4, out);
  return ReadConverted<float>(*this, entry, first, count, ConvertToFloat, "F64, F32, F16 or BF16", out);
}

absl::Status SafetensorsReader::ReadAsInt64(const SafetensorsEntry& entry, int64_t first, int64_t count,
                                            int64_t* out) const {
  return ReadConverted<int64_t>(*this, entry, first, count, ConvertToInt64, "I64, I32 or U8", out);
}

absl::StatusOr<SafetensorsWriter> SafetensorsWriter::Create(FileSystem& fs, const std::string& path,
                                                            const std::vector<SafetensorsSpec>& tensors,
                                                            const std::map<std::string, std::string>& metadata) {
  auto header = FormatSafetensorsHeader(tensors, metadata);
  if (!header.ok()) return In(path, header.status());
  SafetensorsWriter writer;
  writer.header_ = *std::move(header);
  writer.cursor_ = writer.header_bytes();
  writer.file_bytes_ = writer.cursor_;
  for (const SafetensorsSpec& spec : tensors) {
    writer.begins_.push_back(writer.file_bytes_);
    writer.file_bytes_ += CheckedTensorBytes(spec.type, spec.shape);
  }
  ASSIGN_OR_RETURN(writer.file_, fs.Create(path));
  RETURN_IF_ERROR(writer.file_->WriteAt(0, writer.header_.data(), writer.header_bytes()));
  return writer;
}

absl::Status SafetensorsWriter::Append(const void* data, int64_t bytes) {
  CHECK(bytes >= 0 && bytes <= file_bytes_ - cursor_)
      << "[SafetensorsWriter] " << bytes << " bytes appended at " << cursor_ << " of " << file_bytes_;
  RETURN_IF_ERROR(file_->WriteAt(cursor_, data, bytes));
  cursor_ += bytes;
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::Finish() {
  CHECK_EQ(cursor_, file_bytes_) << "[SafetensorsWriter] some announced bytes were never appended";
  RETURN_IF_ERROR(file_->Sync());
  return file_->Close();
}

namespace {

absl::Status WriteAll(FileSystem& fs, const std::string& path, const std::vector<SafetensorsTensor>& tensors,
                      const std::map<std::string, std::string>& metadata) {
  std::vector<SafetensorsSpec> specs;
  for (const SafetensorsTensor& tensor : tensors) specs.push_back(tensor.spec);
  ASSIGN_OR_RETURN(SafetensorsWriter writer, SafetensorsWriter::Create(fs, path, specs, metadata));
  for (const SafetensorsTensor& tensor : tensors) {
    RETURN_IF_ERROR(writer.Append(tensor.data, CheckedTensorBytes(tensor.spec.type, tensor.spec.shape)));
  }
  return writer.Finish();
}

}  // namespace

absl::Status WriteSafetensors(FileSystem& fs, const std::string& path, std::vector<SafetensorsTensor> tensors,
                              const std::map<std::string, std::string>& metadata) {
  std::sort(tensors.begin(), tensors.end(), [](const SafetensorsTensor& a, const SafetensorsTensor& b) {
    return std::pair(-ItemBytes(a.spec.type), absl::string_view(a.spec.name)) <
           std::pair(-ItemBytes(b.spec.type), absl::string_view(b.spec.name));
  });
  return ReplaceFile(fs, path,
                     [&](const std::string& temporary) { return WriteAll(fs, temporary, tensors, metadata); });
}

}  // namespace shardit
