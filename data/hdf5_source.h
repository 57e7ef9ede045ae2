// A file as HDF5 sees it here: a driver of the library that reads through one descriptor of ours, so that the file that
// was checked is the file that is read, whatever its path names by then. The driver also tells where chunks lie, by
// letting the library read a chunk and noting the place it asks for: the library's own functions for that
// (H5Dget_chunk_info, _by_coord) walk over all chunks for every one of them, and leave out a user block.
//
// Use under Hdf5Lock.
#pragma once

#include <hdf5.h>

#include <cstdint>
#include <optional>

#include "data/chunk_reader.h"
#include "data/hdf5_util.h"

namespace shardit {

class Hdf5Source {
 public:
  // `fd` is a regular file of `bytes` bytes and outlives the source, which outlives every handle that Open's result
  // leads to.
  Hdf5Source(int fd, int64_t bytes) : fd_(fd), bytes_(bytes) {}
  Hdf5Source(const Hdf5Source&) = delete;
  Hdf5Source& operator=(const Hdf5Source&) = delete;

  // The file, read-only; not valid where the library refuses it. `name` is for the library's messages.
  Hdf5Handle Open(const char* name);

  // Where the chunk that begins at element `begin` is stored. None where it is not stored, or where a filter was left
  // out when it was written.
  std::optional<ChunkPlace> FindChunk(hid_t dataset, const hsize_t* begin);

 private:
  struct Driver;

  const int fd_;
  const int64_t bytes_;
  bool noting_ = false;  // raw data that is asked for is noted, not read
  std::optional<ChunkPlace> noted_;
};

}  // namespace shardit
