#include <zlib.h>

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "data/formats/zip.h"
#include "data/formats/zip_layout.h"

namespace shardit {
namespace {

using zip::Add;

constexpr uint16_t kVersion = 45;          // the first with zip64
constexpr uint16_t kMadeBy = 3 << 8 | 45;  // on Unix
constexpr uint32_t kFileMode = 0100644;    // in the upper half of the external attributes
constexpr uint16_t kDate = 1 << 5 | 1;     // 1980-01-01: the bytes must not depend on the clock
constexpr int64_t kCrcInLocalHeader = 14;  // byte offset of the CRC-32 field

// The fields that local and central records share: version to CRC, then the two sizes as "see zip64".
void AddCommonFields(uint32_t crc, size_t name_bytes, uint16_t extra_bytes, std::string* record) {
  Add(record, kVersion);
  Add<uint16_t>(record, 0);  // flags
  Add<uint16_t>(record, 0);  // method: stored
  Add<uint16_t>(record, 0);  // time
  Add(record, kDate);
  Add(record, crc);
  Add(record, zip::kIn64);
  Add(record, zip::kIn64);
  Add(record, static_cast<uint16_t>(name_bytes));
  Add(record, extra_bytes);
}

std::string LocalHeader(const std::string& name, int64_t bytes) {
  std::string record;
  Add(&record, zip::kLocalSignature);
  AddCommonFields(0, name.size(), 20, &record);
  record += name;
  Add(&record, zip::kZip64ExtraId);
  Add<uint16_t>(&record, 16);
  Add(&record, bytes);
  Add(&record, bytes);
  return record;
}

std::string CentralHeader(const std::string& name, int64_t bytes, int64_t header_begin, uint32_t crc) {
  std::string record;
  Add(&record, zip::kCentralSignature);
  Add(&record, kMadeBy);
  AddCommonFields(crc, name.size(), 28, &record);
  Add<uint16_t>(&record, 0);  // comment
  Add<uint16_t>(&record, 0);  // disk
  Add<uint16_t>(&record, 0);  // internal attributes
  Add(&record, kFileMode << 16);
  Add(&record, zip::kIn64);
  record += name;
  Add(&record, zip::kZip64ExtraId);
  Add<uint16_t>(&record, 24);
  Add(&record, bytes);
  Add(&record, bytes);
  Add(&record, header_begin);
  return record;
}

// The zip64 end record, its locator, and the end record that readers look for first.
std::string EndRecords(int64_t count, int64_t directory_begin, int64_t directory_bytes) {
  std::string record;
  Add(&record, zip::kEnd64Signature);
  Add<uint64_t>(&record, zip::kEnd64Bytes - 12);  // size of the rest
  Add(&record, kMadeBy);
  Add(&record, kVersion);
  Add<uint64_t>(&record, 0);  // this disk, directory's disk
  Add(&record, count);
  Add(&record, count);
  Add(&record, directory_bytes);
  Add(&record, directory_begin);

  Add(&record, zip::kLocatorSignature);
  Add<uint32_t>(&record, 0);
  Add(&record, directory_begin + directory_bytes);
  Add<uint32_t>(&record, 1);

  const uint16_t count16 = static_cast<uint16_t>(std::min<int64_t>(count, 0xffff));
  Add(&record, zip::kEndSignature);
  Add<uint32_t>(&record, 0);
  Add(&record, count16);
  Add(&record, count16);
  Add(&record, static_cast<uint32_t>(std::min<int64_t>(directory_bytes, zip::kIn64)));
  Add(&record, static_cast<uint32_t>(std::min<int64_t>(directory_begin, zip::kIn64)));
  Add<uint16_t>(&record, 0);  // comment
  return record;
}

}  // namespace

absl::StatusOr<ZipWriter> ZipWriter::Create(FileSystem& fs, const std::string& path) {
  ZipWriter writer;
  ASSIGN_OR_RETURN(writer.file_, fs.Create(path));
  return writer;
}

absl::Status ZipWriter::Put(const std::string& bytes) {
  RETURN_IF_ERROR(file_->WriteAt(cursor_, bytes.data(), static_cast<int64_t>(bytes.size())));
  cursor_ += static_cast<int64_t>(bytes.size());
  return absl::OkStatus();
}

absl::Status ZipWriter::BeginEntry(absl::string_view name, int64_t bytes) {
  CHECK(!open_ && bytes >= 0) << "[ZipWriter] the entry before is still open";
  CHECK(name.size() < 65536 && std::all_of(name.begin(), name.end(), absl::ascii_isprint)) << "[ZipWriter] " << name;
  entries_.push_back({std::string(name), bytes, cursor_, static_cast<uint32_t>(crc32(0, nullptr, 0))});
  missing_ = bytes;
  open_ = true;
  return Put(LocalHeader(entries_.back().name, bytes));
}

absl::Status ZipWriter::Append(const void* data, int64_t bytes) {
  CHECK(open_ && bytes >= 0 && bytes <= missing_) << "[ZipWriter] " << bytes << " bytes where " << missing_ << " miss";
  RETURN_IF_ERROR(file_->WriteAt(cursor_, data, bytes));
  uint32_t& crc = entries_.back().crc32;
  crc = static_cast<uint32_t>(crc32_z(crc, static_cast<const Bytef*>(data), static_cast<size_t>(bytes)));
  cursor_ += bytes;
  missing_ -= bytes;
  return absl::OkStatus();
}

absl::Status ZipWriter::EndEntry() {
  CHECK(open_ && missing_ == 0) << "[ZipWriter] " << missing_ << " bytes were never appended";
  open_ = false;
  const Written& entry = entries_.back();
  return file_->WriteAt(entry.header_begin + kCrcInLocalHeader, &entry.crc32, sizeof(entry.crc32));
}

absl::Status ZipWriter::Finish() {
  CHECK(!open_) << "[ZipWriter] an entry is still open";
  const int64_t directory_begin = cursor_;
  for (const Written& entry : entries_) {
    RETURN_IF_ERROR(Put(CentralHeader(entry.name, entry.bytes, entry.header_begin, entry.crc32)));
  }
  RETURN_IF_ERROR(Put(EndRecords(static_cast<int64_t>(entries_.size()), directory_begin, cursor_ - directory_begin)));
  RETURN_IF_ERROR(file_->Sync());
  return file_->Close();
}

}  // namespace shardit
