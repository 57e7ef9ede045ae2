#include "data/hdf5_util.h"

#include "absl/strings/escaping.h"

namespace shardit {
namespace {

std::mutex& LibraryMutex() {
  static std::mutex mutex;
  return mutex;
}

herr_t KeepFirst(unsigned depth, const H5E_error2_t* error, void* text) {
  if (depth == 0 && error->desc != nullptr) *static_cast<std::string*>(text) = error->desc;
  return 0;
}

}  // namespace

Hdf5Lock::Hdf5Lock() : lock_(LibraryMutex()) {
  H5PLset_loading_state(0);
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
}

std::string Hdf5ErrorText() {
  std::string text;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, KeepFirst, &text);
  return text.empty() ? "no detail from HDF5" : EscapeForMessage(text);
}

std::string EscapeForMessage(const std::string& text) { return absl::Utf8SafeCHexEscape(text.substr(0, 256)); }

Hdf5Handle MakeHalfType() {
  Hdf5Handle type(H5Tcopy(H5T_IEEE_F32LE), H5Tclose);
  // Fields first, size after: a size below the old fields' end would be refused.
  H5Tset_fields(type.get(), 15, 10, 5, 0, 10);
  H5Tset_size(type.get(), 2);
  H5Tset_ebias(type.get(), 15);
  return type;
}

}  // namespace shardit
