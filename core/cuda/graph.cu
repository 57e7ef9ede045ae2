#include "core/cuda/graph.h"
#include "core/cuda/launch.cuh"

namespace shardit::cuda {
namespace {

class InstantiatedGraph : public Graph {
 public:
  explicit InstantiatedGraph(cudaGraph_t graph) {
    size_t nodes = 0;
    CUDA_CHECK(cudaGraphGetNodes(graph, nullptr, &nodes));
    nodes_ = static_cast<int64_t>(nodes);
    CUDA_CHECK(cudaGraphInstantiate(&executable_, graph, 0));
    CUDA_CHECK(cudaGraphDestroy(graph));
  }
  ~InstantiatedGraph() override { CUDA_CHECK(cudaGraphExecDestroy(executable_)); }

  void Launch(Stream stream) override { CUDA_CHECK(cudaGraphLaunch(executable_, Handle(stream))); }
  int64_t nodes() const override { return nodes_; }

 private:
  cudaGraphExec_t executable_ = nullptr;
  int64_t nodes_ = 0;
};

}  // namespace

std::unique_ptr<Graph> Graph::Capture(Stream stream, absl::FunctionRef<void()> body) {
  cudaGraph_t graph = nullptr;
  // Thread-local: other threads of the process, a checkpoint being written for one, may use the device meanwhile.
  CUDA_CHECK(cudaStreamBeginCapture(Handle(stream), cudaStreamCaptureModeThreadLocal));
  body();
  CUDA_CHECK(cudaStreamEndCapture(Handle(stream), &graph));
  return std::make_unique<InstantiatedGraph>(graph);
}

bool IsCapturing(Stream stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  CUDA_CHECK(cudaStreamIsCapturing(Handle(stream), &status));
  return status != cudaStreamCaptureStatusNone;
}

}  // namespace shardit::cuda
