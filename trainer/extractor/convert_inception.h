// From pytorch-fid's Inception weights (a .pth of torch.save) to an extractor file.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace shardit {

struct ConvertedInception {
  int64_t tensors = 0;
  int64_t parameters = 0;  // elements
  std::string source_sha256;
  std::string sha256;   // of the file written
  bool is_fid = false;  // the source is the published file
};

// Reads every tensor of Inception-v3's FID variant from `pth`, at the top or in one dictionary of it ("state_dict"),
// and writes the extractor file `out`. The head's bias and the batch norms' counters are left out: nothing reads them.
// A tensor that is missing, has another shape or belongs to another network (torchvision's weights have auxiliary heads
// and 1000 classes) is an error that names it; nothing is written then.
absl::StatusOr<ConvertedInception> ConvertInception(const std::string& pth, const std::string& out);

}  // namespace shardit
