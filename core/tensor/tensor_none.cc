// Stands in for core/tensor/*.cu in a build without CUDA.
#include "core/base/check.h"
#include "core/tensor/copy_rows.h"
#include "core/tensor/device_memory.h"

namespace shardit::cuda {
namespace {

[[noreturn]] void Unavailable() {
  CHECK(false) << "this build has no CUDA code: no tensor can be on a GPU";
  __builtin_unreachable();
}

}  // namespace

void* AllocateDeviceMemory(Device device, int64_t bytes) { Unavailable(); }
void FreeDeviceMemory(Device device, void* block) { Unavailable(); }
DeviceMemoryInfo MemoryInfo(Device device) { Unavailable(); }
void* AllocatePinned(int64_t bytes) { Unavailable(); }
void FreePinned(void* block) { Unavailable(); }
void CopyAsync(void* to, const void* from, int64_t bytes, Stream stream) { Unavailable(); }
void ZeroAsync(void* data, int64_t bytes, Stream stream) { Unavailable(); }
void Zero2dAsync(void* data, int64_t pitch, int64_t width, int64_t rows, Stream stream) { Unavailable(); }
Stream NewStream(Device device, bool high_priority) { Unavailable(); }
void DestroyStream(Stream stream) { Unavailable(); }
void Synchronize(Stream stream) { Unavailable(); }
void Order(Stream first, Stream then) { Unavailable(); }
void UseDevice(Device device) { Unavailable(); }

Event Event::Make(Device device, bool timing) { Unavailable(); }
Event::Event(Event&& other) noexcept : handle_(other.handle_) {}
Event& Event::operator=(Event&& other) noexcept { return *this; }
Event::~Event() = default;
void Event::Record(Stream stream) { Unavailable(); }
void Event::MakeWait(Stream stream) const { Unavailable(); }
bool Event::Done() const { Unavailable(); }
void Event::Synchronize() const { Unavailable(); }
float Event::MillisecondsTo(const Event& end) const { Unavailable(); }

void CopyRows(const CopyRowsArgs& args, CudaContext& context) { Unavailable(); }

}  // namespace shardit::cuda
