#include "data/hdf5_source.h"

#include <algorithm>
#include <iterator>

namespace shardit {

// What the library calls. It wants its own record first.
struct Hdf5Source::Driver {
  H5FD_t base = {};
  Hdf5Source* source = nullptr;
  haddr_t end_of_allocation = 0;

  static Driver& Of(H5FD_t* file) { return *reinterpret_cast<Driver*>(file); }
  static const Driver& Of(const H5FD_t* file) { return *reinterpret_cast<const Driver*>(file); }

  static H5FD_t* Open(const char*, unsigned, hid_t access_list, haddr_t) {
    const void* const info = H5Pget_driver_info(access_list);
    if (info == nullptr) return nullptr;
    auto* const driver = new Driver;
    driver->source = *static_cast<Hdf5Source* const*>(info);
    return &driver->base;
  }
  static herr_t Close(H5FD_t* file) {
    delete &Of(file);
    return 0;
  }
  static haddr_t GetEndOfAllocation(const H5FD_t* file, H5FD_mem_t) { return Of(file).end_of_allocation; }
  static herr_t SetEndOfAllocation(H5FD_t* file, H5FD_mem_t, haddr_t end) {
    Of(file).end_of_allocation = end;
    return 0;
  }
  static haddr_t GetEndOfFile(const H5FD_t* file, H5FD_mem_t) { return static_cast<haddr_t>(Of(file).source->bytes_); }

  static herr_t Read(H5FD_t* file, H5FD_mem_t type, hid_t, haddr_t offset, size_t bytes, void* out) {
    Hdf5Source& source = *Of(file).source;
    const auto all = static_cast<haddr_t>(source.bytes_);
    if (offset > all || bytes > all - offset) return -1;
    const ChunkPlace place{static_cast<int64_t>(offset), static_cast<int64_t>(bytes)};
    if (source.noting_ && type == H5FD_MEM_DRAW) {
      source.noted_ = place;
      return 0;
    }
    return ReadBytesAt(source.fd_, place.offset, place.bytes, "", static_cast<std::byte*>(out)).ok() ? 0 : -1;
  }
  static herr_t Write(H5FD_t*, H5FD_mem_t, hid_t, haddr_t, size_t, const void*) { return -1; }

  static hid_t Register() {
    H5FD_class_t functions = {};
    functions.name = "shardit";
    functions.maxaddr = static_cast<haddr_t>(INT64_MAX);
    functions.fc_degree = H5F_CLOSE_WEAK;
    functions.fapl_size = sizeof(Hdf5Source*);
    functions.open = Open;
    functions.close = Close;
    functions.get_eoa = GetEndOfAllocation;
    functions.set_eoa = SetEndOfAllocation;
    functions.get_eof = GetEndOfFile;
    functions.read = Read;
    functions.write = Write;
    std::fill(std::begin(functions.fl_map), std::end(functions.fl_map), H5FD_MEM_SUPER);
    return H5FDregister(&functions);
  }
};

Hdf5Handle Hdf5Source::Open(const char* name) {
  static const hid_t driver = Driver::Register();
  const Hdf5Handle access_list(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  Hdf5Source* self = this;
  if (driver < 0 || H5Pset_driver(access_list.get(), driver, &self) < 0) return {};
  return Hdf5Handle(H5Fopen(name, H5F_ACC_RDONLY, access_list.get()), H5Fclose);
}

std::optional<ChunkPlace> Hdf5Source::FindChunk(hid_t dataset, const hsize_t* begin) {
  noted_.reset();
  noting_ = true;
  uint32_t filters_left_out = 0;
  std::byte unused{};
  const herr_t result = H5Dread_chunk(dataset, H5P_DEFAULT, begin, &filters_left_out, &unused);
  noting_ = false;
  if (result < 0 || filters_left_out != 0) return std::nullopt;
  return noted_;
}

}  // namespace shardit
