// Files for the tests of data/: a folder that goes away, small data sets, and HDF5 files that break one rule each.
#pragma once

#include <gtest/gtest.h>
#include <hdf5.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <vector>

#include "data/hdf5_util.h"
#include "data/latent_file_writer.h"
#include "tests/temp_folder.h"

namespace shardit {

inline std::string FixturePath(const std::string& name) {
  return std::string(SHARDIT_SOURCE_DIR) + "/tests/data/fixtures/" + name;
}

inline std::string ReadBytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline void WriteBytes(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

// Value of element e of sample i in the files below: exact in float16, different for every (i, e) that the tests use.
inline float TestValue(int64_t sample, int64_t element) {
  return static_cast<float>((sample * 61 + element) % 2000 - 1000);
}
inline int32_t TestLabel(int64_t sample) { return static_cast<int32_t>(sample % 7); }

inline LatentFileInfo TestInfo(const std::string& path, int64_t count, LatentShape shape = {2, 3, 5}) {
  LatentFileInfo info;
  info.path = path;
  info.count = count;
  info.shape = shape;
  info.classes = 7;
  return info;
}

// Samples i of the file hold TestValue(first + i, .) (moments: deviation |value| / 64 in the second half).
inline void WriteTestFile(const LatentFileInfo& info, int64_t first = 0) {
  auto writer = LatentFileWriter::Create(info);
  ASSERT_TRUE(writer.ok()) << writer.status();
  const bool moments = info.kind == LatentKind::kMoments;
  const int64_t elements = info.shape.elements() * (moments ? 2 : 1);
  std::vector<float> values(static_cast<size_t>(elements));
  for (int64_t i = 0; i < info.count; ++i) {
    for (int64_t e = 0; e < elements; ++e) {
      const float value = TestValue(first + i, e);
      values[static_cast<size_t>(e)] = e >= info.shape.elements() ? std::abs(value) / 64 : value;
    }
    const int32_t label = TestLabel(first + i);
    ASSERT_TRUE((*writer)->Append(values.data(), &label, 1).ok());
  }
  ASSERT_TRUE((*writer)->Commit().ok());
}

// A file written with plain HDF5 calls: `build` gets the open file.
inline void BuildHdf5(const std::string& path, const std::function<void(hid_t file)>& build) {
  const Hdf5Lock lock;
  const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  ASSERT_GE(file, 0);
  build(file);
  ASSERT_GE(H5Fclose(file), 0);
}

struct ArraySpec {
  std::vector<hsize_t> dims;
  hid_t type = H5T_IEEE_F32LE;
  std::vector<hsize_t> chunk = {};                    // empty: contiguous
  std::function<void(hid_t creation)> creation = {};  // filters, external storage and so on
  bool write = true;
};

// Creates an array of zeros. Returns the data set's creation result, for arrays the library itself may refuse.
inline void AddArray(hid_t file, const char* name, const ArraySpec& spec) {
  const hid_t space = H5Screate_simple(static_cast<int>(spec.dims.size()), spec.dims.data(), nullptr);
  const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
  if (!spec.chunk.empty()) H5Pset_chunk(creation, static_cast<int>(spec.chunk.size()), spec.chunk.data());
  if (spec.creation) spec.creation(creation);
  const hid_t dataset = H5Dcreate2(file, name, spec.type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
  ASSERT_GE(dataset, 0) << name;
  if (spec.write) {
    size_t values = 1;
    for (const hsize_t dim : spec.dims) values *= dim;
    const std::vector<char> zeros(values * H5Tget_size(spec.type));
    ASSERT_GE(H5Dwrite(dataset, spec.type, H5S_ALL, H5S_ALL, H5P_DEFAULT, zeros.data()), 0) << name;
  }
  H5Dclose(dataset);
  H5Pclose(creation);
  H5Sclose(space);
}

inline void AddNumber(hid_t file, const char* name, double value) {
  const Hdf5Handle space(H5Screate(H5S_SCALAR), H5Sclose);
  const Hdf5Handle attribute(H5Acreate2(file, name, H5T_NATIVE_DOUBLE, space.get(), H5P_DEFAULT, H5P_DEFAULT),
                             H5Aclose);
  ASSERT_GE(H5Awrite(attribute.get(), H5T_NATIVE_DOUBLE, &value), 0);
}

}  // namespace shardit
