#include "trainer/check_output.h"

#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {

absl::Status CheckOutputPath(const std::string& path) {
  absl::Status status;
  const std::string folder = ParentFolder(path);
  if (access(folder.c_str(), F_OK) != 0) {
    status = absl::NotFoundError(absl::StrCat(Quoted(path), ": its folder does not exist; make it first"));
  } else if (access(folder.c_str(), W_OK | X_OK) != 0) {
    status = ErrnoStatus(errno, absl::StrCat("cannot write to the folder of ", Quoted(path)));
  } else if (KindOfPath(path) == PathKind::kFolder) {
    status = absl::AlreadyExistsError(absl::StrCat(Quoted(path), ": expected the name of a file, got a folder"));
  }
  return WithExitCode(status, ExitCode::kCannotCreate);
}

}  // namespace shardit
