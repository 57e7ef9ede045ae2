// PyTorch's weight files (torch.save; .pth, .pt), read without Python: both the zip archives of torch 1.6 and later and
// the older form, four pickles followed by the storages. The pickles go through an inert machine (pickle.h), of whose
// records this reader understands dictionaries, torch._utils._rebuild_tensor_v2, _rebuild_parameter and the storage
// classes; everything else is passed over and nothing is ever called.
//
// Source: pytorch, torch/serialization.py (_save, _legacy_save).
//
// Takes hostile files: memory is bounded by the file's size, sizes, offsets and strides are checked against the
// storages, and errors name file, tensor and rule. Numbers are little-endian.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "core/base/file.h"
#include "data/formats/pickle.h"
#include "data/formats/zip.h"

namespace shardit {

enum class PthType { kF64, kF32, kF16, kBF16, kI64, kI32, kI16, kI8, kU8, kBool };

int64_t ItemBytes(PthType type);
absl::string_view TypeName(PthType type);  // "float32"

// One tensor: a strided view of a storage.
struct PthTensor {
  // The key of the dictionary that holds it within the file's, such as "state_dict", "model" or "ema"; empty for a
  // tensor of the outermost dictionary.
  std::string group;
  std::string name;
  PthType type = PthType::kF32;
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;  // elements
  int64_t offset = 0;            // of the first element in the storage, elements
  size_t storage = 0;            // index

  int64_t elements() const;
};

constexpr size_t kMaxPthRank = 32;

// Not thread-safe. Move-only.
class PthReader {
 public:
  // Parses the pickles and checks every tensor against its storage. The tensors of the file's dictionary and of the
  // dictionaries in it are found; deeper ones (an optimizer's state) are not.
  static absl::StatusOr<PthReader> Open(const std::string& path);

  const std::string& path() const { return file_->path(); }
  const std::vector<PthTensor>& tensors() const { return tensors_; }  // in file order
  // Groups with tensors, in file order.
  std::vector<std::string> groups() const;
  // nullptr where there is no such tensor.
  const PthTensor* Find(absl::string_view group, absl::string_view name) const;

  // All elements, row-major, converted to float (float64 and integers are rounded).
  absl::StatusOr<std::vector<float>> ReadAsFloat(const PthTensor& tensor);
  // Compares the checksum of every storage. The older form has none: Ok.
  absl::Status Verify();

 private:
  struct Storage {
    std::string key;  // as the pickle names it
    PthType type = PthType::kF32;
    int64_t elements = 0;
    int64_t begin = 0;  // byte of the file
    ZipEntry entry;     // of an archive
  };
  friend class PthParser;

  explicit PthReader(RandomAccessFile file) : file_(std::make_shared<const RandomAccessFile>(std::move(file))) {}
  std::shared_ptr<const RandomAccessFile> file_;
  bool is_archive_ = false;
  std::vector<Storage> storages_;
  std::vector<PthTensor> tensors_;
};

}  // namespace shardit
