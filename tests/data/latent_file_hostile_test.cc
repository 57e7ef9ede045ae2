// Files that break one rule each: Open refuses with one line that names the file, the place and the fix, and never
// crashes or takes memory that the file does not justify.
#include <gtest/gtest.h>
#include <unistd.h>
#include <zlib.h>

#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "data/describe.h"
#include "data/latent_file.h"
#include "tests/data/test_files.h"

// HDF5 1.10.8 leaks a few hundred bytes for a file that it refuses; leaks of ours do not match.
extern "C" const char* __lsan_default_suppressions() { return "leak:libhdf5"; }

namespace shardit {
namespace {

using absl::StatusCode;

class HostileFile : public testing::Test {
 protected:
  // `what` must occur in the message, which must be one line that starts with the path.
  void ExpectRefused(const std::string& path, StatusCode code, const std::string& what, int64_t classes = 0) {
    const absl::Status status = LatentFile::Open(path, classes).status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), what)) << status << "\n  lacks: " << what;
    EXPECT_TRUE(absl::StartsWith(status.message(), path)) << status;
    EXPECT_FALSE(absl::StrContains(status.message(), "\n")) << status;
  }
  void ExpectRefused(StatusCode code, const std::string& what, const std::function<void(hid_t)>& build) {
    const std::string path = dir_ / "hostile.h5";
    BuildHdf5(path, build);
    ExpectRefused(path, code, what);
  }
  void ExpectLatentsRefused(StatusCode code, const std::string& what, const ArraySpec& latents) {
    ExpectRefused(code, what, [&](hid_t file) {
      AddArray(file, "latents", latents);
      AddArray(file, "labels", {{latents.dims[0]}, H5T_STD_I64LE});
    });
  }

  const TempFolder dir_;
};

TEST_F(HostileFile, Paths) {
  ExpectRefused(dir_ / "none.h5", StatusCode::kNotFound, "No such file");
  std::filesystem::create_directory(dir_ / "folder");
  ExpectRefused(dir_ / "folder", StatusCode::kInvalidArgument, "a directory");
  ExpectRefused("/dev/zero", StatusCode::kInvalidArgument, "a special file");
  WriteBytes(dir_ / "empty.h5", "");
  ExpectRefused(dir_ / "empty.h5", StatusCode::kDataLoss, "cannot be read");
  WriteBytes(dir_ / "text.h5", "not HDF5 at all");
  ExpectRefused(dir_ / "text.h5", StatusCode::kDataLoss, "not HDF5");
}

TEST_F(HostileFile, Arrays) {
  ExpectRefused(StatusCode::kInvalidArgument, "got neither", [](hid_t file) {});
  ExpectRefused(StatusCode::kInvalidArgument, "an array labels", [](hid_t file) {
    AddArray(file, "latents", {{2, 1, 2, 2}});
  });
  ExpectRefused(StatusCode::kInvalidArgument, "got both", [](hid_t file) {
    AddArray(file, "latents", {{2, 1, 2, 2}});
    AddArray(file, "moments", {{2, 2, 2, 2}});
    AddArray(file, "labels", {{2}, H5T_STD_I64LE});
  });
  ExpectRefused(StatusCode::kDataLoss, "latents",
                [](hid_t file) { H5Gclose(H5Gcreate2(file, "latents", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT)); });
}

TEST_F(HostileFile, Types) {
  ExpectLatentsRefused(StatusCode::kInvalidArgument, "8 bytes", {{2, 1, 2, 2}, H5T_IEEE_F64LE});
  ExpectLatentsRefused(StatusCode::kInvalidArgument, "big-endian", {{2, 1, 2, 2}, H5T_IEEE_F32BE});
  ExpectLatentsRefused(StatusCode::kInvalidArgument, "integer", {{2, 1, 2, 2}, H5T_STD_U8LE});
  const hid_t text = H5Tcopy(H5T_C_S1);
  H5Tset_size(text, H5T_VARIABLE);
  ExpectLatentsRefused(StatusCode::kInvalidArgument, "other values", {{2, 1, 2, 2}, text, {}, {}, false});
  for (const hid_t type : {hid_t{H5T_IEEE_F32LE}, text}) {
    ExpectRefused(StatusCode::kInvalidArgument, "labels type", [&](hid_t file) {
      AddArray(file, "latents", {{2, 1, 2, 2}});
      AddArray(file, "labels", {{2}, type, {}, {}, false});
    });
  }
  H5Tclose(text);
}

TEST_F(HostileFile, Shapes) {
  ExpectLatentsRefused(StatusCode::kInvalidArgument, "[2, 4, 4]", {{2, 4, 4}});
  ExpectLatentsRefused(StatusCode::kInvalidArgument, "dim 1 of 0", {{2, 0, 4, 4}});
  ExpectRefused(StatusCode::kInvalidArgument, "[N, 2C, H, W]", [](hid_t file) {
    AddArray(file, "moments", {{2, 3, 2, 2}});
    AddArray(file, "labels", {{2}, H5T_STD_I64LE});
  });
  for (const std::vector<hsize_t>& dims : {std::vector<hsize_t>{3}, std::vector<hsize_t>{2, 1}}) {
    ExpectRefused(StatusCode::kInvalidArgument, "labels shape: expected [2]", [&](hid_t file) {
      AddArray(file, "latents", {{2, 1, 2, 2}});
      AddArray(file, "labels", {dims, H5T_STD_I64LE});
    });
  }
}

TEST_F(HostileFile, Links) {
  WriteTestFile(TestInfo(dir_ / "other.h5", 2));
  ExpectRefused(StatusCode::kInvalidArgument, "a soft link", [](hid_t file) {
    AddArray(file, "real", {{2, 1, 2, 2}});
    H5Lcreate_soft("/real", file, "latents", H5P_DEFAULT, H5P_DEFAULT);
  });
  ExpectRefused(StatusCode::kInvalidArgument, "an external link", [&](hid_t file) {
    H5Lcreate_external((dir_ / "other.h5").c_str(), "/latents", file, "latents", H5P_DEFAULT, H5P_DEFAULT);
  });
  ExpectRefused(StatusCode::kInvalidArgument, "labels: expected an array", [&](hid_t file) {
    AddArray(file, "latents", {{2, 3, 2, 2}});
    H5Lcreate_external((dir_ / "other.h5").c_str(), "/labels", file, "labels", H5P_DEFAULT, H5P_DEFAULT);
  });
}

TEST_F(HostileFile, DataThatLiesElsewhere) {
  WriteBytes(dir_ / "secret", std::string(4096, 's'));
  ExpectLatentsRefused(StatusCode::kInvalidArgument, "external storage",
                       {{2, 1, 2, 2},
                        H5T_IEEE_F32LE,
                        {},
                        [&](hid_t creation) { H5Pset_external(creation, (dir_ / "secret").c_str(), 0, 32); },
                        false});
  WriteTestFile(TestInfo(dir_ / "other.h5", 2));
  ExpectLatentsRefused(StatusCode::kInvalidArgument, "a virtual layout",
                       {{2, 2, 3, 5},
                        H5T_IEEE_F32LE,
                        {},
                        [&](hid_t creation) {
                          const hsize_t dims[4] = {2, 2, 3, 5};
                          const hid_t space = H5Screate_simple(4, dims, nullptr);
                          H5Pset_virtual(creation, space, (dir_ / "other.h5").c_str(), "/latents", space);
                          H5Sclose(space);
                        },
                        false});
}

TEST_F(HostileFile, Filters) {
  ExpectLatentsRefused(StatusCode::kInvalidArgument, "filter number 6",
                       {{8, 1, 4, 4}, H5T_IEEE_F32LE, {4, 1, 4, 4}, [](hid_t creation) {
                          H5Pset_scaleoffset(creation, H5Z_SO_FLOAT_DSCALE, 2);
                        }});
  ExpectLatentsRefused(StatusCode::kInvalidArgument, "filter number 5",
                       {{8, 1, 4, 4}, H5T_IEEE_F32LE, {4, 1, 4, 4}, [](hid_t creation) { H5Pset_nbit(creation); }});
  // An optional filter that nobody has: the library writes without it but the file still names it.
  ExpectLatentsRefused(StatusCode::kInvalidArgument, "filter number 32015",
                       {{8, 1, 4, 4}, H5T_IEEE_F32LE, {4, 1, 4, 4}, [](hid_t creation) {
                          H5Pset_filter(creation, 32015, H5Z_FLAG_OPTIONAL, 0, nullptr);
                        }});
  ExpectLatentsRefused(StatusCode::kInvalidArgument, "deflate twice",
                       {{8, 1, 4, 4}, H5T_IEEE_F32LE, {4, 1, 4, 4}, [](hid_t creation) {
                          H5Pset_deflate(creation, 1);
                          H5Pset_deflate(creation, 1);
                        }});
}

// The library takes for granted that a chunk inflates to its size: memory behind it became labels and samples.
TEST_F(HostileFile, ChunksOfAnotherSize) {
  const auto with_chunk = [&](hid_t file, const char* name, const ArraySpec& spec, const std::string& stored,
                              uint32_t mask) {
    AddArray(file, name, spec);
    const Hdf5Handle dataset(H5Dopen2(file, name, H5P_DEFAULT), H5Dclose);
    const hsize_t begin[4] = {};
    ASSERT_GE(H5Dwrite_chunk(dataset.get(), H5P_DEFAULT, mask, begin, stored.size(), stored.data()), 0);
  };
  const auto deflate = [](hid_t creation) { H5Pset_deflate(creation, 6); };
  const auto packed = [](size_t bytes) {
    const std::string plain(bytes, 'a');
    std::string out(compressBound(bytes), '\0');
    auto size = static_cast<uLongf>(out.size());
    EXPECT_EQ(compress(reinterpret_cast<Bytef*>(out.data()), &size, reinterpret_cast<const Bytef*>(plain.data()),
                       static_cast<uLong>(bytes)),
              Z_OK);
    return out.substr(0, size);
  };
  for (const size_t bytes : {size_t{16}, size_t{127}, size_t{129}, size_t{4096}}) {
    ExpectRefused(StatusCode::kDataLoss, "labels: chunk 0: does not inflate to its 128 bytes", [&](hid_t file) {
      AddArray(file, "latents", {{32, 1, 2, 2}});
      with_chunk(file, "labels", {{32}, H5T_STD_I32LE, {32}, deflate}, packed(bytes), 0);
    });
    BuildHdf5(dir_ / "hostile.h5", [&](hid_t file) {
      with_chunk(file, "latents", {{2, 1, 4, 4}, H5T_IEEE_F32LE, {2, 1, 4, 4}, deflate}, packed(bytes), 0);
      AddArray(file, "labels", {{2}, H5T_STD_I64LE});
    });
    const absl::Status status = VerifyData(dir_ / "hostile.h5");
    EXPECT_EQ(status.code(), StatusCode::kDataLoss);
    EXPECT_TRUE(absl::StrContains(status.message(), "does not inflate to its 128 bytes")) << status;
  }
  ExpectRefused(StatusCode::kDataLoss, "without its filters", [&](hid_t file) {
    AddArray(file, "latents", {{32, 1, 2, 2}});
    with_chunk(file, "labels", {{32}, H5T_STD_I32LE, {32}, deflate}, std::string(100, '\0'), 1);
  });
  ExpectRefused(StatusCode::kDataLoss, "chunk 0 of 256 bytes is stored in 100000", [&](hid_t file) {
    with_chunk(file, "latents", {{4, 1, 4, 4}, H5T_IEEE_F32LE, {4, 1, 4, 4}, deflate}, std::string(100000, '\0'), 0);
    AddArray(file, "labels", {{4}, H5T_STD_I64LE});
  });
  // The size in the chunk's B-tree key: as many bytes as before in all.
  BuildHdf5(dir_ / "hostile.h5", [&](hid_t file) {
    AddArray(file, "latents", {{2, 1, 64, 64}, H5T_IEEE_F32LE, {1, 1, 64, 64}});
    AddArray(file, "labels", {{2}, H5T_STD_I64LE});
  });
  std::string bytes = ReadBytes(dir_ / "hostile.h5");
  const std::string keys("TREE\1\0\2\0", 8);  // of chunks, level 0, two entries
  const size_t tree = bytes.find(keys);
  ASSERT_NE(tree, bytes.npos);
  const uint32_t sizes[2] = {1024, 2 * 16384 - 1024};
  std::memcpy(bytes.data() + tree + 24, &sizes[0], 4);
  std::memcpy(bytes.data() + tree + 24 + 56, &sizes[1], 4);
  WriteBytes(dir_ / "hostile.h5", bytes);
  ExpectRefused(dir_ / "hostile.h5", StatusCode::kDataLoss, "chunk 0 of 16384 bytes is stored in 1024");
}

TEST_F(HostileFile, ChunksThatNobodyWrote) {
  BuildHdf5(dir_ / "hostile.h5", [&](hid_t file) {
    AddArray(file, "latents",
             {{8, 1, 4, 4}, H5T_IEEE_F32LE, {4, 1, 4, 4}, [](hid_t p) { H5Pset_deflate(p, 6); }, false});
    AddArray(file, "labels", {{8}, H5T_STD_I64LE});
    const Hdf5Handle dataset(H5Dopen2(file, "latents", H5P_DEFAULT), H5Dclose);
    const hsize_t begin[4] = {};
    const std::string stored(100, '\0');
    ASSERT_GE(H5Dwrite_chunk(dataset.get(), H5P_DEFAULT, 0, begin, stored.size(), stored.data()), 0);
  });
  ExpectRefused(dir_ / "hostile.h5", StatusCode::kDataLoss, "chunk 1 of 256 bytes is not stored");
}

// Bits of an integer that lie outside it: the library wrote over its stack, or read other bits as labels.
TEST_F(HostileFile, IntegersWithOtherBits) {
  const hid_t odd = H5Tcopy(H5T_STD_I32LE);
  H5Tset_precision(odd, 16);
  H5Tset_offset(odd, 8);
  ExpectRefused(StatusCode::kInvalidArgument, "labels type", [&](hid_t file) {
    AddArray(file, "latents", {{2, 1, 2, 2}});
    AddArray(file, "labels", {{2}, odd, {}, {}, false});
  });
  H5Tclose(odd);
  // Offset 0, precision 32 of the attribute's type as it is stored, and what a hostile file makes of them.
  const std::string stored("\x10\x08\0\0\4\0\0\0\0\0\x20\0", 12);
  for (const std::string& bits : {std::string("\0\0\x40\xc6", 4), std::string("\0\1\x20\0", 4)}) {
    BuildHdf5(dir_ / "hostile.h5", [&](hid_t file) {
      AddArray(file, "latents", {{2, 1, 2, 2}});
      AddArray(file, "labels", {{2}, H5T_STD_I64LE});
      const Hdf5Handle space(H5Screate(H5S_SCALAR), H5Sclose);
      const Hdf5Handle attribute(H5Acreate2(file, "classes", H5T_STD_I32LE, space.get(), H5P_DEFAULT, H5P_DEFAULT),
                                 H5Aclose);
      const int32_t value = 7;
      H5Awrite(attribute.get(), H5T_NATIVE_INT32, &value);
    });
    std::string bytes = ReadBytes(dir_ / "hostile.h5");
    const size_t at = bytes.find(stored);
    ASSERT_NE(at, bytes.npos);
    bytes.replace(at + 8, 4, bits);
    WriteBytes(dir_ / "hostile.h5", bytes);
    ExpectRefused(dir_ / "hostile.h5", StatusCode::kInvalidArgument, "attribute classes: expected one number");
  }
}

TEST_F(HostileFile, DimsBeyondStoredBytes) {
  // Nothing stored at all, as for an array that was created and never written.
  ExpectLatentsRefused(StatusCode::kDataLoss, "incomplete", {{2, 1, 2, 2}, H5T_IEEE_F32LE, {}, {}, false});
  // Terabytes promised, one chunk never written.
  ExpectLatentsRefused(StatusCode::kDataLoss, "incomplete",
                       {{8, 4, 1u << 20, 1u << 20}, H5T_IEEE_F32LE, {1, 1, 4, 4}, {}, false});
  ExpectLatentsRefused(StatusCode::kDataLoss, "more bytes than can be counted",
                       {{8, 1u << 20, 1u << 30, 1u << 30}, H5T_IEEE_F32LE, {1, 1, 4, 4}, {}, false});
  ExpectRefused(StatusCode::kInvalidArgument, "1 GiB", [](hid_t file) {
    AddArray(file, "latents", {{8, 1, 1u << 15, 1u << 14}, H5T_IEEE_F32LE, {1, 1, 1u << 15, 1u << 14}, {}, false});
  });
}

TEST_F(HostileFile, EveryTruncationIsFound) {
  WriteTestFile(TestInfo(dir_ / "a.h5", 20));
  const std::string whole = ReadBytes(dir_ / "a.h5");
  for (size_t bytes = 0; bytes < whole.size(); bytes += 61) {
    WriteBytes(dir_ / "cut.h5", whole.substr(0, bytes));
    ExpectRefused(dir_ / "cut.h5", StatusCode::kDataLoss, "truncated");
  }
}

// The end-of-file address patched to the new length, so that the library itself sees nothing wrong.
TEST_F(HostileFile, DataPastThePatchedEnd) {
  WriteTestFile(TestInfo(dir_ / "a.h5", 2000));
  std::string bytes = ReadBytes(dir_ / "a.h5");
  ASSERT_EQ(bytes[8], 0) << "superblock version 0: the end-of-file address is the 8 bytes at 40";
  bytes.resize(bytes.size() - 4096);
  const auto size = static_cast<uint64_t>(bytes.size());
  std::memcpy(bytes.data() + 40, &size, 8);
  WriteBytes(dir_ / "cut.h5", bytes);
  ExpectRefused(dir_ / "cut.h5", StatusCode::kDataLoss, "past the end");
}

TEST_F(HostileFile, Labels) {
  const auto with_label = [&](int64_t label, double classes) {
    BuildHdf5(dir_ / "hostile.h5", [&](hid_t file) {
      AddArray(file, "latents", {{3, 1, 2, 2}});
      AddArray(file, "labels", {{3}, H5T_STD_I64LE});
      const hid_t labels = H5Dopen2(file, "labels", H5P_DEFAULT);
      const int64_t values[3] = {0, 1, label};
      H5Dwrite(labels, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, values);
      H5Dclose(labels);
      if (classes > 0) AddNumber(file, "classes", classes);
    });
    return dir_ / "hostile.h5";
  };
  ExpectRefused(with_label(10, 10), StatusCode::kInvalidArgument, "labels[2]: expected a class in [0, 10), got 10");
  ExpectRefused(with_label(-1, 0), StatusCode::kInvalidArgument, "got -1");
  ExpectRefused(with_label(int64_t{1} << 32, 0), StatusCode::kInvalidArgument, "got 4294967296");
  ExpectRefused(with_label(9, 10), StatusCode::kInvalidArgument, "[0, 8)", 8);
  EXPECT_TRUE(LatentFile::Open(with_label(9, 10), 10).ok());
  EXPECT_TRUE(LatentFile::Open(with_label(9, 0)).ok());
}

TEST_F(HostileFile, Attributes) {
  const auto refused = [&](const char* name, double value, const char* what) {
    ExpectRefused(StatusCode::kInvalidArgument, what, [&](hid_t file) { AddNumber(file, name, value); });
  };
  refused("scale", 0, "attribute scale");
  refused("scale", -1, "attribute scale");
  refused("scale", NAN, "attribute scale");
  refused("scale", 1e300, "attribute scale");
  refused("classes", 0, "attribute classes");
  refused("classes", 2.5, "attribute classes");
  refused("classes", 1e18, "attribute classes");
  refused("flipped", 2, "attribute flipped");
  refused("source", 2, "attribute source");
  ExpectRefused(StatusCode::kInvalidArgument, "one number", [](hid_t file) {
    const hsize_t dims[1] = {1000};
    const Hdf5Handle space(H5Screate_simple(1, dims, nullptr), H5Sclose);
    const Hdf5Handle attribute(H5Acreate2(file, "scale", H5T_NATIVE_DOUBLE, space.get(), H5P_DEFAULT, H5P_DEFAULT),
                               H5Aclose);
  });
}

// Bit flips anywhere in the metadata: refused, or read as some valid file; never a crash and never a read out of
// bounds.
TEST_F(HostileFile, BitFlipsInMetadataNeverCrash) {
  for (const char* name : {"h5py_minimal.h5", "h5py_half_chunked.h5"}) {
    const std::string whole = ReadBytes(FixturePath(name));
    ASSERT_FALSE(whole.empty());
    for (size_t at = 0; at < std::min<size_t>(whole.size(), 4096); at += 3) {
      std::string bytes = whole;
      bytes[at] = static_cast<char>(bytes[at] ^ (1 << (at % 8)));
      WriteBytes(dir_ / "flip.h5", bytes);
      const absl::Status status = VerifyData(dir_ / "flip.h5");
      EXPECT_FALSE(absl::StrContains(status.message(), "\n")) << status;
    }
  }
}

}  // namespace
}  // namespace shardit
