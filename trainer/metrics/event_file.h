// TensorBoard event file: TFRecord frames (u64 length, masked CRC32C of the length, data, masked CRC32C of the data;
// little-endian) of Event messages. Owned by rank 0; not thread-safe. One file a process; TensorBoard joins the files
// of a folder.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace shardit {

class EventFile {
 public:
  // Creates events.out.tfevents.<time>.<host>.<pid>.<n> in `folder`, which exists. TensorBoard then forgets what
  // earlier files say about steps above `resumed_step` (0: a fresh run, all of them).
  static absl::StatusOr<EventFile> Create(const std::string& folder, int64_t resumed_step);
  ~EventFile();
  EventFile(EventFile&& other) noexcept;
  EventFile& operator=(EventFile&& other) noexcept;

  const std::string& path() const { return path_; }

  absl::Status AddScalars(int64_t step, const std::vector<std::pair<std::string, double>>& values);
  // `png` is a whole PNG file of width x height pixels with `channels` channels (1, 3 or 4).
  absl::Status AddImage(int64_t step, const std::string& tag, const std::string& png, int width, int height,
                        int channels);

 private:
  EventFile(std::string path, int descriptor);
  absl::Status WriteFrame(const std::string& data);
  std::string path_;
  int descriptor_ = -1;
};

}  // namespace shardit
