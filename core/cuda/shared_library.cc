#include "core/cuda/shared_library.h"

#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"

namespace shardit::cuda {
namespace {

namespace fs = std::filesystem;

constexpr char kFoldersVariable[] = "SHARDIT_CUDA_LIBRARIES";

std::vector<std::string> FoldersIn(const char* variable) {
  const char* text = std::getenv(variable);
  if (text == nullptr) return {};
  return absl::StrSplit(text, ':', absl::SkipEmpty());
}

// The folders in `parent` whose names `matches` accepts, in order of their names.
std::vector<fs::path> Subfolders(const fs::path& parent, const std::function<bool(const std::string&)>& matches) {
  std::vector<fs::path> found;
  std::error_code error;  // what cannot be read is not there
  for (fs::directory_iterator entry(parent, error), end; !error && entry != end; entry.increment(error)) {
    std::error_code ignored;
    if (matches(entry->path().filename()) && entry->is_directory(ignored)) found.push_back(entry->path());
  }
  std::sort(found.begin(), found.end());
  return found;
}

// Release numbers in the order of their values: "cuda-9.2" comes before "cuda-13.0".
std::vector<int> ReleaseOf(const fs::path& folder) {
  std::vector<int> numbers;
  int digits = 0;
  for (const char c : folder.filename().string()) {
    if (c < '0' || c > '9') {
      digits = 0;
    } else if (digits++ == 0) {
      numbers.push_back(c - '0');
    } else if (digits < 9) {
      numbers.back() = 10 * numbers.back() + (c - '0');
    }
  }
  return numbers;
}

// A set that keeps the order of insertion.
class FolderList {
 public:
  void Add(const fs::path& folder) {
    std::error_code error;
    const fs::path real = fs::canonical(folder, error);
    if (error || !fs::is_directory(real, error)) return;
    if (std::find(folders_.begin(), folders_.end(), real.string()) == folders_.end()) folders_.push_back(real);
  }
  // `packages`: a folder of installed Python packages. NVIDIA's lie in nvidia/<library>/lib.
  void AddPythonPackages(const fs::path& packages) {
    for (const fs::path& package : Subfolders(packages / "nvidia", [](const std::string&) { return true; })) {
      Add(package / "lib");
    }
  }
  // `prefix`: what holds an environment's bin and lib.
  void AddPythonPrefix(const fs::path& prefix) {
    const auto is_python = [](const std::string& name) { return name.starts_with("python3"); };
    for (const char* lib : {"lib", "local/lib"}) {
      for (const fs::path& python : Subfolders(prefix / lib, is_python)) {
        AddPythonPackages(python / "site-packages");
        AddPythonPackages(python / "dist-packages");
      }
    }
  }
  std::vector<std::string> Take() { return std::move(folders_); }

 private:
  std::vector<std::string> folders_;
};

void AddToolkits(FolderList& list) {
  std::vector<fs::path> toolkits =
      Subfolders("/usr/local", [](const std::string& name) { return name.starts_with("cuda"); });
  std::stable_sort(toolkits.begin(), toolkits.end(),
                   [](const fs::path& a, const fs::path& b) { return ReleaseOf(a) > ReleaseOf(b); });
  list.Add("/usr/local/cuda/lib64");  // the machine's own choice among them
  for (const fs::path& toolkit : toolkits) list.Add(toolkit / "lib64");
}

void AddPythonEnvironments(FolderList& list) {
  for (const char* variable : {"VIRTUAL_ENV", "CONDA_PREFIX"}) {
    if (const char* prefix = std::getenv(variable); prefix != nullptr && *prefix != '\0') list.AddPythonPrefix(prefix);
  }
  for (const std::string& folder : FoldersIn("PATH")) {
    const fs::path python = fs::path(folder) / "python3";
    std::error_code error;
    const fs::path real = fs::canonical(python, error);
    if (error) continue;
    list.AddPythonPrefix(python.parent_path().parent_path());
    list.AddPythonPrefix(real.parent_path().parent_path());  // a virtual environment's interpreter is a link
  }
  if (const char* home = std::getenv("HOME"); home != nullptr && *home != '\0') {
    list.AddPythonPrefix(fs::path(home) / ".local");
  }
}

std::string PathOf(void* handle) {
  const link_map* map = nullptr;
  return dlinfo(handle, RTLD_DI_LINKMAP, &map) == 0 && map->l_name != nullptr ? map->l_name : "";
}

// Tries files one after the other and remembers why they did not open.
class Search {
 public:
  // Null where it does not open. A file that is not there is no news.
  void* TryFile(const fs::path& file) {
    std::error_code error;
    if (!fs::exists(file, error)) return nullptr;
    return Try(file);
  }
  void* Try(const std::string& name) {
    void* handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
      const std::string words = dlerror();
      // Not there at all, or there but in want of something?
      if (name.find('/') != std::string::npos || !words.starts_with(name)) found_broken_ = true;
      errors_.push_back(words);
    }
    return handle;
  }
  absl::Status Failure(std::span<const char* const> names, const std::vector<std::string>& folders) const {
    const std::string message =
        absl::StrCat("cannot open ", absl::StrJoin(names, " or "), ". Looked in the loader's own places",
                     folders.empty() ? "" : " and in ", absl::StrJoin(folders, ", "),
                     ". The loader says: ", absl::StrJoin(errors_, "; "), ". Set ", kFoldersVariable,
                     "=DIR[:DIR] to the folder that holds it, or install it.");
    return found_broken_ ? absl::FailedPreconditionError(message) : absl::NotFoundError(message);
  }

 private:
  std::vector<std::string> errors_;
  bool found_broken_ = false;
};

}  // namespace

std::vector<std::string> LibraryFolders() {
  FolderList list;
  std::error_code error;
  const fs::path executable = fs::read_symlink("/proc/self/exe", error);
  if (!error) list.Add(executable.parent_path().parent_path() / "lib");
  AddToolkits(list);
  AddPythonEnvironments(list);
  return list.Take();
}

absl::StatusOr<SharedLibrary> SharedLibrary::Open(std::span<const char* const> names) {
  Search search;
  const std::vector<std::string> asked_for = FoldersIn(kFoldersVariable);
  for (const std::string& folder : asked_for) {
    for (const char* name : names) {
      if (void* handle = search.TryFile(fs::path(folder) / name)) return SharedLibrary(handle, PathOf(handle));
    }
  }
  const std::vector<std::string> folders = LibraryFolders();
  for (const char* name : names) {
    if (void* handle = search.Try(name)) return SharedLibrary(handle, PathOf(handle));
    for (const std::string& folder : folders) {
      if (void* handle = search.TryFile(fs::path(folder) / name)) return SharedLibrary(handle, PathOf(handle));
    }
  }
  std::vector<std::string> all = asked_for;
  all.insert(all.end(), folders.begin(), folders.end());
  return search.Failure(names, all);
}

void* SharedLibrary::Symbol(const char* name) const { return dlsym(handle_, name); }

absl::Status SharedLibrary::NoSymbol(const char* name) const {
  return absl::NotFoundError(
      absl::StrCat(path_, " has no function ", name, ": it is too old a release, or not NVIDIA's"));
}

}  // namespace shardit::cuda
