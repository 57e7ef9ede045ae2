// Libraries of NVIDIA's that are found and opened while the program runs, so that one binary also starts on machines
// without them. Knows no CUDA header; the same in every build.
#pragma once

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace shardit::cuda {

// Names by which to open them, the one that this program was written against first.
inline constexpr const char* kCublasLtNames[] = {"libcublasLt.so.13", "libcublasLt.so.12"};
inline constexpr const char* kNcclNames[] = {"libnccl.so.2"};

// An open library. It stays open to the end of the program, so its functions may be kept.
class SharedLibrary {
 public:
  // The first of `names` that opens. Looks in
  //   1. the folders of SHARDIT_CUDA_LIBRARIES (DIR[:DIR]), for any of the names,
  // then for each name in turn
  //   2. wherever the loader does (LD_LIBRARY_PATH, the system's folders, what the program already has open),
  //   3. in LibraryFolders().
  // A missing library is NotFound; one that is there but does not open (it lacks another library) is
  // FailedPrecondition. Both name the places looked at, the loader's words and what to set.
  static absl::StatusOr<SharedLibrary> Open(std::span<const char* const> names);

  // The file it came from.
  const std::string& path() const { return path_; }
  // Null: the library has no such symbol.
  void* Symbol(const char* name) const;

  // Stores the function `name`, which the caller says is of type Function. NotFound where the library has none.
  template <class Function>
  absl::Status Load(const char* name, Function*& function) const {
    function = reinterpret_cast<Function*>(Symbol(name));
    return function != nullptr ? absl::OkStatus() : NoSymbol(name);
  }

 private:
  SharedLibrary(void* handle, std::string path) : handle_(handle), path_(std::move(path)) {}
  absl::Status NoSymbol(const char* name) const;

  void* handle_;  // never closed
  std::string path_;
};

// Where NVIDIA's libraries lie besides the loader's own places, in this order; only folders that exist, each once:
//   ../lib beside the executable; /usr/local/cuda*/lib64, newest release first;
//   nvidia/*/lib in the packages of the Python environments $VIRTUAL_ENV and $CONDA_PREFIX, of every python3 on PATH,
//   and of the user.
std::vector<std::string> LibraryFolders();

}  // namespace shardit::cuda
