#include "data/latent_file_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <optional>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/base/math.h"
#include "core/base/status_macros.h"
#include "data/hdf5_util.h"

namespace shardit {
namespace {

bool WriteScalar(hid_t file, const char* name, hid_t type, const void* value) {
  const Hdf5Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  const Hdf5Handle attribute(H5Acreate2(file, name, type, space.get(), H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
  return attribute.valid() && H5Awrite(attribute.get(), type, value) >= 0;
}

Hdf5Handle CreateArray(hid_t file, const char* name, hid_t type, int rank, const hsize_t* dims) {
  const Hdf5Handle space(H5Screate_simple(rank, dims, nullptr), H5Sclose);
  const Hdf5Handle creation(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  H5Pset_layout(creation.get(), H5D_CONTIGUOUS);
  H5Pset_alloc_time(creation.get(), H5D_ALLOC_TIME_EARLY);
  H5Pset_fill_time(creation.get(), H5D_FILL_TIME_NEVER);
  return Hdf5Handle(H5Dcreate2(file, name, type, space.get(), H5P_DEFAULT, creation.get(), H5P_DEFAULT), H5Dclose);
}

// Writes rows [first, first + count) of an array whose other dims are `dims[1..rank)`.
bool WriteRows(hid_t dataset, hid_t memory_type, int rank, const hsize_t* dims, int64_t first, int64_t count,
               const void* values) {
  hsize_t start[4] = {static_cast<hsize_t>(first)}, length[4];
  for (int i = 0; i < rank; ++i) length[i] = i == 0 ? static_cast<hsize_t>(count) : dims[i];
  const Hdf5Handle memory(H5Screate_simple(rank, length, nullptr), H5Sclose);
  const Hdf5Handle space(H5Dget_space(dataset), H5Sclose);
  return H5Sselect_hyperslab(space.get(), H5S_SELECT_SET, start, nullptr, length, nullptr) >= 0 &&
         H5Dwrite(dataset, memory_type, memory.get(), space.get(), H5P_DEFAULT, values) >= 0;
}

absl::Status SyncPath(const std::string& path, int flags) {
  const int fd = open(path.c_str(), flags | O_CLOEXEC);
  const bool synced = fd >= 0 && fsync(fd) == 0;
  const int error = errno;
  if (fd >= 0) close(fd);
  if (synced) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat(EscapeForMessage(path), ": cannot be synced (", std::strerror(error), "); check the disk"));
}

}  // namespace

struct LatentFileWriter::Hdf5Side {
  Hdf5Handle file, samples, labels;
  hsize_t dims[4];
};

LatentFileWriter::LatentFileWriter(const LatentFileInfo& info) : info_(info) {}

LatentFileWriter::~LatentFileWriter() {
  {
    const Hdf5Lock lock;
    hdf5_.reset();
  }
  if (!temporary_.empty()) unlink(temporary_.c_str());
}

absl::Status LatentFileWriter::WriteError() const {
  const int error = errno;
  return absl::ResourceExhaustedError(absl::StrCat(EscapeForMessage(temporary_), ": cannot be written (",
                                                   Hdf5ErrorText(), "; ", std::strerror(error),
                                                   "); free space on the disk"));
}

absl::StatusOr<std::unique_ptr<LatentFileWriter>> LatentFileWriter::Create(const LatentFileInfo& info) {
  const LatentShape& shape = info.shape;
  std::optional<int64_t> bytes = info.kind == LatentKind::kMoments ? 8 : 4;
  for (const int64_t dim : {info.count, shape.channels, shape.height, shape.width}) {
    bytes = bytes.has_value() && dim > 0 ? CheckedMul(*bytes, dim) : std::nullopt;
  }
  if (!bytes.has_value() || info.classes < 0 || info.classes > kMaxClasses) {
    return absl::InvalidArgumentError(absl::StrCat(
        EscapeForMessage(info.path), ": cannot hold [", info.count, ", ", shape.channels, ", ", shape.height, ", ",
        shape.width, "] with ", info.classes, " classes; dims are at least 1, classes in [0, ", kMaxClasses, "]"));
  }
  std::unique_ptr<LatentFileWriter> writer(new LatentFileWriter(info));
  absl::Status status;
  {
    const Hdf5Lock lock;
    status = writer->OpenTemporary();
    if (status.ok()) status = writer->WriteAttributes();
    if (status.ok()) status = writer->CreateArrays();
  }
  if (!status.ok()) return status;
  return writer;
}

absl::Status LatentFileWriter::OpenTemporary() {
  const Hdf5Handle access_list(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  H5Pset_fapl_sec2(access_list.get());
  H5Pset_file_locking(access_list.get(), true, true);
  hdf5_ = std::make_unique<Hdf5Side>();
  // Exclusive creation never follows a link that someone left under the temporary name.
  for (int attempt = 0; attempt < 100 && !hdf5_->file.valid(); ++attempt) {
    const std::string name = absl::StrCat(info_.path, ".tmp-", getpid(), "-", attempt);
    if (access(name.c_str(), F_OK) == 0) continue;
    errno = 0;
    hdf5_->file = Hdf5Handle(H5Fcreate(name.c_str(), H5F_ACC_EXCL, H5P_DEFAULT, access_list.get()), H5Fclose);
    if (hdf5_->file.valid()) temporary_ = name;
    if (errno != EEXIST) break;
  }
  if (hdf5_->file.valid()) return absl::OkStatus();
  return absl::PermissionDeniedError(absl::StrCat(EscapeForMessage(info_.path),
                                                  ": a file cannot be created beside it (", Hdf5ErrorText(),
                                                  "); name a folder that exists and is writable"));
}

absl::Status LatentFileWriter::WriteAttributes() {
  const hid_t file = hdf5_->file.get();
  bool written = true;
  if (info_.scale != 1.0f) written = written && WriteScalar(file, "scale", H5T_NATIVE_FLOAT, &info_.scale);
  if (info_.classes > 0) written = written && WriteScalar(file, "classes", H5T_NATIVE_INT64, &info_.classes);
  if (info_.flipped) {
    const int32_t one = 1;
    written = written && WriteScalar(file, "flipped", H5T_NATIVE_INT32, &one);
  }
  if (!info_.source.empty()) {
    const Hdf5Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
    H5Tset_size(type.get(), info_.source.size());
    H5Tset_strpad(type.get(), H5T_STR_NULLPAD);
    H5Tset_cset(type.get(), H5T_CSET_UTF8);
    written = written && WriteScalar(file, "source", type.get(), info_.source.data());
  }
  return written ? absl::OkStatus() : WriteError();
}

absl::Status LatentFileWriter::CreateArrays() {
  const bool moments = info_.kind == LatentKind::kMoments;
  const int64_t dims[4] = {info_.count, info_.shape.channels * (moments ? 2 : 1), info_.shape.height,
                           info_.shape.width};
  for (int i = 0; i < 4; ++i) hdf5_->dims[i] = static_cast<hsize_t>(dims[i]);
  const Hdf5Handle half = MakeHalfType();
  const hid_t type = info_.type == LatentType::kFloat16 ? half.get() : H5T_IEEE_F32LE;
  const hid_t file = hdf5_->file.get();
  hdf5_->samples = CreateArray(file, moments ? "moments" : "latents", type, 4, hdf5_->dims);
  hdf5_->labels = CreateArray(file, "labels", H5T_STD_I32LE, 1, hdf5_->dims);
  return hdf5_->samples.valid() && hdf5_->labels.valid() ? absl::OkStatus() : WriteError();
}

absl::Status LatentFileWriter::Append(const float* values, const int32_t* labels, int64_t count) {
  CHECK(hdf5_ != nullptr) << "[LatentFileWriter::Append] after Commit";
  if (count > info_.count - written_) {
    return absl::InvalidArgumentError(absl::StrCat(EscapeForMessage(info_.path), ": ", written_ + count,
                                                   " samples given, but ", info_.count, " announced"));
  }
  const int64_t limit = info_.classes > 0 ? info_.classes : kMaxClasses;
  for (int64_t i = 0; i < count; ++i) {
    if (labels[i] >= 0 && labels[i] < limit) continue;
    return absl::InvalidArgumentError(absl::StrCat(EscapeForMessage(info_.path), ": label of sample ", written_ + i,
                                                   ": expected a class in [0, ", limit, "), got ", labels[i],
                                                   "; correct the labels or the number of classes"));
  }
  if (count == 0) return absl::OkStatus();
  const Hdf5Lock lock;
  if (!WriteRows(hdf5_->samples.get(), H5T_NATIVE_FLOAT, 4, hdf5_->dims, written_, count, values) ||
      !WriteRows(hdf5_->labels.get(), H5T_NATIVE_INT32, 1, hdf5_->dims, written_, count, labels)) {
    return WriteError();
  }
  written_ += count;
  return absl::OkStatus();
}

absl::Status LatentFileWriter::Commit() {
  CHECK(hdf5_ != nullptr) << "[LatentFileWriter::Commit] called twice";
  if (written_ != info_.count) {
    return absl::InvalidArgumentError(
        absl::StrCat(EscapeForMessage(info_.path), ": ", written_, " samples given, but ", info_.count, " announced"));
  }
  {
    const Hdf5Lock lock;
    const bool closed = hdf5_->samples.Reset() >= 0 && hdf5_->labels.Reset() >= 0 && hdf5_->file.Reset() >= 0;
    hdf5_.reset();
    if (!closed) return WriteError();
  }
  RETURN_IF_ERROR(SyncPath(temporary_, O_RDWR));
  if (std::rename(temporary_.c_str(), info_.path.c_str()) != 0) {
    return absl::PermissionDeniedError(
        absl::StrCat(EscapeForMessage(info_.path), ": ", std::strerror(errno), "; name a file that may be replaced"));
  }
  temporary_.clear();
  const std::string folder = std::filesystem::path(info_.path).parent_path().string();
  return SyncPath(folder.empty() ? "." : folder, O_RDONLY | O_DIRECTORY);
}

}  // namespace shardit
