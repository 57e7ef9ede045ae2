#include <zlib.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <set>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "data/formats/zip.h"
#include "data/formats/zip_layout.h"

namespace shardit {
namespace {

constexpr int64_t kMaxDirectoryBytes = 64 << 20;
constexpr int64_t kMaxBytes = int64_t{1} << 60;  // keeps every sum below in range
// Deflate's best case is 258 bytes for 2 bits: no honest entry inflates by more than 1032.
constexpr int64_t kMaxInflation = 1032;

absl::Status Bad(const RandomAccessFile& file, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("zip file ", Quoted(file.path()), ": ", what));
}

struct Directory {
  int64_t begin = 0;
  int64_t bytes = 0;
  int64_t count = 0;
  int64_t end_record = 0;  // where the end-of-directory records begin: the directory must lie before
};

// Replaces the 16- and 32-bit figures by those of the zip64 record, where there is one.
absl::Status ReadZip64End(const RandomAccessFile& file, Directory* directory) {
  const int64_t locator_begin = directory->end_record - zip::kLocatorBytes;
  if (locator_begin < 0) return absl::OkStatus();
  std::array<char, zip::kLocatorBytes> locator;
  RETURN_IF_ERROR(file.ReadAt(locator_begin, locator.data(), zip::kLocatorBytes));
  if (zip::Get<uint32_t>(locator.data()) != zip::kLocatorSignature) return absl::OkStatus();
  const uint64_t begin = zip::Get<uint64_t>(locator.data() + 8);
  if (locator_begin < zip::kEnd64Bytes || begin > static_cast<uint64_t>(locator_begin - zip::kEnd64Bytes)) {
    return Bad(file, "zip64 end record lies outside the file");
  }
  std::array<char, zip::kEnd64Bytes> record;
  RETURN_IF_ERROR(file.ReadAt(static_cast<int64_t>(begin), record.data(), zip::kEnd64Bytes));
  if (zip::Get<uint32_t>(record.data()) != zip::kEnd64Signature) return Bad(file, "zip64 end record is not one");
  const uint64_t values[3] = {zip::Get<uint64_t>(record.data() + 32), zip::Get<uint64_t>(record.data() + 40),
                              zip::Get<uint64_t>(record.data() + 48)};
  if (std::max({values[0], values[1], values[2]}) > static_cast<uint64_t>(kMaxBytes)) {
    return Bad(file, "zip64 end record holds an absurd size");
  }
  *directory = {static_cast<int64_t>(values[2]), static_cast<int64_t>(values[1]), static_cast<int64_t>(values[0]),
                static_cast<int64_t>(begin)};
  return absl::OkStatus();
}

absl::StatusOr<Directory> FindDirectory(const RandomAccessFile& file) {
  // The end record is last, followed only by a comment of at most 65535 bytes.
  const int64_t tail_bytes = std::min<int64_t>(file.size(), zip::kEndBytes + 65535);
  if (tail_bytes < zip::kEndBytes) return Bad(file, "is too short to be a zip file");
  std::string tail(static_cast<size_t>(tail_bytes), '\0');
  RETURN_IF_ERROR(file.ReadAt(file.size() - tail_bytes, tail.data(), tail_bytes));
  for (int64_t at = tail_bytes - zip::kEndBytes; at >= 0; --at) {
    const char* record = tail.data() + at;
    if (zip::Get<uint32_t>(record) != zip::kEndSignature) continue;
    if (at + zip::kEndBytes + zip::Get<uint16_t>(record + 20) != tail_bytes) continue;
    Directory directory = {zip::Get<uint32_t>(record + 16), zip::Get<uint32_t>(record + 12),
                           zip::Get<uint16_t>(record + 10), file.size() - tail_bytes + at};
    RETURN_IF_ERROR(ReadZip64End(file, &directory));
    if (directory.bytes > kMaxDirectoryBytes || directory.begin > directory.end_record - directory.bytes) {
      return Bad(file, "central directory lies outside the file");
    }
    return directory;
  }
  return Bad(file, "has no end-of-central-directory record; it is truncated or not a zip file");
}

// Takes the sizes that did not fit 32 bits from the zip64 extra field, in the order the format prescribes.
bool ApplyZip64Extra(absl::string_view extra, std::array<uint64_t*, 3> sizes) {
  while (extra.size() >= 4) {
    const uint16_t id = zip::Get<uint16_t>(extra.data());
    const size_t bytes = zip::Get<uint16_t>(extra.data() + 2);
    if (bytes > extra.size() - 4) return false;
    absl::string_view field = extra.substr(4, bytes);
    extra.remove_prefix(4 + bytes);
    if (id != zip::kZip64ExtraId) continue;
    for (uint64_t* size : sizes) {
      if (*size != zip::kIn64) continue;
      if (field.size() < 8) return false;
      *size = zip::Get<uint64_t>(field.data());
      field.remove_prefix(8);
    }
    return true;
  }
  return true;
}

// Fills in where the data begins, after the entry's local header.
absl::Status LocateData(const RandomAccessFile& file, int64_t directory_begin, uint64_t header_begin, ZipEntry* entry) {
  const std::string where = absl::StrCat("entry '", absl::CHexEscape(entry->name), "': ");
  if (header_begin > static_cast<uint64_t>(directory_begin) ||
      directory_begin - static_cast<int64_t>(header_begin) < zip::kLocalBytes) {
    return Bad(file, absl::StrCat(where, "local header lies outside the file"));
  }
  std::array<char, zip::kLocalBytes> local;
  RETURN_IF_ERROR(file.ReadAt(static_cast<int64_t>(header_begin), local.data(), zip::kLocalBytes));
  if (zip::Get<uint32_t>(local.data()) != zip::kLocalSignature)
    return Bad(file, absl::StrCat(where, "no local header"));
  entry->begin = static_cast<int64_t>(header_begin) + zip::kLocalBytes + zip::Get<uint16_t>(local.data() + 26) +
                 zip::Get<uint16_t>(local.data() + 28);
  entry->header_begin = static_cast<int64_t>(header_begin);
  if (entry->stored_bytes > directory_begin - entry->begin) {
    return Bad(file, absl::StrCat(where, entry->stored_bytes, " bytes at ", entry->begin, " lie outside the file"));
  }
  return absl::OkStatus();
}

// One record of the central directory at the start of `*rest`, which moves past it.
absl::StatusOr<ZipEntry> ParseEntry(const RandomAccessFile& file, int64_t directory_begin, absl::string_view* rest) {
  if (rest->size() < zip::kCentralBytes || zip::Get<uint32_t>(rest->data()) != zip::kCentralSignature) {
    return Bad(file, "central directory is damaged");
  }
  const char* record = rest->data();
  const uint16_t flags = zip::Get<uint16_t>(record + 8), method = zip::Get<uint16_t>(record + 10);
  const size_t name_bytes = zip::Get<uint16_t>(record + 28), extra_bytes = zip::Get<uint16_t>(record + 30);
  const size_t all = zip::kCentralBytes + name_bytes + extra_bytes + zip::Get<uint16_t>(record + 32);
  if (all > rest->size()) return Bad(file, "central directory is damaged");
  uint64_t stored = zip::Get<uint32_t>(record + 20), bytes = zip::Get<uint32_t>(record + 24);
  uint64_t header_begin = zip::Get<uint32_t>(record + 42);
  ZipEntry entry;
  entry.name = std::string(rest->substr(zip::kCentralBytes, name_bytes));
  entry.crc32 = zip::Get<uint32_t>(record + 16);
  const bool fits =
      ApplyZip64Extra(rest->substr(zip::kCentralBytes + name_bytes, extra_bytes), {&bytes, &stored, &header_begin});
  rest->remove_prefix(all);

  const std::string where = absl::StrCat("entry '", absl::CHexEscape(entry.name), "': ");
  if (!fits || std::max(stored, bytes) > static_cast<uint64_t>(kMaxBytes)) {
    return Bad(file, absl::StrCat(where, "its sizes make no sense"));
  }
  if ((flags & 1) != 0 || (method != 0 && method != 8)) {
    return Bad(file, absl::StrCat(where, "is encrypted or packed by method ", method, "; expected stored or deflated"));
  }
  entry.method = method == 0 ? ZipMethod::kStored : ZipMethod::kDeflated;
  entry.stored_bytes = static_cast<int64_t>(stored);
  entry.bytes = static_cast<int64_t>(bytes);
  const bool plausible = method == 0 ? stored == bytes : entry.bytes / kMaxInflation <= entry.stored_bytes;
  if (!plausible) return Bad(file, absl::StrCat(where, bytes, " bytes cannot come from ", stored, " stored ones"));
  RETURN_IF_ERROR(LocateData(file, directory_begin, header_begin, &entry));
  return entry;
}

// Entries that share bytes would make a small file hold any amount of data.
absl::Status CheckApart(const RandomAccessFile& file, const std::vector<ZipEntry>& entries) {
  std::vector<const ZipEntry*> in_order;
  for (const ZipEntry& entry : entries) in_order.push_back(&entry);
  std::sort(in_order.begin(), in_order.end(),
            [](const ZipEntry* a, const ZipEntry* b) { return a->header_begin < b->header_begin; });
  for (size_t i = 1; i < in_order.size(); ++i) {
    const ZipEntry &before = *in_order[i - 1], &entry = *in_order[i];
    if (entry.header_begin >= before.begin + before.stored_bytes) continue;
    return Bad(file, absl::StrCat("entry '", absl::CHexEscape(entry.name), "': its bytes overlap those of '",
                                  absl::CHexEscape(before.name), "'"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<ZipEntry>> ReadZipDirectory(const RandomAccessFile& file) {
  ASSIGN_OR_RETURN(const Directory directory, FindDirectory(file));
  if (directory.count > directory.bytes / zip::kCentralBytes) {
    return Bad(file, absl::StrCat("claims ", directory.count, " entries in ", directory.bytes, " bytes"));
  }
  std::string central(static_cast<size_t>(directory.bytes), '\0');
  RETURN_IF_ERROR(file.ReadAt(directory.begin, central.data(), directory.bytes));
  absl::string_view rest = central;
  std::vector<ZipEntry> entries;
  std::set<std::string> names;
  for (int64_t i = 0; i < directory.count; ++i) {
    ASSIGN_OR_RETURN(ZipEntry entry, ParseEntry(file, directory.begin, &rest));
    if (!names.insert(entry.name).second) {
      return Bad(file, absl::StrCat("entry '", absl::CHexEscape(entry.name), "' appears twice"));
    }
    entries.push_back(std::move(entry));
  }
  RETURN_IF_ERROR(CheckApart(file, entries));
  return entries;
}

struct ZipEntryReader::Inflater {
  z_stream stream = {};
  int64_t position = 0;    // inflated bytes already handed out
  int64_t input_read = 0;  // stored bytes already read from the file
  std::array<char, 65536> input;

  Inflater() { CHECK_EQ(inflateInit2(&stream, -15), Z_OK) << "[ZipEntryReader] zlib"; }
  ~Inflater() { inflateEnd(&stream); }
};

ZipEntryReader::ZipEntryReader(std::shared_ptr<const RandomAccessFile> file, ZipEntry entry)
    : file_(std::move(file)), entry_(std::move(entry)) {}
ZipEntryReader::~ZipEntryReader() = default;
ZipEntryReader::ZipEntryReader(ZipEntryReader&&) noexcept = default;
ZipEntryReader& ZipEntryReader::operator=(ZipEntryReader&&) noexcept = default;

absl::Status ZipEntryReader::Inflate(int64_t bytes, void* out) {
  Inflater& state = *inflater_;
  char* to = static_cast<char*>(out);
  while (bytes > 0) {
    if (state.stream.avail_in == 0) {
      const int64_t piece =
          std::min<int64_t>(static_cast<int64_t>(state.input.size()), entry_.stored_bytes - state.input_read);
      RETURN_IF_ERROR(file_->ReadAt(entry_.begin + state.input_read, state.input.data(), piece));
      state.input_read += piece;
      state.stream.next_in = reinterpret_cast<Bytef*>(state.input.data());
      state.stream.avail_in = static_cast<uInt>(piece);
    }
    const uInt wanted = static_cast<uInt>(std::min<int64_t>(bytes, 1 << 30));
    state.stream.next_out = reinterpret_cast<Bytef*>(to);
    state.stream.avail_out = wanted;
    const int result = inflate(&state.stream, Z_NO_FLUSH);
    const int64_t made = wanted - state.stream.avail_out;
    to += made, bytes -= made, state.position += made;
    if (bytes > 0 && result != Z_OK) {
      return absl::DataLossError(absl::StrCat("zip file ", Quoted(path()), ": entry '", absl::CHexEscape(entry_.name),
                                              "' is damaged: inflation stops at byte ", state.position, " of ",
                                              entry_.bytes));
    }
  }
  return absl::OkStatus();
}

absl::Status ZipEntryReader::ReadAt(int64_t offset, int64_t bytes, void* out) {
  CHECK(offset >= 0 && bytes >= 0 && bytes <= entry_.bytes - offset)
      << "[ZipEntryReader] bytes " << offset << " + " << bytes << " of " << entry_.bytes;
  if (entry_.method == ZipMethod::kStored) return file_->ReadAt(entry_.begin + offset, out, bytes);
  if (inflater_ == nullptr || inflater_->position > offset) inflater_ = std::make_unique<Inflater>();
  std::vector<char> skipped(static_cast<size_t>(std::min<int64_t>(offset - inflater_->position, 1 << 16)));
  while (inflater_->position < offset) {
    const int64_t piece = std::min<int64_t>(offset - inflater_->position, static_cast<int64_t>(skipped.size()));
    RETURN_IF_ERROR(Inflate(piece, skipped.data()));
  }
  return Inflate(bytes, out);
}

absl::Status ZipEntryReader::VerifyCrc() {
  std::vector<char> buffer(1 << 20);
  uLong crc = crc32(0, nullptr, 0);
  for (int64_t done = 0; done < entry_.bytes;) {
    const int64_t piece = std::min<int64_t>(entry_.bytes - done, static_cast<int64_t>(buffer.size()));
    RETURN_IF_ERROR(ReadAt(done, piece, buffer.data()));
    crc = ::crc32(crc, reinterpret_cast<const Bytef*>(buffer.data()), static_cast<uInt>(piece));
    done += piece;
  }
  if (crc == entry_.crc32) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("zip file ", Quoted(path()), ": entry '", absl::CHexEscape(entry_.name),
                                          "' has CRC-32 ", absl::Hex(crc, absl::kZeroPad8), ", expected ",
                                          absl::Hex(entry_.crc32, absl::kZeroPad8), "; the file is damaged"));
}

}  // namespace shardit
