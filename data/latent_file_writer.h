// Writes a LatentFile (schema in data/latent_file.h): contiguous, allocated at once, little-endian, under a temporary
// name beside the target that Commit renames, so that the target is the old file or the whole new one. A writer that is
// destroyed without Commit leaves nothing behind. HDF5 calls are made on the calling thread. Not thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "data/latent_file.h"

namespace shardit {

class LatentFileWriter {
 public:
  // What to write: count, shape, kind and type; the attributes scale (not stored when 1), classes (not stored when 0;
  // otherwise labels are checked against it), source (not stored when empty) and flipped. The layout and the sizes in
  // `info` are ignored. The target's folder must exist. Fails with InvalidArgument for sizes that make no file, or with
  // PermissionDenied when the file cannot be created.
  static absl::StatusOr<std::unique_ptr<LatentFileWriter>> Create(const LatentFileInfo& info);
  ~LatentFileWriter();
  LatentFileWriter(const LatentFileWriter&) = delete;
  LatentFileWriter& operator=(const LatentFileWriter&) = delete;

  // Appends `count` samples: `values` are count x (C or 2C) x H x W float32 (converted where the file holds float16),
  // and `labels` one class each. Fails with InvalidArgument for a label out of range or for more samples than
  // announced, ResourceExhausted when the disk is full.
  absl::Status Append(const float* values, const int32_t* labels, int64_t count);

  // Closes, syncs and renames. All announced samples must have been appended. Call once.
  absl::Status Commit();

 private:
  struct Hdf5Side;
  explicit LatentFileWriter(const LatentFileInfo& info);
  absl::Status OpenTemporary();
  absl::Status WriteAttributes();
  absl::Status CreateArrays();
  absl::Status WriteError() const;

  LatentFileInfo info_;
  std::string temporary_;  // empty once renamed
  int64_t written_ = 0;
  std::unique_ptr<Hdf5Side> hdf5_;
};

}  // namespace shardit
