// Where a tensor lives. Streams order work on a device; the CPU has one stream per rank context, which runs each
// operation before the call that issued it returns, so its events are always complete.
#pragma once

#include <cstdint>
#include <ostream>

namespace shardit {

enum class DeviceType : uint8_t { kCpu, kCuda };

struct Device {
  DeviceType type = DeviceType::kCpu;
  int index = 0;

  static Device Cpu() { return {}; }
  static Device Cuda(int index) { return {DeviceType::kCuda, index}; }
  bool is_cpu() const { return type == DeviceType::kCpu; }
  friend bool operator==(const Device&, const Device&) = default;
  friend std::ostream& operator<<(std::ostream& out, const Device& device) {
    return device.is_cpu() ? out << "cpu" : out << "cuda:" << device.index;
  }
};

// A value: copying it names the same queue of work. `handle` is the backend's own stream (null on the CPU).
struct Stream {
  Device device;
  void* handle = nullptr;
};

}  // namespace shardit
