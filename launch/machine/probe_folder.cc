// Files: what a checkpoint and a data set need from the folder they lie in.
#include <fcntl.h>
#include <sys/file.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "data/hdf5_util.h"
#include "data/latent_file.h"
#include "data/latent_file_writer.h"
#include "launch/machine/probes.h"

namespace shardit {
namespace {

constexpr int64_t kBlockBytes = 4 << 20;
constexpr int64_t kMostBytes = 64 << 20;
constexpr int kMostCommits = 50;
constexpr double kMostSeconds = 2;

// A folder of our own in `parent`, gone with this object.
class ScratchFolder {
 public:
  static absl::StatusOr<ScratchFolder> Make(const std::string& parent) {
    std::string path = JoinPath(parent, ".shardit-doctor-XXXXXX");
    if (mkdtemp(path.data()) == nullptr) return ErrnoStatus(errno, absl::StrCat("mkdir ", path));
    return ScratchFolder(path);
  }
  ScratchFolder(ScratchFolder&& other) noexcept : path_(std::exchange(other.path_, "")) {}
  ~ScratchFolder() {
    if (!path_.empty()) RemoveTree(PosixFileSystem(), path_).IgnoreError();
  }
  const std::string& path() const { return path_; }

 private:
  explicit ScratchFolder(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

class Stopwatch {
 public:
  double Seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// By the magic numbers of statfs(2) and the file systems' own sources.
std::string FileSystemName(const std::string& folder) {
  struct Known {
    uint32_t magic;
    const char* name;
  };
  static constexpr Known kKnown[] = {{0xEF53, "ext"},
                                     {0x58465342, "xfs"},
                                     {0x9123683E, "btrfs"},
                                     {0x2FC12FC1, "zfs"},
                                     {0x01021994, "tmpfs (memory)"},
                                     {0x794C7630, "overlay (of a container)"},
                                     {0x6969, "NFS, network"},
                                     {0x0BD00BD0, "Lustre, network"},
                                     {0x47504653, "GPFS, network"},
                                     {0x19830326, "BeeGFS, network"},
                                     {0x00C36400, "Ceph, network"},
                                     {0xFF534D42, "CIFS, network"},
                                     {0xFE534D42, "SMB, network"},
                                     {0x65735546, "FUSE, perhaps network"}};
  struct statfs about = {};
  if (statfs(folder.c_str(), &about) != 0) return "unknown";
  const uint32_t magic = static_cast<uint32_t>(about.f_type);
  for (const Known& known : kKnown) {
    if (known.magic == magic) return known.name;
  }
  return absl::StrFormat("unknown (0x%x)", magic);
}

// MiB a second, the final fsync included.
absl::StatusOr<double> WriteRate(const std::string& folder) {
  // Not zeros: some file systems store those as nothing.
  std::vector<uint32_t> block(kBlockBytes / sizeof(uint32_t));
  uint32_t word = 1;
  for (uint32_t& value : block) value = word = word * 1664525 + 1013904223;
  const Stopwatch watch;
  ASSIGN_OR_RETURN(const std::unique_ptr<WritableFile> file, PosixFileSystem().Create(JoinPath(folder, "rate")));
  int64_t bytes = 0;
  for (; bytes < kMostBytes && watch.Seconds() < kMostSeconds; bytes += kBlockBytes) {
    RETURN_IF_ERROR(file->WriteAt(bytes, block.data(), kBlockBytes));
  }
  RETURN_IF_ERROR(file->Sync());
  RETURN_IF_ERROR(file->Close());
  return static_cast<double>(bytes >> 20) / watch.Seconds();
}

// Small files published a second: what the end of a checkpoint is made of.
absl::StatusOr<double> CommitRate(const std::string& folder) {
  const Stopwatch watch;
  int commits = 0;
  for (; commits < kMostCommits && watch.Seconds() < kMostSeconds; ++commits) {
    RETURN_IF_ERROR(AtomicWriteFile(PosixFileSystem(), JoinPath(folder, "commit"), "doctor"));
  }
  return commits / watch.Seconds();
}

Finding ProbeDisk(const std::string& folder) {
  const absl::StatusOr<double> rate = WriteRate(folder);
  if (!rate.ok()) return {"disk", false, std::string(rate.status().message())};
  const absl::StatusOr<double> commits = CommitRate(folder);
  if (!commits.ok()) return {"disk", false, std::string(commits.status().message())};
  return {"disk", true,
          absl::StrFormat("%s; writes %.0f MiB/s and %.0f commits/s, fsync included", FileSystemName(folder), *rate,
                          *commits)};
}

bool FilesLock(const std::string& folder) {
  const int fd = open(JoinPath(folder, "lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  const bool locks = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0;
  if (fd >= 0) close(fd);
  return locks;
}

// A data set as users have it: written, opened, read back.
absl::Status TryHdf5(const std::string& folder) {
  LatentFileInfo info;
  info.path = JoinPath(folder, "probe.h5");
  info.count = 3;
  info.shape = {.channels = 1, .height = 2, .width = 2};
  const std::vector<float> written = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
  const std::vector<int32_t> labels = {0, 1, 2};
  ASSIGN_OR_RETURN(const std::unique_ptr<LatentFileWriter> writer, LatentFileWriter::Create(info));
  RETURN_IF_ERROR(writer->Append(written.data(), labels.data(), info.count));
  RETURN_IF_ERROR(writer->Commit());
  ASSIGN_OR_RETURN(const std::unique_ptr<LatentFile> file, LatentFile::Open(info.path));
  std::vector<float> read(written.size());
  RETURN_IF_ERROR(file->ReadRaw(0, info.count, read.data()));
  if (read == written && file->labels() == labels) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(info.path, ": other values came back than were written; check the disk"));
}

Finding ProbeHdf5(const std::string& folder) {
  unsigned major = 0, minor = 0, release = 0;
  {
    const Hdf5Lock lock;
    H5get_libversion(&major, &minor, &release);
  }
  const char* setting = std::getenv("HDF5_USE_FILE_LOCKING");
  const std::string locks = FilesLock(folder) ? "files lock"
                            : setting != nullptr
                                ? absl::StrCat("no file locks here, HDF5_USE_FILE_LOCKING is ", setting)
                                : "no file locks here: where files do not open, export HDF5_USE_FILE_LOCKING=FALSE";
  const absl::Status tried = TryHdf5(folder);
  return {"HDF5", tried.ok(),
          absl::StrCat(major, ".", minor, ".", release, ", ",
                       tried.ok() ? "a file was written and read" : tried.message(), "; ", locks)};
}

}  // namespace

std::vector<Finding> ProbeFolder(const std::string& folder) {
  const absl::StatusOr<int64_t> free_bytes = FreeBytes(folder);
  if (!free_bytes.ok()) return {{"folder", false, std::string(free_bytes.status().message())}};
  const std::string space = absl::StrCat(*free_bytes >> 20, " MiB free in the current folder");
  const absl::StatusOr<ScratchFolder> scratch = ScratchFolder::Make(folder);
  if (!scratch.ok()) return {{"folder", false, absl::StrCat("not writable, ", space)}};
  std::vector<Finding> findings = {{"folder", true, absl::StrCat("writable, ", space)}};
  if (*free_bytes > 2 * kMostBytes) {
    findings.push_back(ProbeDisk(scratch->path()));
    findings.push_back(ProbeHdf5(scratch->path()));
  }
  return findings;
}

}  // namespace shardit
