#include "tests/cuda_emulator/stream.h"

#include <algorithm>
#include <utility>

#include "tests/cuda_emulator/memory.h"

namespace cuda_emulator {
namespace {

// A query of a stream or event does a little of the work that is asked for, so that a loop of queries ends.
constexpr int kTasksPerQuery = 16;

cudaError_t WaitFor(Scheduler::Lock& lock, const TaskPtr& task) {
  RequireChosenDevice("a wait");
  if (task != nullptr) Scheduler::Instance().RunUntil(lock, [&] { return task->done; });
  return cudaSuccess;
}

cudaError_t Query(Scheduler::Lock& lock, const TaskPtr& task) {
  RequireChosenDevice("a query");
  for (int i = 0; i < kTasksPerQuery && task != nullptr && !task->done; ++i) Scheduler::Instance().RunSome(lock, 1);
  return task == nullptr || task->done ? cudaSuccess : cudaErrorNotReady;
}

}  // namespace

Streams& Streams::Instance() {
  static Streams* streams = new Streams;
  return *streams;
}

CUstream_st* Streams::Legacy(int device) {
  CUstream_st*& stream = legacy_[device];
  if (stream == nullptr) {
    stream = new CUstream_st;
    stream->device = device;
    stream->number = next_number_++;
  }
  return stream;
}

CUstream_st* Streams::Resolve(cudaStream_t handle) {
  if (handle == nullptr || handle == cudaStreamLegacy) return Legacy(CurrentDevice());
  return streams_.count(handle) > 0 ? handle : nullptr;
}

CUstream_st* Streams::Create(unsigned int flags, int priority) {
  CUstream_st* stream = new CUstream_st;
  stream->device = CurrentDevice();
  stream->flags = flags;
  stream->priority = priority;
  stream->number = next_number_++;
  streams_.insert(stream);
  return stream;
}

void Streams::Destroy(CUstream_st* stream) {
  streams_.erase(stream);
  delete stream;
}

// What the stream's next operation comes after. The legacy stream waits for all blocking streams, and they for it.
std::vector<TaskPtr> Streams::Dependencies(CUstream_st* stream) {
  std::vector<TaskPtr> tasks{stream->last};
  CUstream_st* legacy = Legacy(stream->device);
  if (stream == legacy) {
    for (const CUstream_st* other : streams_) {
      if (other->blocking() && other->device == stream->device) tasks.push_back(other->last);
    }
  } else if (stream->blocking()) {
    tasks.push_back(legacy->last);
  }
  return tasks;
}

cudaError_t Streams::Issue(Scheduler::Lock& lock, CUstream_st* stream, Operation operation,
                           const std::vector<TaskPtr>& after, TaskPtr* issued) {
  if (issued != nullptr) *issued = nullptr;
  if (InHostFunction()) return cudaErrorNotPermitted;
  RequireChosenDevice(operation.name);
  if (stream->capture != nullptr) {
    if (stream->capture->invalidated) return cudaErrorStreamCaptureInvalidated;
    AddNode(stream, std::move(operation));
    return cudaSuccess;
  }
  if (stream == Legacy(stream->device)) {  // it would have to wait for a capture
    bool implicit = false;
    for (const CapturePtr& capture : captures) {
      for (const CUstream_st* other : capture->streams) {
        if (!other->blocking() || other->device != stream->device) continue;
        capture->invalidated = implicit = true;
      }
    }
    if (implicit) return cudaErrorStreamCaptureImplicit;
  }
  std::vector<TaskPtr> dependencies = Dependencies(stream);
  dependencies.insert(dependencies.end(), after.begin(), after.end());
  const TaskPtr task = Scheduler::Instance().Add(std::move(operation), dependencies, stream->number);
  stream->last = task;
  if (issued != nullptr) *issued = task;
  Scheduler::Instance().RunIfLong(lock);
  return cudaSuccess;
}

cudaError_t Streams::RefuseWhileCapturing() {
  if (InHostFunction()) return cudaErrorNotPermitted;
  cudaError_t error = cudaSuccess;
  for (const CapturePtr& capture : captures) {
    const bool concerned =
        capture->mode == cudaStreamCaptureModeGlobal ||
        (capture->mode == cudaStreamCaptureModeThreadLocal && capture->thread == std::this_thread::get_id());
    if (!concerned) continue;
    capture->invalidated = true;
    error = cudaErrorStreamCaptureUnsupported;
  }
  return error;
}

}  // namespace cuda_emulator

using cuda_emulator::Operation;
using cuda_emulator::Report;
using cuda_emulator::Scheduler;
using cuda_emulator::Streams;
using cuda_emulator::TaskPtr;

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned int flags, int priority) {
  if (stream == nullptr || (flags != cudaStreamDefault && flags != cudaStreamNonBlocking)) {
    return Report(cudaErrorInvalidValue);
  }
  const auto lock = Scheduler::Instance().Acquire();
  *stream = Streams::Instance().Create(flags, priority);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int flags) {
  return cudaStreamCreateWithPriority(stream, flags, 0);
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithPriority(stream, cudaStreamDefault, 0);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  auto lock = Scheduler::Instance().Acquire();
  CUstream_st* resolved = Streams::Instance().Resolve(stream);
  if (resolved == nullptr || resolved != stream) return Report(cudaErrorInvalidResourceHandle);
  if (resolved->capture != nullptr) return Report(cudaErrorStreamCaptureUnsupported);
  Streams::Instance().Destroy(resolved);  // its tasks stay, as CUDA says
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  auto lock = Scheduler::Instance().Acquire();
  CUstream_st* resolved = Streams::Instance().Resolve(stream);
  if (resolved == nullptr) return Report(cudaErrorInvalidResourceHandle);
  if (resolved->capture != nullptr) resolved->capture->invalidated = true;
  if (resolved->capture != nullptr) return Report(cudaErrorStreamCaptureUnsupported);
  if (const cudaError_t error = Streams::Instance().RefuseWhileCapturing(); error != cudaSuccess) return Report(error);
  TaskPtr end = resolved->last;
  if (resolved != stream) {  // the default stream: with what it would wait for
    Operation marker{.name = "cudaStreamSynchronize"};
    if (const cudaError_t error = Streams::Instance().Issue(lock, resolved, std::move(marker), {}, &end);
        error != cudaSuccess) {
      return Report(error);
    }
  }
  return cuda_emulator::WaitFor(lock, end);
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  auto lock = Scheduler::Instance().Acquire();
  CUstream_st* resolved = Streams::Instance().Resolve(stream);
  if (resolved == nullptr) return Report(cudaErrorInvalidResourceHandle);
  if (resolved->capture != nullptr) resolved->capture->invalidated = true;
  if (resolved->capture != nullptr) return Report(cudaErrorStreamCaptureUnsupported);
  if (const cudaError_t error = Streams::Instance().RefuseWhileCapturing(); error != cudaSuccess) return Report(error);
  return Report(cuda_emulator::Query(lock, TaskPtr(resolved->last)));
}

cudaError_t cudaStreamGetPriority(cudaStream_t stream, int* priority) {
  const auto lock = Scheduler::Instance().Acquire();
  const CUstream_st* resolved = Streams::Instance().Resolve(stream);
  if (resolved == nullptr) return Report(cudaErrorInvalidResourceHandle);
  *priority = resolved->priority;
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int flags) {
  auto lock = Scheduler::Instance().Acquire();
  CUstream_st* resolved = Streams::Instance().Resolve(stream);
  if (resolved == nullptr || event == nullptr) return Report(cudaErrorInvalidResourceHandle);
  if (event->capture == nullptr) {
    if (resolved->capture != nullptr) {
      if (event->task == nullptr) return cudaSuccess;
      resolved->capture->invalidated = true;
      return Report(cudaErrorStreamCaptureIsolation);
    }
    if (event->task == nullptr) return cudaSuccess;
    return Report(Streams::Instance().Issue(lock, resolved, Operation{.name = "cudaStreamWaitEvent"}, {event->task}));
  }
  if (resolved == Streams::Instance().Resolve(nullptr)) return Report(cudaErrorStreamCaptureUnsupported);
  if (resolved->capture == nullptr) {  // the stream joins the capture
    resolved->capture = event->capture;
    resolved->tails.clear();
    event->capture->streams.insert(resolved);
  } else if (resolved->capture != event->capture) {
    resolved->capture->invalidated = event->capture->invalidated = true;
    return Report(cudaErrorStreamCaptureMerge);
  }
  resolved->tails.insert(resolved->tails.end(), event->tails.begin(), event->tails.end());
  std::sort(resolved->tails.begin(), resolved->tails.end());
  resolved->tails.erase(std::unique(resolved->tails.begin(), resolved->tails.end()), resolved->tails.end());
  return cudaSuccess;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* user_data) {
  auto lock = Scheduler::Instance().Acquire();
  CUstream_st* resolved = Streams::Instance().Resolve(stream);
  if (resolved == nullptr) return Report(cudaErrorInvalidResourceHandle);
  Operation operation{.name = "cudaLaunchHostFunc", .type = cudaGraphNodeTypeHost, .on_host = true};
  operation.run = [function, user_data] {
    cuda_emulator::SetInHostFunction(true);
    function(user_data);
    cuda_emulator::SetInHostFunction(false);
  };
  return Report(Streams::Instance().Issue(lock, resolved, std::move(operation)));
}

cudaError_t cudaDeviceSynchronize() {
  auto lock = Scheduler::Instance().Acquire();
  if (const cudaError_t error = Streams::Instance().RefuseWhileCapturing(); error != cudaSuccess) return Report(error);
  Scheduler::Instance().RunAll(lock);
  cuda_emulator::Memory::Instance().CheckCanaries();
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned int flags) {
  if (event == nullptr) return Report(cudaErrorInvalidValue);
  *event = new CUevent_st;
  (*event)->flags = flags;
  return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, cudaEventDefault); }

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  if (event == nullptr) return Report(cudaErrorInvalidResourceHandle);
  const auto lock = Scheduler::Instance().Acquire();
  delete event;  // waits for it hold its task
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  auto lock = Scheduler::Instance().Acquire();
  CUstream_st* resolved = Streams::Instance().Resolve(stream);
  if (resolved == nullptr || event == nullptr) return Report(cudaErrorInvalidResourceHandle);
  if (resolved->capture != nullptr) {
    event->task = nullptr;
    event->capture = resolved->capture;
    event->tails = resolved->tails;
    return cudaSuccess;
  }
  event->capture = nullptr;
  return Report(Streams::Instance().Issue(lock, resolved, Operation{.name = "cudaEventRecord"}, {}, &event->task));
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  auto lock = Scheduler::Instance().Acquire();
  if (event == nullptr) return Report(cudaErrorInvalidResourceHandle);
  if (event->capture != nullptr) return Report(cudaErrorCapturedEvent);
  if (const cudaError_t error = Streams::Instance().RefuseWhileCapturing(); error != cudaSuccess) return Report(error);
  return Report(cuda_emulator::Query(lock, TaskPtr(event->task)));
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  auto lock = Scheduler::Instance().Acquire();
  if (event == nullptr) return Report(cudaErrorInvalidResourceHandle);
  if (event->capture != nullptr) return Report(cudaErrorCapturedEvent);
  if (const cudaError_t error = Streams::Instance().RefuseWhileCapturing(); error != cudaSuccess) return Report(error);
  return cuda_emulator::WaitFor(lock, TaskPtr(event->task));
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  const auto lock = Scheduler::Instance().Acquire();
  if (start == nullptr || end == nullptr || start->task == nullptr || end->task == nullptr ||
      ((start->flags | end->flags) & cudaEventDisableTiming) != 0) {
    return Report(cudaErrorInvalidResourceHandle);
  }
  if (!start->task->done || !end->task->done) return Report(cudaErrorNotReady);
  *milliseconds = std::chrono::duration<float, std::milli>(end->task->finished - start->task->finished).count();
  return cudaSuccess;
}
