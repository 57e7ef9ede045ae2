#include "data/import_idx.h"

#include <sys/stat.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "data/hdf5_util.h"
#include "data/latent_file_writer.h"

namespace shardit {
namespace {

// Deflate cannot expand further than this, so a header that promises more than the file can hold is found before the
// output file is sized by it.
constexpr int64_t kMaxDeflateRatio = 1032;

// A plain or gzip file read front to back.
class GzipReader {
 public:
  static absl::StatusOr<GzipReader> Open(const std::string& path);

  // Exactly bytes.size() bytes, or DataLoss.
  absl::Status Read(std::span<uint8_t> bytes, const std::string& what);
  absl::Status ExpectEnd();
  int64_t most_bytes() const { return most_bytes_; }

  absl::Status Bad(const std::string& where, const std::string& expected, const std::string& got,
                   const std::string& fix) const {
    return absl::InvalidArgumentError(
        absl::StrCat(EscapeForMessage(path_), ": ", where, ": expected ", expected, ", got ", got, "; ", fix));
  }

 private:
  struct Close {
    void operator()(gzFile_s* file) const { gzclose_r(file); }
  };
  absl::Status Broken(const std::string& what) const;

  std::string path_;
  std::unique_ptr<gzFile_s, Close> file_;
  int64_t most_bytes_ = 0;
};

absl::StatusOr<GzipReader> GzipReader::Open(const std::string& path) {
  GzipReader reader;
  reader.path_ = path;
  struct stat status;
  if (stat(path.c_str(), &status) != 0) {
    return absl::NotFoundError(
        absl::StrCat(EscapeForMessage(path), ": ", std::strerror(errno), "; check the path of the IDX file"));
  }
  if (!S_ISREG(status.st_mode)) return reader.Bad("path", "an IDX file", "no regular file", "name the file itself");
  reader.file_.reset(gzopen(path.c_str(), "rbe"));
  if (reader.file_ == nullptr) {
    return absl::PermissionDeniedError(
        absl::StrCat(EscapeForMessage(path), ": ", std::strerror(errno), "; make the file readable"));
  }
  gzbuffer(reader.file_.get(), 1 << 17);
  reader.most_bytes_ = status.st_size * kMaxDeflateRatio;
  return reader;
}

absl::Status GzipReader::Broken(const std::string& what) const {
  int code = Z_OK;
  const char* text = gzerror(file_.get(), &code);
  return absl::DataLossError(absl::StrCat(EscapeForMessage(path_), ": ", what, ": ",
                                          code == Z_OK ? "the file ends before it" : EscapeForMessage(text),
                                          "; the file is truncated or damaged: fetch it again"));
}

absl::Status GzipReader::Read(std::span<uint8_t> bytes, const std::string& what) {
  // gzread takes an unsigned count and returns an int.
  constexpr size_t kBlock = 1 << 24;
  for (size_t done = 0; done < bytes.size();) {
    const auto want = static_cast<unsigned>(std::min(kBlock, bytes.size() - done));
    const int got = gzread(file_.get(), bytes.data() + done, want);
    if (got <= 0) return Broken(what);
    done += static_cast<size_t>(got);
  }
  return absl::OkStatus();
}

absl::Status GzipReader::ExpectEnd() {
  uint8_t extra;
  const int got = gzread(file_.get(), &extra, 1);
  if (got > 0) return Bad("end", "no more bytes than the header counts", "more", "fetch the file again");
  int code = Z_OK;
  gzerror(file_.get(), &code);
  // The checksum at the end of a gzip stream is verified only here.
  return got < 0 || (code != Z_OK && code != Z_STREAM_END) ? Broken("end") : absl::OkStatus();
}

// Reads the magic number (zero, zero, 8 = unsigned bytes, number of dims) and the dims.
absl::StatusOr<std::vector<int64_t>> ReadHeader(GzipReader& file, int dims) {
  const auto read_word = [&]() -> absl::StatusOr<uint32_t> {
    uint8_t at[4];
    RETURN_IF_ERROR(file.Read(at, "header"));
    return uint32_t{at[0]} << 24 | uint32_t{at[1]} << 16 | uint32_t{at[2]} << 8 | uint32_t{at[3]};
  };
  const uint32_t expected = 0x800u + static_cast<uint32_t>(dims);
  ASSIGN_OR_RETURN(const uint32_t magic, read_word());
  if (magic != expected) {
    return file.Bad("magic number", absl::StrCat("0x", absl::Hex(expected, absl::kZeroPad8)),
                    absl::StrCat("0x", absl::Hex(magic, absl::kZeroPad8)),
                    dims == 3 ? "give the images file as images" : "give the labels file as labels");
  }
  std::vector<int64_t> result;
  for (int i = 0; i < dims; ++i) {
    ASSIGN_OR_RETURN(const uint32_t extent, read_word());
    result.push_back(extent);
  }
  if (result[0] == 0) return file.Bad("header", "at least one item", "none", "fetch the file again");
  return result;
}

absl::Status CheckImageDims(const GzipReader& file, const std::vector<int64_t>& dims, int64_t side) {
  for (const int64_t extent : {dims[1], dims[2]}) {
    // The lower bound keeps the output within four times the pixels that are really there.
    if (extent <= side && 2 * extent > side) continue;
    return file.Bad("image size", absl::StrCat("rows and columns in (", side / 2, ", ", side, "]"),
                    absl::StrCat(dims[1], " x ", dims[2]), "choose a canvas side that fits the images");
  }
  if (dims[0] * dims[1] * dims[2] > file.most_bytes()) {
    return file.Bad("header", absl::StrCat("at most ", file.most_bytes(), " bytes of pixels in a file of this size"),
                    absl::StrCat(dims[0], " images"), "the file is truncated or damaged: fetch it again");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> ReadLabels(const IdxImportOptions& options, int64_t count) {
  ASSIGN_OR_RETURN(GzipReader file, GzipReader::Open(options.labels_path));
  ASSIGN_OR_RETURN(const std::vector<int64_t> dims, ReadHeader(file, 1));
  if (dims[0] != count) {
    return file.Bad("header", absl::StrCat(count, " labels, one an image"), absl::StrCat(dims[0]),
                    "give the labels that belong to the images");
  }
  if (count > file.most_bytes()) {
    return file.Bad("header", absl::StrCat("at most ", file.most_bytes(), " labels in a file of this size"),
                    absl::StrCat(count), "the file is truncated or damaged: fetch it again");
  }
  std::vector<uint8_t> bytes(static_cast<size_t>(count));
  RETURN_IF_ERROR(file.Read(bytes, "labels"));
  RETURN_IF_ERROR(file.ExpectEnd());
  const auto above = std::find_if(bytes.begin(), bytes.end(), [&](uint8_t label) { return label >= options.classes; });
  if (above != bytes.end()) {
    return file.Bad(absl::StrCat("label ", above - bytes.begin()),
                    absl::StrCat("a class in [0, ", options.classes, ")"), absl::StrCat(*above),
                    "correct the number of classes");
  }
  return std::vector<int32_t>(bytes.begin(), bytes.end());
}

// One image onto the middle of a canvas whose border is already -1.
void PlaceImage(const uint8_t* pixels, int64_t rows, int64_t columns, int64_t side, float* canvas) {
  const int64_t top = (side - rows) / 2, left = (side - columns) / 2;
  for (int64_t row = 0; row < rows; ++row) {
    float* const line = canvas + (top + row) * side + left;
    for (int64_t column = 0; column < columns; ++column) {
      line[column] = static_cast<float>(pixels[row * columns + column]) / 127.5f - 1.0f;
    }
  }
}

}  // namespace

absl::StatusOr<IdxImportResult> ImportIdx(const IdxImportOptions& options) {
  if (options.side < 1 || options.side > 4096 || options.classes < 1 || options.classes > 256) {
    return absl::InvalidArgumentError(
        absl::StrCat("import-idx: expected a side in [1, 4096] and classes in [1, 256], got ", options.side, " and ",
                     options.classes));
  }
  ASSIGN_OR_RETURN(GzipReader images, GzipReader::Open(options.images_path));
  ASSIGN_OR_RETURN(const std::vector<int64_t> dims, ReadHeader(images, 3));
  RETURN_IF_ERROR(CheckImageDims(images, dims, options.side));
  const IdxImportResult result{dims[0], dims[1], dims[2]};
  ASSIGN_OR_RETURN(const std::vector<int32_t> labels, ReadLabels(options, result.count));

  LatentFileInfo info;
  info.path = options.out_path;
  info.count = result.count;
  info.shape = {1, options.side, options.side};
  info.classes = options.classes;
  info.source = absl::StrCat("idx ", std::filesystem::path(options.images_path).filename().string());
  ASSIGN_OR_RETURN(const std::unique_ptr<LatentFileWriter> writer, LatentFileWriter::Create(info));

  constexpr int64_t kBlock = 256;  // images between writes
  const int64_t pixels = result.rows * result.columns, elements = info.shape.elements();
  std::vector<uint8_t> stored(static_cast<size_t>(pixels));
  std::vector<float> canvas(static_cast<size_t>(kBlock * elements), -1.0f);
  for (int64_t first = 0; first < result.count; first += kBlock) {
    const int64_t count = std::min(kBlock, result.count - first);
    for (int64_t i = 0; i < count; ++i) {
      RETURN_IF_ERROR(images.Read(stored, absl::StrCat("image ", first + i)));
      PlaceImage(stored.data(), result.rows, result.columns, options.side, canvas.data() + i * elements);
    }
    RETURN_IF_ERROR(writer->Append(canvas.data(), labels.data() + first, count));
  }
  RETURN_IF_ERROR(images.ExpectEnd());
  RETURN_IF_ERROR(writer->Commit());
  return result;
}

}  // namespace shardit
