#include "trainer/metrics/event_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "core/base/crc32c.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "trainer/metrics/tensorboard.pb.h"

namespace shardit {
namespace {

double WallTime() { return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count(); }

tensorboard::Event NewEvent(int64_t step) {
  tensorboard::Event event;
  event.set_wall_time(WallTime());
  event.set_step(step);
  return event;
}

template <class Number>
void AppendBytes(std::string* out, Number value) {
  char bytes[sizeof(Number)];
  std::memcpy(bytes, &value, sizeof(Number));
  out->append(bytes, sizeof(Number));
}

std::string Frame(const std::string& data) {
  std::string frame;
  AppendBytes(&frame, static_cast<uint64_t>(data.size()));
  AppendBytes(&frame, MaskTfRecordCrc(Crc32c(frame.data(), frame.size())));
  frame += data;
  AppendBytes(&frame, MaskTfRecordCrc(Crc32c(data.data(), data.size())));
  return frame;
}

}  // namespace

EventFile::EventFile(std::string path, int descriptor) : path_(std::move(path)), descriptor_(descriptor) {}

EventFile::~EventFile() {
  if (descriptor_ >= 0) close(descriptor_);
}

EventFile::EventFile(EventFile&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

EventFile& EventFile::operator=(EventFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

absl::StatusOr<EventFile> EventFile::Create(const std::string& folder, int64_t resumed_step) {
  char host[256] = "localhost";
  gethostname(host, sizeof(host) - 1);
  const std::string stem =
      absl::StrCat("events.out.tfevents.", static_cast<int64_t>(WallTime()), ".", host, ".", getpid());
  int descriptor = -1;
  std::string path;
  for (int n = 0; descriptor < 0; ++n) {
    path = JoinPath(folder, absl::StrCat(stem, ".", n));
    descriptor = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
    if (descriptor < 0 && errno != EEXIST) return ErrnoStatus(errno, absl::StrCat("cannot create ", Quoted(path)));
  }
  EventFile file(path, descriptor);
  tensorboard::Event version = NewEvent(0);
  version.set_file_version("brain.Event:2");
  RETURN_IF_ERROR(file.WriteFrame(version.SerializeAsString()));
  // In a fresh run too: a start before it may have written rows and saved nothing.
  tensorboard::Event start = NewEvent(resumed_step + 1);
  start.mutable_session_log()->set_status(tensorboard::SessionLog::START);
  RETURN_IF_ERROR(file.WriteFrame(start.SerializeAsString()));
  return file;
}

absl::Status EventFile::AddScalars(int64_t step, const std::vector<std::pair<std::string, double>>& values) {
  tensorboard::Event event = NewEvent(step);
  for (const auto& [tag, number] : values) {
    tensorboard::Summary::Value* value = event.mutable_summary()->add_value();
    value->set_tag(tag);
    value->set_simple_value(static_cast<float>(number));
  }
  return WriteFrame(event.SerializeAsString());
}

absl::Status EventFile::AddImage(int64_t step, const std::string& tag, const std::string& png, int width, int height,
                                 int channels) {
  tensorboard::Event event = NewEvent(step);
  tensorboard::Summary::Value* value = event.mutable_summary()->add_value();
  value->set_tag(tag);
  tensorboard::Summary::Image* image = value->mutable_image();
  image->set_width(width);
  image->set_height(height);
  image->set_colorspace(channels);
  image->set_encoded_image_string(png);
  return WriteFrame(event.SerializeAsString());
}

absl::Status EventFile::WriteFrame(const std::string& data) {
  const std::string frame = Frame(data);
  for (size_t written = 0; written < frame.size();) {
    const ssize_t count = write(descriptor_, frame.data() + written, frame.size() - written);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return ErrnoStatus(errno, absl::StrCat("cannot append to ", Quoted(path_)));
    written += static_cast<size_t>(count);
  }
  return absl::OkStatus();
}

}  // namespace shardit
