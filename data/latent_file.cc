#include "data/latent_file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/check.h"
#include "core/base/math.h"
#include "core/base/status_macros.h"
#include "data/chunk_reader.h"
#include "data/hdf5_source.h"
#include "data/hdf5_util.h"

namespace shardit {

static_assert(std::endian::native == std::endian::little, "stored samples are used without a byte swap");

namespace {

// One chunk is decompressed whole: larger ones would make memory a matter of the file's wishes.
constexpr int64_t kMaxChunkBytes = int64_t{1} << 30;

struct StoredArray {
  std::string name;
  Hdf5Handle dataset, type;
  std::vector<int64_t> dims;
  LatentLayout layout = LatentLayout::kContiguous;
  std::vector<int64_t> chunk;  // elements
  int64_t chunk_bytes = 0;
  std::vector<ChunkFilter> filters;
  int64_t shuffle_bytes = 1;

  bool deflated() const { return std::find(filters.begin(), filters.end(), ChunkFilter::kDeflate) != filters.end(); }
};

struct IntegerType {
  int64_t bytes = 0;
  bool is_signed = false, big_endian = false;
};

// The type as one of the standard integers. An integer type of HDF5 also says which of its bits count; the library
// (1.10.8) believes a file that places them outside the value, and writes there.
std::optional<IntegerType> StandardInteger(hid_t type) {
  const hid_t types[2][2][4] = {{{H5T_STD_U8LE, H5T_STD_U16LE, H5T_STD_U32LE, H5T_STD_U64LE},
                                 {H5T_STD_U8BE, H5T_STD_U16BE, H5T_STD_U32BE, H5T_STD_U64BE}},
                                {{H5T_STD_I8LE, H5T_STD_I16LE, H5T_STD_I32LE, H5T_STD_I64LE},
                                 {H5T_STD_I8BE, H5T_STD_I16BE, H5T_STD_I32BE, H5T_STD_I64BE}}};
  for (const bool is_signed : {false, true}) {
    for (const bool big_endian : {false, true}) {
      for (int i = 0; i < 4; ++i) {
        if (H5Tequal(type, types[is_signed][big_endian][i]) > 0) return IntegerType{1 << i, is_signed, big_endian};
      }
    }
  }
  return std::nullopt;
}

bool IsStandardFloat(hid_t type) {
  const Hdf5Handle half = MakeHalfType();
  for (const hid_t standard : {H5T_IEEE_F32LE, H5T_IEEE_F32BE, H5T_IEEE_F64LE, H5T_IEEE_F64BE, half.get()}) {
    if (H5Tequal(type, standard) > 0) return true;
  }
  return false;
}

// The integer at `at`; one above what int64 holds becomes the largest that it holds.
int64_t IntegerAt(const std::byte* at, const IntegerType& type) {
  uint64_t value = 0;
  for (int64_t i = 0; i < type.bytes; ++i) {
    value = value << 8 | std::to_integer<uint64_t>(at[type.big_endian ? i : type.bytes - 1 - i]);
  }
  if (!type.is_signed) return static_cast<int64_t>(std::min<uint64_t>(value, INT64_MAX));
  const auto unused_bits = static_cast<int>(64 - 8 * type.bytes);
  return static_cast<int64_t>(value << unused_bits) >> unused_bits;
}

std::string DimsText(const std::vector<int64_t>& dims) { return absl::StrCat("[", absl::StrJoin(dims, ", "), "]"); }

}  // namespace

// Validates a file step by step and fills a LatentFile. Lives for one Open, under the HDF5 lock.
class LatentFileOpener {
 public:
  LatentFileOpener(const std::string& path, int64_t classes, LatentFile* out)
      : path_(path), expected_classes_(classes), out_(out), info_(out->info_) {
    info_.path = path;
  }
  absl::Status Run();

 private:
  absl::Status OpenFile();
  absl::StatusOr<bool> HasArray(const char* name);
  absl::StatusOr<StoredArray> OpenArray(const char* name);
  absl::Status CheckStorage(StoredArray* array);
  absl::Status CheckFilters(hid_t creation, StoredArray* array);
  absl::Status CheckChunks(hid_t creation, StoredArray* array);
  absl::Status ReadDims(StoredArray* array);
  absl::Status CheckBytes(const StoredArray& array, int64_t value_bytes);
  absl::StatusOr<ChunkedArray> FindChunks(const StoredArray& array, int64_t value_bytes);
  absl::Status ReadAttributes();
  absl::StatusOr<std::optional<double>> NumberAttribute(const char* name);
  absl::Status SourceAttribute();
  absl::Status OpenSamples();
  absl::Status CheckSampleType(const StoredArray& array);
  absl::Status CheckSampleDims(const StoredArray& array);
  absl::Status PrepareReading(const StoredArray& array);
  absl::Status ReadLabels();
  absl::Status ReadIntegers(const StoredArray& array, const IntegerType& type);
  absl::Status CheckLabels(const int64_t* labels, int64_t first, int64_t count, int64_t limit);

  absl::Status Bad(const std::string& where, const std::string& expected, const std::string& got,
                   const std::string& fix) const {
    return absl::InvalidArgumentError(
        absl::StrCat(EscapeForMessage(path_), ": ", where, ": expected ", expected, ", got ", got, "; ", fix));
  }
  absl::Status Broken(const std::string& where) const {
    return absl::DataLossError(absl::StrCat(EscapeForMessage(path_), ": ", where, ": cannot be read (", Hdf5ErrorText(),
                                            "); the file is truncated, damaged or not HDF5: write or copy it again"));
  }

  const std::string path_;
  const int64_t expected_classes_;
  LatentFile* const out_;
  LatentFileInfo& info_;
  std::optional<Hdf5Source> source_;
  Hdf5Handle file_;
};

absl::Status LatentFileOpener::Run() {
  RETURN_IF_ERROR(OpenFile());
  RETURN_IF_ERROR(ReadAttributes());
  RETURN_IF_ERROR(OpenSamples());
  return ReadLabels();
}

absl::Status LatentFileOpener::OpenFile() {
  // O_NONBLOCK: opening a FIFO must not wait for its writer. It has no effect on regular files.
  out_->fd_ = open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  struct stat status;
  if (out_->fd_ < 0 || fstat(out_->fd_, &status) != 0) {
    const std::string text = absl::StrCat(EscapeForMessage(path_), ": ", std::strerror(errno));
    if (errno == ENOENT) return absl::NotFoundError(absl::StrCat(text, "; check the path of the data file"));
    if (errno != EMFILE && errno != ENFILE) {
      return absl::PermissionDeniedError(absl::StrCat(text, "; make the file readable"));
    }
    return absl::ResourceExhaustedError(absl::StrCat(text, "; raise the limit on open files (ulimit -n)"));
  }
  // A pipe or device would block or never end.
  if (!S_ISREG(status.st_mode)) {
    return Bad("path", "an HDF5 file", S_ISDIR(status.st_mode) ? "a directory" : "a special file",
               "name a file, or files by a pattern such as dir/*.h5");
  }
  info_.file_bytes = status.st_size;
  source_.emplace(out_->fd_, info_.file_bytes);
  file_ = source_->Open(path_.c_str());
  return file_.valid() ? absl::OkStatus() : Broken("file");
}

absl::StatusOr<bool> LatentFileOpener::HasArray(const char* name) {
  const htri_t exists = H5Lexists(file_.get(), name, H5P_DEFAULT);
  if (exists < 0) return Broken("root group");
  return exists > 0;
}

absl::StatusOr<StoredArray> LatentFileOpener::OpenArray(const char* name) {
  H5L_info_t link;
  if (H5Lget_info(file_.get(), name, &link, H5P_DEFAULT) < 0) return Broken(name);
  if (link.type != H5L_TYPE_HARD) {
    return Bad(name, "an array stored in this file", link.type == H5L_TYPE_SOFT ? "a soft link" : "an external link",
               "links are refused: copy the array into the file");
  }
  StoredArray array;
  array.name = name;
  array.dataset = Hdf5Handle(H5Dopen2(file_.get(), name, H5P_DEFAULT), H5Dclose);
  if (!array.dataset.valid()) return Broken(name);
  // Before anything that makes the library look at the data: asking a virtual data set for its extent opens its
  // sources.
  RETURN_IF_ERROR(CheckStorage(&array));
  array.type = Hdf5Handle(H5Dget_type(array.dataset.get()), H5Tclose);
  if (!array.type.valid()) return Broken(name);
  RETURN_IF_ERROR(ReadDims(&array));
  return array;
}

absl::Status LatentFileOpener::CheckStorage(StoredArray* array) {
  Hdf5Handle creation(H5Dget_create_plist(array->dataset.get()), H5Pclose);
  if (!creation.valid()) return Broken(array->name);
  if (H5Pget_external_count(creation.get()) != 0) {
    return Bad(array->name, "data stored in this file", "external storage", "copy the array into the file");
  }
  switch (H5Pget_layout(creation.get())) {
    case H5D_CONTIGUOUS:
      array->layout = LatentLayout::kContiguous;
      break;
    case H5D_COMPACT:
      array->layout = LatentLayout::kCompact;
      break;
    case H5D_CHUNKED:
      array->layout = LatentLayout::kChunked;
      RETURN_IF_ERROR(CheckChunks(creation.get(), array));
      break;
    case H5D_VIRTUAL:
      return Bad(array->name, "data stored in this file", "a virtual layout", "copy the array into the file");
    default:
      return Broken(array->name);
  }
  return CheckFilters(creation.get(), array);
}

absl::Status LatentFileOpener::CheckFilters(hid_t creation, StoredArray* array) {
  const int filters = H5Pget_nfilters(creation);
  if (filters < 0) return Broken(array->name);
  for (int i = 0; i < filters; ++i) {
    unsigned flags = 0, config = 0, value = 0;
    size_t values = 1;
    const H5Z_filter_t filter =
        H5Pget_filter2(creation, static_cast<unsigned>(i), &flags, &values, &value, 0, nullptr, &config);
    if (filter < 0) return Broken(array->name);
    if (filter != H5Z_FILTER_SHUFFLE && filter != H5Z_FILTER_DEFLATE && filter != H5Z_FILTER_FLETCHER32) {
      return Bad(array->name, "filters shuffle, deflate (gzip) or fletcher32", absl::StrCat("filter number ", filter),
                 "write it without compression or with gzip");
    }
    const ChunkFilter kind = filter == H5Z_FILTER_SHUFFLE   ? ChunkFilter::kShuffle
                             : filter == H5Z_FILTER_DEFLATE ? ChunkFilter::kDeflate
                                                            : ChunkFilter::kFletcher32;
    const char* const name = filter == H5Z_FILTER_SHUFFLE   ? "shuffle"
                             : filter == H5Z_FILTER_DEFLATE ? "deflate"
                                                            : "fletcher32";
    if (std::find(array->filters.begin(), array->filters.end(), kind) != array->filters.end()) {
      return Bad(array->name, absl::StrCat(name, " at most once"), absl::StrCat(name, " twice"),
                 "write it again with one gzip filter");
    }
    array->filters.push_back(kind);
    if (kind != ChunkFilter::kShuffle) continue;
    array->shuffle_bytes = value;
    if (values == 0 || value == 0) return Bad(array->name, "shuffled values of at least 1 byte", "0", "write it again");
  }
  return absl::OkStatus();
}

absl::Status LatentFileOpener::CheckChunks(hid_t creation, StoredArray* array) {
  hsize_t chunk[H5S_MAX_RANK];
  const int rank = H5Pget_chunk(creation, H5S_MAX_RANK, chunk);
  Hdf5Handle type(H5Dget_type(array->dataset.get()), H5Tclose);
  unsigned options = 0;
  if (rank <= 0 || !type.valid() || H5Pget_chunk_opts(creation, &options) < 0) return Broken(array->name);
  if ((options & H5D_CHUNK_DONT_FILTER_PARTIAL_CHUNKS) != 0) {
    return Bad(array->name, "filters on every chunk", "partial chunks without", "write it contiguous");
  }
  std::optional<int64_t> bytes = static_cast<int64_t>(H5Tget_size(type.get()));
  for (int i = 0; i < rank && bytes.has_value(); ++i) {
    array->chunk.push_back(static_cast<int64_t>(chunk[i]));
    bytes = CheckedMul(*bytes, array->chunk.back());
  }
  if (!bytes.has_value() || *bytes <= 0 || *bytes > kMaxChunkBytes) {
    return Bad(array->name, "chunks of at most 1 GiB", bytes ? absl::StrCat(*bytes, " bytes") : "an overflow",
               "write it contiguous or in smaller chunks");
  }
  array->chunk_bytes = *bytes;
  return absl::OkStatus();
}

absl::Status LatentFileOpener::ReadDims(StoredArray* array) {
  Hdf5Handle space(H5Dget_space(array->dataset.get()), H5Sclose);
  if (!space.valid()) return Broken(array->name);
  hsize_t dims[H5S_MAX_RANK];
  const int rank = H5Sget_simple_extent_dims(space.get(), dims, nullptr);
  if (rank < 0) return Broken(array->name);
  for (int i = 0; i < rank; ++i) {
    if (dims[i] == 0 || dims[i] > static_cast<hsize_t>(INT64_MAX)) {
      return Bad(array->name, "dims of at least 1", absl::StrCat("dim ", i, " of ", dims[i]),
                 "write samples into the file");
    }
    array->dims.push_back(static_cast<int64_t>(dims[i]));
  }
  return absl::OkStatus();
}

// The one gate before memory is taken: what the dims promise must be in the file.
absl::Status LatentFileOpener::CheckBytes(const StoredArray& array, int64_t value_bytes) {
  std::optional<int64_t> bytes = value_bytes;
  for (const int64_t dim : array.dims) bytes = bytes.has_value() ? CheckedMul(*bytes, dim) : bytes;
  const hsize_t stored = H5Dget_storage_size(array.dataset.get());
  const auto limit = static_cast<hsize_t>(info_.file_bytes);
  const hsize_t most = stored <= limit ? stored * (array.deflated() ? kMaxDeflateRatio : 1) : 0;
  if (!bytes.has_value() || static_cast<hsize_t>(*bytes) > most) {
    return absl::DataLossError(absl::StrCat(
        EscapeForMessage(path_), ": ", array.name, ": dims ", DimsText(array.dims), " need ",
        bytes ? absl::StrCat(*bytes, " bytes") : "more bytes than can be counted", ", but ", stored,
        " are stored in a file of ", info_.file_bytes, "; the file is incomplete or damaged: write or copy it again"));
  }
  if (array.chunk_bytes > info_.file_bytes * (array.deflated() ? kMaxDeflateRatio : 1)) {
    return Bad(array.name, "chunks that fit the file", absl::StrCat("chunks of ", array.chunk_bytes, " bytes"),
               "write it contiguous or in smaller chunks");
  }
  if (array.layout != LatentLayout::kContiguous) return absl::OkStatus();
  const haddr_t offset = H5Dget_offset(array.dataset.get());
  if (offset == HADDR_UNDEF || offset > limit || limit - offset < static_cast<hsize_t>(*bytes)) {
    return absl::DataLossError(absl::StrCat(EscapeForMessage(path_), ": ", array.name, ": its ", *bytes,
                                            " bytes reach past the end of the file (", info_.file_bytes,
                                            " bytes); the file is truncated: write or copy it again"));
  }
  return absl::OkStatus();
}

// Where every chunk lies. Chunks that nobody wrote are missing, so there are no more of them than bytes of the file.
absl::StatusOr<ChunkedArray> LatentFileOpener::FindChunks(const StoredArray& array, int64_t value_bytes) {
  ChunkedArray found{.path = path_,
                     .name = array.name,
                     .value_bytes = value_bytes,
                     .filters = array.filters,
                     .shuffle_bytes = array.shuffle_bytes,
                     .places = {}};
  CHECK(array.dims.size() <= found.dims.size());
  if (array.chunk.size() != array.dims.size()) return Broken(array.name);
  std::copy(array.dims.begin(), array.dims.end(), found.dims.begin());
  std::copy(array.chunk.begin(), array.chunk.end(), found.chunk.begin());
  std::array<int64_t, 4> at = {};  // the chunk's place in the grid
  const std::array<int64_t, 4> grid = found.grid();
  while (at[0] < grid[0]) {
    hsize_t begin[4];
    for (size_t i = 0; i < 4; ++i) begin[i] = static_cast<hsize_t>(at[i] * found.chunk[i]);
    const std::optional<ChunkPlace> place = source_->FindChunk(array.dataset.get(), begin);
    if (!place.has_value() || !found.Plausible(place->bytes)) {
      return absl::DataLossError(
          absl::StrCat(found.where(), ": chunk ", found.places.size(), " of ", found.chunk_bytes(), " bytes ",
                       place ? absl::StrCat("is stored in ", place->bytes) : "is not stored, or without its filters",
                       "; the file is incomplete or damaged: write or copy it again"));
    }
    found.places.push_back(*place);
    ++at[3];
    for (size_t i = 3; i > 0 && at[i] == grid[i]; --i) at[i] = 0, ++at[i - 1];
  }
  return found;
}

absl::StatusOr<std::optional<double>> LatentFileOpener::NumberAttribute(const char* name) {
  const htri_t exists = H5Aexists(file_.get(), name);
  if (exists < 0) return Broken(name);
  if (exists == 0) return std::nullopt;
  Hdf5Handle attribute(H5Aopen(file_.get(), name, H5P_DEFAULT), H5Aclose);
  Hdf5Handle type(attribute.valid() ? H5Aget_type(attribute.get()) : -1, H5Tclose);
  Hdf5Handle space(attribute.valid() ? H5Aget_space(attribute.get()) : -1, H5Sclose);
  if (!type.valid() || !space.valid()) return Broken(name);
  // How h5py stores True and False.
  Hdf5Handle boolean(H5Tget_class(type.get()) == H5T_ENUM ? H5Tget_super(type.get()) : -1, H5Tclose);
  const std::optional<IntegerType> integer = StandardInteger(boolean.valid() ? boolean.get() : type.get());
  const bool number = boolean.valid() ? integer && integer->bytes == 1 : integer || IsStandardFloat(type.get());
  if (!number || H5Sget_simple_extent_npoints(space.get()) != 1) {
    return Bad(absl::StrCat("attribute ", name), "one number", "another type or several values",
               "write it as a plain integer or float");
  }
  if (boolean.valid()) {
    int8_t value = 0;
    if (H5Aread(attribute.get(), type.get(), &value) < 0) return Broken(name);
    return static_cast<double>(value);
  }
  double value = 0;
  if (H5Aread(attribute.get(), H5T_NATIVE_DOUBLE, &value) < 0) return Broken(name);
  return value;
}

absl::Status LatentFileOpener::SourceAttribute() {
  const htri_t exists = H5Aexists(file_.get(), "source");
  if (exists < 0) return Broken("source");
  if (exists == 0) return absl::OkStatus();
  Hdf5Handle attribute(H5Aopen(file_.get(), "source", H5P_DEFAULT), H5Aclose);
  Hdf5Handle type(attribute.valid() ? H5Aget_type(attribute.get()) : -1, H5Tclose);
  Hdf5Handle space(attribute.valid() ? H5Aget_space(attribute.get()) : -1, H5Sclose);
  if (!type.valid() || !space.valid()) return Broken("source");
  if (H5Tget_class(type.get()) != H5T_STRING || H5Sget_simple_extent_npoints(space.get()) != 1) {
    return Bad("attribute source", "one string", "another type or several values", "write it as a string");
  }
  // Reading one makes HDF5 1.10.8 follow heap references unchecked: a damaged file crashes it. It is only a remark.
  if (H5Tis_variable_str(type.get()) != 0) return absl::OkStatus();
  const size_t bytes = H5Tget_size(type.get());
  if (bytes == 0 || bytes > 4096) {
    return Bad("attribute source", "at most 4096 bytes", absl::StrCat(bytes), "write a shorter string");
  }
  std::string text(bytes, '\0');
  if (H5Aread(attribute.get(), type.get(), text.data()) < 0) return Broken("source");
  info_.source.assign(text.c_str(), strnlen(text.data(), bytes));
  return absl::OkStatus();
}

absl::Status LatentFileOpener::ReadAttributes() {
  ASSIGN_OR_RETURN(const std::optional<double> scale, NumberAttribute("scale"));
  if (scale.has_value()) {
    info_.scale = static_cast<float>(*scale);
    if (!std::isfinite(info_.scale) || info_.scale <= 0) {
      return Bad("attribute scale", "a finite number above 0", absl::StrCat(*scale),
                 "write the factor, such as 0.18215");
    }
  }
  ASSIGN_OR_RETURN(const std::optional<double> classes, NumberAttribute("classes"));
  if (classes.has_value()) {
    if (!(*classes >= 1 && *classes <= kMaxClasses) || *classes != std::floor(*classes)) {
      return Bad("attribute classes", absl::StrCat("an integer in [1, ", kMaxClasses, "]"), absl::StrCat(*classes),
                 "write the number of classes");
    }
    info_.classes = static_cast<int64_t>(*classes);
  }
  ASSIGN_OR_RETURN(const std::optional<double> flipped, NumberAttribute("flipped"));
  if (flipped.has_value() && *flipped != 0 && *flipped != 1) {
    return Bad("attribute flipped", "0 or 1", absl::StrCat(*flipped), "write 1 if mirrored copies are stored, else 0");
  }
  info_.flipped = flipped.value_or(0) == 1;
  return SourceAttribute();
}

absl::Status LatentFileOpener::CheckSampleType(const StoredArray& array) {
  const Hdf5Handle half = MakeHalfType();
  if (H5Tequal(array.type.get(), H5T_IEEE_F32LE) > 0) {
    info_.type = LatentType::kFloat32;
  } else if (H5Tequal(array.type.get(), half.get()) > 0) {
    info_.type = LatentType::kFloat16;
  } else {
    const H5T_class_t type_class = H5Tget_class(array.type.get());
    const std::string kind = type_class == H5T_FLOAT     ? "floating point"
                             : type_class == H5T_INTEGER ? "integer"
                                                         : "other";
    return Bad(absl::StrCat(array.name, " type"), "little-endian float32 or float16",
               absl::StrCat(kind, " values of ", H5Tget_size(array.type.get()), " bytes",
                            H5Tget_order(array.type.get()) == H5T_ORDER_BE ? ", big-endian" : ""),
               "write it with astype('<f4')");
  }
  return absl::OkStatus();
}

absl::Status LatentFileOpener::CheckSampleDims(const StoredArray& array) {
  const bool moments = info_.kind == LatentKind::kMoments;
  const char* expected = moments ? "[N, 2C, H, W]" : "[N, C, H, W]";
  if (array.dims.size() != 4 || (moments && array.dims[1] % 2 != 0)) {
    return Bad(absl::StrCat(array.name, " shape"), expected, DimsText(array.dims), "reshape it when writing");
  }
  return CheckBytes(array, info_.type == LatentType::kFloat16 ? 2 : 4);
}

absl::Status LatentFileOpener::OpenSamples() {
  ASSIGN_OR_RETURN(const bool latents, HasArray("latents"));
  ASSIGN_OR_RETURN(const bool moments, HasArray("moments"));
  if (latents == moments) {
    return Bad("root group", "exactly one of the arrays latents and moments", latents ? "both" : "neither",
               "write the samples under one of these names");
  }
  info_.kind = moments ? LatentKind::kMoments : LatentKind::kLatents;
  ASSIGN_OR_RETURN(StoredArray array, OpenArray(moments ? "moments" : "latents"));
  RETURN_IF_ERROR(CheckSampleType(array));
  RETURN_IF_ERROR(CheckSampleDims(array));
  info_.count = array.dims[0];
  info_.shape = {array.dims[1] / (moments ? 2 : 1), array.dims[2], array.dims[3]};
  info_.layout = array.layout;
  return PrepareReading(array);
}

absl::Status LatentFileOpener::PrepareReading(const StoredArray& array) {
  switch (array.layout) {
    case LatentLayout::kContiguous:
      out_->offset_ = static_cast<int64_t>(H5Dget_offset(array.dataset.get()));
      posix_fadvise(out_->fd_, out_->offset_, 0, POSIX_FADV_RANDOM);
      return absl::OkStatus();
    case LatentLayout::kChunked: {
      ASSIGN_OR_RETURN(ChunkedArray chunks, FindChunks(array, info_.type == LatentType::kFloat16 ? 2 : 4));
      out_->chunks_ = std::make_unique<ChunkReader>(std::move(chunks));
      return absl::OkStatus();
    }
    case LatentLayout::kCompact:
      break;
  }
  ASSIGN_OR_RETURN(out_->memory_, AlignedBuffer<std::byte>::Make(info_.count * info_.sample_bytes(), array.name));
  if (H5Dread(array.dataset.get(), array.type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, out_->memory_.data()) < 0) {
    return Broken(array.name);
  }
  return absl::OkStatus();
}

absl::Status LatentFileOpener::CheckLabels(const int64_t* labels, int64_t first, int64_t count, int64_t limit) {
  for (int64_t i = 0; i < count; ++i) {
    if (labels[i] >= 0 && labels[i] < limit) continue;
    return Bad(absl::StrCat("labels[", first + i, "]"), absl::StrCat("a class in [0, ", limit, ")"),
               absl::StrCat(labels[i]), "correct the labels, or the number of classes of the file or model");
  }
  return absl::OkStatus();
}

absl::Status LatentFileOpener::ReadLabels() {
  ASSIGN_OR_RETURN(const bool present, HasArray("labels"));
  if (!present) return Bad("root group", "an array labels [N]", "none", "write one integer class a sample");
  ASSIGN_OR_RETURN(const StoredArray array, OpenArray("labels"));
  const std::optional<IntegerType> type = StandardInteger(array.type.get());
  if (!type.has_value()) {
    return Bad("labels type", "integers of 1 to 8 bytes",
               absl::StrCat("another type of ", H5Tget_size(array.type.get()), " bytes"),
               "write it with astype('int64')");
  }
  if (array.dims != std::vector<int64_t>{info_.count}) {
    return Bad("labels shape", absl::StrCat("[", info_.count, "], one a sample"), DimsText(array.dims),
               "write as many labels as samples");
  }
  RETURN_IF_ERROR(CheckBytes(array, type->bytes));
  return ReadIntegers(array, *type);
}

absl::Status LatentFileOpener::ReadIntegers(const StoredArray& array, const IntegerType& type) {
  int64_t limit = kMaxClasses;
  for (const int64_t classes : {info_.classes, expected_classes_})
    limit = classes > 0 ? std::min(limit, classes) : limit;

  const int64_t rows = array.layout == LatentLayout::kCompact ? info_.count : std::min<int64_t>(info_.count, 65536);
  std::unique_ptr<ChunkReader> chunks;
  if (array.layout == LatentLayout::kChunked) {
    ASSIGN_OR_RETURN(ChunkedArray found, FindChunks(array, type.bytes));
    chunks = std::make_unique<ChunkReader>(std::move(found));
  }
  std::vector<std::byte> raw(static_cast<size_t>(rows * type.bytes));
  std::vector<int64_t> block(static_cast<size_t>(rows));
  out_->labels_.reserve(static_cast<size_t>(info_.count));
  for (int64_t first = 0; first < info_.count; first += rows) {
    const int64_t count = std::min(rows, info_.count - first);
    if (array.layout == LatentLayout::kCompact) {
      if (H5Dread(array.dataset.get(), array.type.get(), H5S_ALL, H5S_ALL, H5P_DEFAULT, raw.data()) < 0) {
        return Broken("labels");
      }
    } else if (chunks != nullptr) {
      RETURN_IF_ERROR(chunks->Read(out_->fd_, first, count, raw.data()));
    } else {
      const int64_t offset = static_cast<int64_t>(H5Dget_offset(array.dataset.get())) + first * type.bytes;
      RETURN_IF_ERROR(ReadBytesAt(out_->fd_, offset, count * type.bytes, path_, raw.data()));
    }
    for (int64_t i = 0; i < count; ++i) block[static_cast<size_t>(i)] = IntegerAt(raw.data() + i * type.bytes, type);
    RETURN_IF_ERROR(CheckLabels(block.data(), first, count, limit));
    out_->labels_.insert(out_->labels_.end(), block.begin(), block.begin() + count);
  }
  return absl::OkStatus();
}

LatentFile::LatentFile() = default;

LatentFile::~LatentFile() {
  if (fd_ >= 0) close(fd_);
}

absl::StatusOr<std::unique_ptr<LatentFile>> LatentFile::Open(const std::string& path, int64_t classes) {
  std::unique_ptr<LatentFile> file(new LatentFile());
  absl::Status status;
  {
    const Hdf5Lock lock;
    status = LatentFileOpener(path, classes, file.get()).Run();
  }
  if (!status.ok()) return status;
  return file;
}

absl::Status LatentFile::ReadRaw(int64_t first, int64_t count, void* out) const {
  CHECK(first >= 0 && count >= 0 && first <= info_.count - count)
      << "[LatentFile::ReadRaw] [" << first << ", " << first + count << ") of " << info_.count;
  const int64_t sample_bytes = info_.sample_bytes();
  if (const std::byte* memory = InMemory(first)) {
    std::memcpy(out, memory, static_cast<size_t>(count * sample_bytes));
    return absl::OkStatus();
  }
  auto* const to = static_cast<std::byte*>(out);
  if (chunks_ != nullptr) return chunks_->Read(fd_, first, count, to);
  return ReadBytesAt(fd_, offset_ + first * sample_bytes, count * sample_bytes, info_.path, to);
}

absl::Status LatentFile::LoadIntoMemory() {
  if (memory_.data() != nullptr) return absl::OkStatus();
  const int64_t sample_bytes = info_.sample_bytes();
  ASSIGN_OR_RETURN(AlignedBuffer<std::byte> memory,
                   AlignedBuffer<std::byte>::Make(info_.count * sample_bytes, EscapeForMessage(info_.path)));
  if (chunks_ == nullptr) posix_fadvise(fd_, offset_, memory.size(), POSIX_FADV_SEQUENTIAL);
  RETURN_IF_ERROR(ReadRaw(0, info_.count, memory.data()));
  memory_ = std::move(memory);
  close(std::exchange(fd_, -1));
  chunks_.reset();
  return absl::OkStatus();
}

}  // namespace shardit
