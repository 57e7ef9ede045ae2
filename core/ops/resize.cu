#include "core/base/math.h"
#include "core/cuda/launch.cuh"
#include "core/ops/resize.h"

namespace shardit::cuda {
namespace {

constexpr int kThreads = 256;

// Row blockIdx.x of y, all images' rows after each other; an element a thread.
__global__ void ResizeKernel(ResizeBilinearArgs args) {
  const int channels = static_cast<int>(args.channels), item = static_cast<int>(blockIdx.y * kThreads + threadIdx.x);
  const int column = item / channels, channel = item - column * channels;
  if (column >= args.columns.out) return;
  const int image = static_cast<int>(blockIdx.x) / args.rows.out;
  const ResizeTap in_rows = TapOf(args.rows, static_cast<int>(blockIdx.x) - image * args.rows.out);
  const ResizeTap in_columns = TapOf(args.columns, column);
  const int64_t first_row = int64_t{image} * args.rows.in;
  const float* const near_row = args.x + (first_row + in_rows.near) * args.columns.in * channels + channel;
  const float* const far_row = args.x + (first_row + in_rows.far) * args.columns.in * channels + channel;
  const int64_t at_left = int64_t{in_columns.near} * channels, at_right = int64_t{in_columns.far} * channels;
  const float left = 1 - in_columns.far_weight, right = in_columns.far_weight;
  const float near = left * near_row[at_left] + right * near_row[at_right];
  const float far = left * far_row[at_left] + right * far_row[at_right];
  const float value = (1 - in_rows.far_weight) * near + in_rows.far_weight * far;
  args.y[int64_t{blockIdx.x} * args.columns.out * channels + item] = args.scale * value + args.shift;
}

}  // namespace

void ResizeBilinear(const ResizeBilinearArgs& args, CudaContext& context) {
  const int64_t row_blocks = CeilDiv(args.columns.out * args.channels, kThreads);
  Launch(ResizeKernel, dim3(static_cast<unsigned>(args.images * args.rows.out), static_cast<unsigned>(row_blocks)),
         kThreads, 0, context.stream, args);
}

}  // namespace shardit::cuda
