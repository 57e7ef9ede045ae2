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
#include "data/hdf5_util.h"

namespace shardit {

static_assert(std::endian::native == std::endian::little, "stored samples are used without a byte swap");

struct LatentFile::Hdf5Side {
  Hdf5Handle file, dataset, type;
};

namespace {

// One chunk is decompressed whole: larger ones would make memory a matter of the file's wishes.
constexpr int64_t kMaxChunkBytes = int64_t{1} << 30;
constexpr int64_t kChunkCacheBytes = int64_t{64} << 20;
// Deflate cannot expand further than this (zlib's documentation), so stored bytes bound the size of the data.
constexpr int64_t kMaxDeflateRatio = 1032;

struct StoredArray {
  std::string name;
  Hdf5Handle dataset, type;
  std::vector<int64_t> dims;
  LatentLayout layout = LatentLayout::kContiguous;
  bool deflated = false;
  int64_t chunk_bytes = 0;
};

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
  absl::Status ReadAttributes();
  absl::StatusOr<std::optional<double>> NumberAttribute(const char* name);
  absl::Status SourceAttribute();
  absl::Status OpenSamples();
  absl::Status CheckSampleType(const StoredArray& array);
  absl::Status CheckSampleDims(const StoredArray& array);
  absl::Status PrepareReading(StoredArray array);
  absl::Status ReadLabels();
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
  Hdf5Handle file_;
};

absl::Status LatentFileOpener::Run() {
  RETURN_IF_ERROR(OpenFile());
  RETURN_IF_ERROR(ReadAttributes());
  RETURN_IF_ERROR(OpenSamples());
  return ReadLabels();
}

absl::Status LatentFileOpener::OpenFile() {
  struct stat status;
  if (stat(path_.c_str(), &status) != 0) {
    const std::string text = absl::StrCat(EscapeForMessage(path_), ": ", std::strerror(errno));
    return errno == ENOENT ? absl::NotFoundError(absl::StrCat(text, "; check the path of the data file"))
                           : absl::PermissionDeniedError(absl::StrCat(text, "; make the file readable"));
  }
  // A pipe or device would block or never end.
  if (!S_ISREG(status.st_mode)) {
    return Bad("path", "an HDF5 file", S_ISDIR(status.st_mode) ? "a directory" : "a special file",
               "name a file, or files by a pattern such as dir/*.h5");
  }
  if (access(path_.c_str(), R_OK) != 0) {
    return absl::PermissionDeniedError(absl::StrCat(EscapeForMessage(path_), ": ", std::strerror(errno)));
  }
  Hdf5Handle access_list(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  H5Pset_fapl_sec2(access_list.get());
  // Read-only network file systems refuse locks; reading needs none there.
  H5Pset_file_locking(access_list.get(), true, true);
  file_ = Hdf5Handle(H5Fopen(path_.c_str(), H5F_ACC_RDONLY, access_list.get()), H5Fclose);
  if (!file_.valid()) return Broken("file");
  // The descriptor that was validated is the one read from: a path could name another file by now.
  void* library_fd = nullptr;
  if (H5Fget_vfd_handle(file_.get(), access_list.get(), &library_fd) < 0) return Broken("file");
  out_->fd_ = fcntl(*static_cast<int*>(library_fd), F_DUPFD_CLOEXEC, 0);
  if (out_->fd_ < 0 || fstat(out_->fd_, &status) != 0) {
    return absl::ResourceExhaustedError(absl::StrCat(EscapeForMessage(path_), ": ", std::strerror(errno),
                                                     "; raise the limit on open files (ulimit -n)"));
  }
  info_.file_bytes = status.st_size;
  return absl::OkStatus();
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
    unsigned flags = 0, config = 0;
    size_t values = 0;
    const H5Z_filter_t filter =
        H5Pget_filter2(creation, static_cast<unsigned>(i), &flags, &values, nullptr, 0, nullptr, &config);
    if (filter < 0) return Broken(array->name);
    if (filter != H5Z_FILTER_SHUFFLE && filter != H5Z_FILTER_DEFLATE && filter != H5Z_FILTER_FLETCHER32) {
      return Bad(array->name, "filters shuffle, deflate (gzip) or fletcher32", absl::StrCat("filter number ", filter),
                 "write it without compression or with gzip");
    }
    if (filter == H5Z_FILTER_DEFLATE && std::exchange(array->deflated, true)) {
      return Bad(array->name, "deflate at most once", "deflate twice", "write it again with one gzip filter");
    }
  }
  return absl::OkStatus();
}

absl::Status LatentFileOpener::CheckChunks(hid_t creation, StoredArray* array) {
  hsize_t chunk[H5S_MAX_RANK];
  const int rank = H5Pget_chunk(creation, H5S_MAX_RANK, chunk);
  Hdf5Handle type(H5Dget_type(array->dataset.get()), H5Tclose);
  if (rank <= 0 || !type.valid()) return Broken(array->name);
  std::optional<int64_t> bytes = static_cast<int64_t>(H5Tget_size(type.get()));
  for (int i = 0; i < rank && bytes.has_value(); ++i) bytes = CheckedMul(*bytes, static_cast<int64_t>(chunk[i]));
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
  const hsize_t most = stored <= limit ? stored * (array.deflated ? kMaxDeflateRatio : 1) : 0;
  if (!bytes.has_value() || static_cast<hsize_t>(*bytes) > most) {
    return absl::DataLossError(absl::StrCat(
        EscapeForMessage(path_), ": ", array.name, ": dims ", DimsText(array.dims), " need ",
        bytes ? absl::StrCat(*bytes, " bytes") : "more bytes than can be counted", ", but ", stored,
        " are stored in a file of ", info_.file_bytes, "; the file is incomplete or damaged: write or copy it again"));
  }
  if (array.chunk_bytes > info_.file_bytes * (array.deflated ? kMaxDeflateRatio : 1)) {
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

absl::StatusOr<std::optional<double>> LatentFileOpener::NumberAttribute(const char* name) {
  const htri_t exists = H5Aexists(file_.get(), name);
  if (exists < 0) return Broken(name);
  if (exists == 0) return std::nullopt;
  Hdf5Handle attribute(H5Aopen(file_.get(), name, H5P_DEFAULT), H5Aclose);
  Hdf5Handle type(attribute.valid() ? H5Aget_type(attribute.get()) : -1, H5Tclose);
  Hdf5Handle space(attribute.valid() ? H5Aget_space(attribute.get()) : -1, H5Sclose);
  if (!type.valid() || !space.valid()) return Broken(name);
  const H5T_class_t type_class = H5Tget_class(type.get());
  const size_t bytes = H5Tget_size(type.get());
  const bool boolean = type_class == H5T_ENUM && bytes == 1;  // how h5py stores True and False
  const bool number = (type_class == H5T_FLOAT || type_class == H5T_INTEGER) && bytes <= 8;
  if ((!number && !boolean) || H5Sget_simple_extent_npoints(space.get()) != 1) {
    return Bad(absl::StrCat("attribute ", name), "one number", "another type or several values",
               "write it as a plain integer or float");
  }
  if (boolean) {
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
  return PrepareReading(std::move(array));
}

absl::Status LatentFileOpener::PrepareReading(StoredArray array) {
  if (array.layout == LatentLayout::kContiguous) {
    out_->offset_ = static_cast<int64_t>(H5Dget_offset(array.dataset.get()));
    posix_fadvise(out_->fd_, out_->offset_, 0, POSIX_FADV_RANDOM);
    return absl::OkStatus();
  }
  out_->hdf5_ = std::make_unique<LatentFile::Hdf5Side>();
  out_->hdf5_->type = std::move(array.type);
  if (array.layout == LatentLayout::kChunked) {
    // The library skips its cache for chunks that do not fit, and then inflates a chunk for every sample.
    Hdf5Handle access_list(H5Pcreate(H5P_DATASET_ACCESS), H5Pclose);
    const auto cache_bytes = static_cast<size_t>(std::max(kChunkCacheBytes, array.chunk_bytes));
    H5Pset_chunk_cache(access_list.get(), 12421, cache_bytes, 1.0);
    array.dataset.Reset();
    array.dataset = Hdf5Handle(H5Dopen2(file_.get(), array.name.c_str(), access_list.get()), H5Dclose);
    if (!array.dataset.valid()) return Broken(array.name);
  }
  out_->hdf5_->dataset = std::move(array.dataset);
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
  const size_t value_bytes = H5Tget_size(array.type.get());
  if (H5Tget_class(array.type.get()) != H5T_INTEGER || value_bytes > 8) {
    return Bad("labels type", "integers of 1 to 8 bytes", absl::StrCat("another type of ", value_bytes, " bytes"),
               "write it with astype('int64')");
  }
  if (array.dims != std::vector<int64_t>{info_.count}) {
    return Bad("labels shape", absl::StrCat("[", info_.count, "], one a sample"), DimsText(array.dims),
               "write as many labels as samples");
  }
  RETURN_IF_ERROR(CheckBytes(array, static_cast<int64_t>(value_bytes)));
  int64_t limit = kMaxClasses;
  for (const int64_t classes : {info_.classes, expected_classes_})
    limit = classes > 0 ? std::min(limit, classes) : limit;

  constexpr int64_t kBlock = 65536;
  std::vector<int64_t> block(static_cast<size_t>(std::min(info_.count, kBlock)));
  Hdf5Handle space(H5Dget_space(array.dataset.get()), H5Sclose);
  out_->labels_.reserve(static_cast<size_t>(info_.count));
  for (int64_t first = 0; first < info_.count; first += kBlock) {
    const int64_t count = std::min(kBlock, info_.count - first);
    const hsize_t start = static_cast<hsize_t>(first), length = static_cast<hsize_t>(count);
    Hdf5Handle memory(H5Screate_simple(1, &length, nullptr), H5Sclose);
    if (H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, &start, nullptr, &length, nullptr) < 0 ||
        H5Dread(array.dataset.get(), H5T_NATIVE_INT64, memory.get(), space.get(), H5P_DEFAULT, block.data()) < 0) {
      return Broken("labels");
    }
    RETURN_IF_ERROR(CheckLabels(block.data(), first, count, limit));
    out_->labels_.insert(out_->labels_.end(), block.begin(), block.begin() + count);
  }
  if (out_->hdf5_ != nullptr) out_->hdf5_->file = std::move(file_);
  return absl::OkStatus();
}

LatentFile::LatentFile() = default;

LatentFile::~LatentFile() {
  if (fd_ >= 0) close(fd_);
  const Hdf5Lock lock;
  hdf5_.reset();
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
  if (hdf5_ != nullptr) {
    const Hdf5Lock lock;
    const hsize_t channels = static_cast<hsize_t>(info_.shape.channels) * (info_.kind == LatentKind::kMoments ? 2 : 1);
    const hsize_t start[4] = {static_cast<hsize_t>(first), 0, 0, 0};
    const hsize_t dims[4] = {static_cast<hsize_t>(count), channels, static_cast<hsize_t>(info_.shape.height),
                             static_cast<hsize_t>(info_.shape.width)};
    const Hdf5Handle memory(H5Screate_simple(4, dims, nullptr), H5Sclose);
    const Hdf5Handle space(H5Dget_space(hdf5_->dataset.get()), H5Sclose);
    if (H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, start, nullptr, dims, nullptr) < 0 ||
        H5Dread(hdf5_->dataset.get(), hdf5_->type.get(), memory.get(), space.get(), H5P_DEFAULT, out) < 0) {
      return absl::DataLossError(absl::StrCat(EscapeForMessage(info_.path), ": samples ", first, " to ",
                                              first + count - 1, ": cannot be read (", Hdf5ErrorText(),
                                              "); write or copy the file again"));
    }
    return absl::OkStatus();
  }
  char* destination = static_cast<char*>(out);
  int64_t offset = offset_ + first * sample_bytes, left = count * sample_bytes;
  while (left > 0) {
    const ssize_t got = pread(fd_, destination, static_cast<size_t>(left), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      return absl::DataLossError(absl::StrCat(EscapeForMessage(info_.path), ": ", left, " bytes at offset ", offset,
                                              " cannot be read (", got < 0 ? std::strerror(errno) : "the file shrank",
                                              "); check the disk, or write or copy the file again"));
    }
    destination += got;
    offset += got;
    left -= got;
  }
  return absl::OkStatus();
}

absl::Status LatentFile::LoadIntoMemory() {
  if (memory_.data() != nullptr) return absl::OkStatus();
  const int64_t sample_bytes = info_.sample_bytes();
  ASSIGN_OR_RETURN(AlignedBuffer<std::byte> memory,
                   AlignedBuffer<std::byte>::Make(info_.count * sample_bytes, EscapeForMessage(info_.path)));
  if (hdf5_ == nullptr) posix_fadvise(fd_, offset_, memory.size(), POSIX_FADV_SEQUENTIAL);
  // In blocks: one HDF5 read of everything would hold the process-wide lock for as long as the disk takes.
  const int64_t block = std::max<int64_t>(1, kChunkCacheBytes / sample_bytes);
  for (int64_t first = 0; first < info_.count; first += block) {
    RETURN_IF_ERROR(ReadRaw(first, std::min(block, info_.count - first), memory.data() + first * sample_bytes));
  }
  memory_ = std::move(memory);
  close(std::exchange(fd_, -1));
  const Hdf5Lock lock;
  hdf5_.reset();
  return absl::OkStatus();
}

}  // namespace shardit
