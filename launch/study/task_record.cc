#include "launch/study/task_record.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "launch/json/json.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

constexpr int64_t kMaxRecordBytes = 1 << 20;
constexpr std::array<std::string_view, 5> kNames = {"missing", "running", "interrupted", "finished", "failed"};

std::string RecordPath(const std::string& folder) { return JoinPath(folder, "task.json"); }
std::string LockPath(const std::string& folder) { return JoinPath(folder, "task.lock"); }

std::string HostName() {
  char name[256] = "";
  gethostname(name, sizeof(name) - 1);
  return name;
}

struct flock WholeFile() {
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  return lock;
}

std::string Text(const Json& json, const char* key) {
  const Json& value = Member(json, key);
  std::string text = value.is_string() ? value.get<std::string>() : "";
  for (char& c : text) {
    if (absl::ascii_iscntrl(static_cast<unsigned char>(c))) c = ' ';  // it will be shown on terminals
  }
  return text;
}

int64_t Number(const Json& json, const char* key) { return IntegerField(json, key).value_or(0); }

TaskRecord Damaged() {
  TaskRecord record{.state = TaskState::kInterrupted};
  record.message = "task.json is damaged";
  return record;
}

}  // namespace

std::string_view Name(TaskState state) { return kNames[static_cast<size_t>(state)]; }

TaskRecord ReadTaskRecord(const std::string& folder) {
  if (KindOfPath(RecordPath(folder)) == PathKind::kMissing) return {};
  const auto text = ReadWholeFile(RecordPath(folder), kMaxRecordBytes, RandomAccessFile::Links::kRefuse);
  if (!text.ok()) return Damaged();
  const Json json = ParseJson(*text);
  if (!json.is_object()) return Damaged();
  TaskRecord record;
  const std::string state = Text(json, "state");
  size_t index = 0;
  while (index < kNames.size() && kNames[index] != state) ++index;
  if (index == kNames.size()) return Damaged();
  record.state = static_cast<TaskState>(index);
  record.stage = Text(json, "stage");
  record.attempts = Number(json, "attempts");
  record.stalled = Number(json, "stalled");
  record.progress = Number(json, "progress");
  record.last_exit_code = static_cast<int>(Number(json, "last_exit_code"));
  record.message = Text(json, "message");
  record.host = Text(json, "host");
  record.begun = Text(json, "begun");
  record.changed = Text(json, "changed");
  if (record.state == TaskState::kRunning && record.host == HostName() && !IsFileLocked(LockPath(folder))) {
    record.state = TaskState::kInterrupted;
    record.message = "its process ended without a word";
  }
  return record;
}

absl::Status WriteTaskRecord(const std::string& folder, TaskRecord* record) {
  record->changed = absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", absl::Now(), absl::UTCTimeZone());
  record->host = HostName();
  if (record->begun.empty()) record->begun = record->changed;
  const Json json = {{"state", std::string(Name(record->state))},
                     {"stage", record->stage},
                     {"attempts", record->attempts},
                     {"stalled", record->stalled},
                     {"progress", record->progress},
                     {"last_exit_code", record->last_exit_code},
                     {"message", record->message},
                     {"host", record->host},
                     {"begun", record->begun},
                     {"changed", record->changed}};
  return AtomicWriteFile(PosixFileSystem(), RecordPath(folder), JsonText(json) + "\n");
}

bool IsFileLocked(const std::string& path) {
  const int descriptor = open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW);
  if (descriptor < 0) return false;
  struct flock lock = WholeFile();
  const bool locked = fcntl(descriptor, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
  close(descriptor);
  return locked;
}

absl::StatusOr<std::unique_ptr<TaskLock>> TaskLock::Take(const std::string& folder) {
  RETURN_IF_ERROR(MakeFolders(PosixFileSystem(), folder));
  const std::string path = LockPath(folder);
  const int descriptor = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (descriptor < 0) return ErrnoStatus(errno, absl::StrCat("cannot open ", Quoted(path)));
  std::unique_ptr<TaskLock> taken(new TaskLock(descriptor));
  struct flock lock = WholeFile();
  if (fcntl(descriptor, F_OFD_SETLK, &lock) == 0 || (errno != EAGAIN && errno != EACCES)) return taken;
  return WithExitCode(absl::AlreadyExistsError(absl::StrCat("another process works on ", Quoted(folder))),
                      ExitCode::kCannotCreate);
}

TaskLock::~TaskLock() { close(descriptor_); }

}  // namespace shardit
