// Streams, events and captures: what the handles of the runtime's interface point to. All of it is guarded by the
// scheduler's lock.
#pragma once

#include <set>
#include <thread>
#include <vector>

#include "cuda_runtime.h"
#include "tests/cuda_emulator/scheduler.h"

// A node of a captured graph.
struct CUgraphNode_st {
  cuda_emulator::Operation operation;
  std::vector<int> dependencies;  // indices of earlier nodes
  int stream = 0;                 // that it was captured on
};

struct CUgraph_st {
  std::vector<std::unique_ptr<CUgraphNode_st>> nodes;
};

struct CUgraphExec_st {
  std::vector<CUgraphNode_st> nodes;
  cuda_emulator::TaskPtr last;  // end of the latest launch
};

namespace cuda_emulator {

struct Capture {
  unsigned long long id = 0;
  std::unique_ptr<CUgraph_st> graph;
  cudaStream_t origin = nullptr;
  std::thread::id thread;
  cudaStreamCaptureMode mode = cudaStreamCaptureModeThreadLocal;
  bool invalidated = false;
  std::set<cudaStream_t> streams;  // that take part
};
using CapturePtr = std::shared_ptr<Capture>;

}  // namespace cuda_emulator

struct CUstream_st {
  int device = 0;
  unsigned int flags = 0;
  int priority = 0;
  int number = 0;
  cuda_emulator::TaskPtr last;
  cuda_emulator::CapturePtr capture;  // null: not capturing
  std::vector<int> tails;             // with a capture: nodes that the next one depends on

  bool blocking() const { return (flags & cudaStreamNonBlocking) == 0; }
};

struct CUevent_st {
  unsigned int flags = 0;
  cuda_emulator::TaskPtr task;  // null: never recorded
  cuda_emulator::CapturePtr capture;
  std::vector<int> tails;  // with a capture: nodes that a wait depends on
};

namespace cuda_emulator {

// All streams that exist, by device the legacy ones too.
class Streams {
 public:
  static Streams& Instance();

  // The stream of a handle; null: there is none. 0 and cudaStreamLegacy are the current device's default stream.
  CUstream_st* Resolve(cudaStream_t handle);
  CUstream_st* Create(unsigned int flags, int priority);
  void Destroy(CUstream_st* stream);

  // Issues an operation: to the queue, or to the graph that the stream captures into. `after`: further dependencies,
  // not while capturing. `issued`, where not null: the task, null while capturing.
  cudaError_t Issue(Scheduler::Lock& lock, CUstream_st* stream, Operation operation,
                    const std::vector<TaskPtr>& after = {}, TaskPtr* issued = nullptr);

  // The calls that CUDA does not allow on a host thread that captures: invalidates the thread's captures.
  cudaError_t RefuseWhileCapturing();

  std::set<CapturePtr> captures;

 private:
  CUstream_st* Legacy(int device);
  std::vector<TaskPtr> Dependencies(CUstream_st* stream);

  std::set<CUstream_st*> streams_;
  std::map<int, CUstream_st*> legacy_;
  int next_number_ = 0;
};

// The node that `operation` becomes at the end of the stream in its capture.
void AddNode(CUstream_st* stream, Operation operation);

// The thread's latest error, as cudaGetLastError tells it.
cudaError_t Report(cudaError_t error);
int CurrentDevice();
// Fatal where there are several devices and the thread has not said which it means: a rank would take memory of the
// first for nothing.
void RequireChosenDevice(const char* call);
// True inside a function of cudaLaunchHostFunc, which must not call CUDA.
bool InHostFunction();
void SetInHostFunction(bool inside);

}  // namespace cuda_emulator
