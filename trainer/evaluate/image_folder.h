// A folder of images as one set: OpenImageSource of a folder.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "trainer/evaluate/image_source.h"

namespace shardit {

// The files that make up the set, in name order: all *.png, or all *.npz. InvalidArgument for a folder with none, or
// with both. Other files are passed over.
absl::StatusOr<std::vector<std::string>> ImageFolderFiles(const std::string& folder);

// Every file's header is read here; one whose images are of another size is named. In a folder with grey and RGB PNG
// files, grey ones become RGB. Labels: of npz files that all have them.
absl::StatusOr<std::unique_ptr<ImageSource>> OpenImageFolder(const std::string& folder);

}  // namespace shardit
