// Captures and graphs. A replay gives the scheduler one task a node, with the edges of the capture and no others, so
// that an edge missing from the capture is an order missing from the replay.
#include <algorithm>
#include <utility>

#include "tests/cuda_emulator/stream.h"

namespace cuda_emulator {
namespace {

// Which nodes come before, or are among, `tails`.
std::vector<bool> Before(const CUgraph_st& graph, const std::vector<int>& tails) {
  std::vector<bool> before(graph.nodes.size());
  for (const int tail : tails) before[static_cast<size_t>(tail)] = true;
  for (size_t node = graph.nodes.size(); node-- > 0;) {
    if (!before[node]) continue;
    for (const int dependency : graph.nodes[node]->dependencies) before[static_cast<size_t>(dependency)] = true;
  }
  return before;
}

bool AllJoined(const Capture& capture) {
  const std::vector<bool> joined = Before(*capture.graph, capture.origin->tails);
  for (const CUstream_st* stream : capture.streams) {
    for (const int tail : stream->tails) {
      if (!joined[static_cast<size_t>(tail)]) return false;
    }
  }
  return true;
}

void EndCapture(const CapturePtr& capture) {
  for (CUstream_st* stream : capture->streams) {
    stream->capture = nullptr;
    stream->tails.clear();
  }
  capture->streams.clear();
  Streams::Instance().captures.erase(capture);
}

}  // namespace

void AddNode(CUstream_st* stream, Operation operation) {
  CUgraph_st& graph = *stream->capture->graph;
  auto node = std::make_unique<CUgraphNode_st>();
  node->operation = std::move(operation);
  node->dependencies = stream->tails;
  node->stream = stream->number;
  stream->tails = {static_cast<int>(graph.nodes.size())};
  graph.nodes.push_back(std::move(node));
}

}  // namespace cuda_emulator

using cuda_emulator::CapturePtr;
using cuda_emulator::Operation;
using cuda_emulator::Report;
using cuda_emulator::Scheduler;
using cuda_emulator::Streams;
using cuda_emulator::TaskPtr;

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  static unsigned long long captures = 0;
  const auto lock = Scheduler::Instance().Acquire();
  CUstream_st* resolved = Streams::Instance().Resolve(stream);
  if (resolved == nullptr) return Report(cudaErrorInvalidResourceHandle);
  if (resolved != stream) return Report(cudaErrorStreamCaptureUnsupported);  // the legacy stream
  if (resolved->capture != nullptr) return Report(cudaErrorInvalidValue);
  CapturePtr capture = std::make_shared<cuda_emulator::Capture>();
  capture->id = ++captures;
  capture->graph = std::make_unique<CUgraph_st>();
  capture->origin = resolved;
  capture->thread = std::this_thread::get_id();
  capture->mode = mode;
  capture->streams.insert(resolved);
  resolved->capture = capture;
  resolved->tails.clear();
  Streams::Instance().captures.insert(std::move(capture));
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  const auto lock = Scheduler::Instance().Acquire();
  CUstream_st* resolved = Streams::Instance().Resolve(stream);
  if (resolved == nullptr) return Report(cudaErrorInvalidResourceHandle);
  const CapturePtr capture = resolved->capture;
  if (capture == nullptr) return Report(cudaErrorInvalidValue);
  if (capture->origin != resolved) {
    capture->invalidated = true;
    return Report(cudaErrorStreamCaptureUnmatched);
  }
  if (capture->mode != cudaStreamCaptureModeRelaxed && capture->thread != std::this_thread::get_id()) {
    return Report(cudaErrorStreamCaptureWrongThread);
  }
  const bool joined = cuda_emulator::AllJoined(*capture);
  cuda_emulator::EndCapture(capture);
  if (capture->invalidated) return Report(cudaErrorStreamCaptureInvalidated);
  if (!joined) return Report(cudaErrorStreamCaptureUnjoined);
  *graph = capture->graph.release();
  capture->graph = std::make_unique<CUgraph_st>();
  return cudaSuccess;
}

cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status, unsigned long long* id,
                                     cudaGraph_t* graph, const cudaGraphNode_t** dependencies,
                                     const cudaGraphEdgeData** edges, size_t* count) {
  const auto lock = Scheduler::Instance().Acquire();
  const CUstream_st* resolved = Streams::Instance().Resolve(stream);
  if (resolved == nullptr) return Report(cudaErrorInvalidResourceHandle);
  if (graph != nullptr || dependencies != nullptr || edges != nullptr || count != nullptr) {
    return Report(cudaErrorNotSupported);
  }
  const CapturePtr capture = resolved->capture;
  *status = capture == nullptr     ? cudaStreamCaptureStatusNone
            : capture->invalidated ? cudaStreamCaptureStatusInvalidated
                                   : cudaStreamCaptureStatusActive;
  if (id != nullptr && capture != nullptr) *id = capture->id;
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  return cudaStreamGetCaptureInfo(stream, status);
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long flags) {
  if (executable == nullptr || graph == nullptr) return Report(cudaErrorInvalidValue);
  if (flags != 0) return Report(cudaErrorNotSupported);
  *executable = new CUgraphExec_st;
  for (const auto& node : graph->nodes) (*executable)->nodes.push_back(*node);
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  auto lock = Scheduler::Instance().Acquire();
  CUstream_st* resolved = Streams::Instance().Resolve(stream);
  if (resolved == nullptr) return Report(cudaErrorInvalidResourceHandle);
  if (executable == nullptr) return Report(cudaErrorInvalidValue);
  if (resolved->capture != nullptr) return Report(cudaErrorNotSupported);  // child graphs
  TaskPtr begin;
  Operation marker{.name = "begin of a graph", .type = cudaGraphNodeTypeGraph};
  if (const cudaError_t error =
          Streams::Instance().Issue(lock, resolved, std::move(marker), {executable->last}, &begin);
      error != cudaSuccess) {
    return Report(error);
  }
  std::vector<TaskPtr> tasks;
  for (const CUgraphNode_st& node : executable->nodes) {
    std::vector<TaskPtr> dependencies{begin};
    for (const int dependency : node.dependencies) dependencies.push_back(tasks[static_cast<size_t>(dependency)]);
    tasks.push_back(Scheduler::Instance().Add(node.operation, dependencies, node.stream));
  }
  Operation end{.name = "end of a graph", .type = cudaGraphNodeTypeGraph};
  return Report(Streams::Instance().Issue(lock, resolved, std::move(end), tasks, &executable->last));
}

cudaError_t cudaGraphUpload(cudaGraphExec_t executable, cudaStream_t stream) { return cudaSuccess; }

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  const auto lock = Scheduler::Instance().Acquire();
  delete executable;  // tasks of a launch have copies of its nodes
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count) {
  if (nodes != nullptr) {
    for (size_t i = 0; i < std::min(*count, graph->nodes.size()); ++i) nodes[i] = graph->nodes[i].get();
  }
  *count = graph->nodes.size();
  return cudaSuccess;
}

cudaError_t cudaGraphNodeGetType(cudaGraphNode_t node, cudaGraphNodeType* type) {
  *type = node->operation.type;
  return cudaSuccess;
}
