// Imports IDX files (the MNIST family: http://yann.lecun.com/exdb/mnist, big-endian header, one byte a pixel), plain or
// gzip, into a LatentFile. Images become one-channel "latents": pixel v maps to v / 127.5 - 1, and the image is centred
// on a side x side canvas of -1 (the odd pixel of padding goes below and to the right). The file states `classes`, and
// `source` names the images' file.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace shardit {

struct IdxImportOptions {
  std::string images_path;  // IDX of unsigned bytes, 3 dims: magic 0x00000803
  std::string labels_path;  // IDX of unsigned bytes, 1 dim: magic 0x00000801
  std::string out_path;     // replaced as a whole, or left alone on failure
  int64_t side = 32;        // canvas; images must be at most this and more than half of it on either axis
  int64_t classes = 10;     // labels must be below; at most 256
};

struct IdxImportResult {
  int64_t count = 0;
  int64_t rows = 0, columns = 0;  // of the images before padding
};

// Files are untrusted: time, memory (one image) and output are bounded by the size of the inputs. Errors name the file,
// the place, expected, got and the fix; nothing is left at out_path or beside it.
absl::StatusOr<IdxImportResult> ImportIdx(const IdxImportOptions& options);

}  // namespace shardit
