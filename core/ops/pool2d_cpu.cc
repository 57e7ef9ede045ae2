#include <algorithm>

#include "core/base/math.h"
#include "core/ops/pool2d.h"

namespace shardit::cpu {
namespace {

constexpr int64_t kGrain = 16384;  // elements: below it, waking a thread costs more than it saves
constexpr int64_t kBlock = 64;     // channels whose sums are held at a time

// Elements of x and of y.
double ElementsRead(const PoolShape& shape) {
  return static_cast<double>(shape.images * shape.channels) * shape.rows.pixels * shape.columns.pixels;
}
double ElementsMade(const PoolShape& shape) {
  return static_cast<double>(shape.images * shape.channels) * shape.rows.windows * shape.columns.windows;
}

// Items below which one thread does them all, each of `elements` of windows.
int64_t GrainOf(int64_t elements) { return kGrain / std::max<int64_t>(1, elements); }

// Larger than `best` as maxima go.
bool Wins(float value, float best) { return (value > best) | (value != value); }

// Channels innermost: these are the loops that the compiler turns into vectors.
void TakeMax(const float* __restrict from, int64_t channels, float* __restrict y) {
  for (int64_t c = 0; c < channels; ++c) y[c] = Wins(from[c], y[c]) ? from[c] : y[c];
}
void TakeMax(const float* __restrict from, int32_t at, int64_t channels, float* __restrict y,
             int32_t* __restrict winners) {
  for (int64_t c = 0; c < channels; ++c) {
    const bool wins = Wins(from[c], y[c]);
    y[c] = wins ? from[c] : y[c];
    winners[c] = wins ? at : winners[c];
  }
}

// One window of an image; y and winners are its pixel's.
void MaxOfWindow(const PoolShape& shape, const float* image, PoolRange rows, PoolRange columns, float* y,
                 int32_t* winners) {
  const int first = rows.begin * shape.columns.pixels + columns.begin;
  std::copy_n(image + first * shape.channels, shape.channels, y);
  if (winners != nullptr) std::fill_n(winners, shape.channels, first);
  for (int row = rows.begin; row < rows.end; ++row) {
    for (int column = columns.begin; column < columns.end; ++column) {
      const int at = row * shape.columns.pixels + column;
      const float* from = image + at * shape.channels;
      winners == nullptr ? TakeMax(from, shape.channels, y) : TakeMax(from, at, shape.channels, y, winners);
    }
  }
}

void AverageOfWindow(const PoolShape& shape, const float* image, PoolRange rows, PoolRange columns, float* y) {
  const float divisor = shape.Divisor(rows, columns);
  for (int64_t first = 0; first < shape.channels; first += kBlock) {
    const int64_t channels = std::min(kBlock, shape.channels - first);
    float sums[kBlock] = {};
    for (int row = rows.begin; row < rows.end; ++row) {
      float row_sums[kBlock] = {};
      for (int column = columns.begin; column < columns.end; ++column) {
        const int64_t at = row * shape.columns.pixels + column;
        const float* from = image + at * shape.channels + first;
        for (int64_t c = 0; c < channels; ++c) row_sums[c] += from[c];
      }
      for (int64_t c = 0; c < channels; ++c) sums[c] += row_sums[c];
    }
    for (int64_t c = 0; c < channels; ++c) y[first + c] = sums[c] / divisor;
  }
}

// Adds to `sums` what `channels` channels of one pixel have from a window. Of a maximum: `at` is the pixel's place.
void AddFromMax(const float* __restrict dy, const int32_t* __restrict winners, int32_t at, int64_t channels,
                float* __restrict sums) {
  for (int64_t c = 0; c < channels; ++c) {
    const float grad = dy[c];  // read always: a vector of reads cannot be conditional
    sums[c] += winners[c] == at ? grad : 0.0f;
  }
}
void AddFromAverage(const float* __restrict dy, float divisor, int64_t channels, float* __restrict sums) {
  for (int64_t c = 0; c < channels; ++c) sums[c] += dy[c] / divisor;
}

// One pixel of dx.
void GatherPixel(const Pool2dBwdArgs& args, int64_t image, int row, int column) {
  const PoolShape& shape = args.shape;
  const PoolRange over_row = shape.rows.WindowsOver(row), over_column = shape.columns.WindowsOver(column);
  const int at = row * shape.columns.pixels + column;
  float* const dx = args.dx + ((image * shape.rows.pixels + row) * shape.columns.pixels + column) * shape.channels;
  for (int64_t first = 0; first < shape.channels; first += kBlock) {
    const int64_t channels = std::min(kBlock, shape.channels - first);
    float sums[kBlock] = {};
    for (int i = over_row.begin; i < over_row.end; ++i) {
      for (int j = over_column.begin; j < over_column.end; ++j) {
        const int64_t window = (image * shape.rows.windows + i) * shape.columns.windows + j;
        const int64_t from = window * shape.channels + first;
        if (shape.kind == PoolKind::kMax) {
          AddFromMax(args.dy + from, args.winners + from, at, channels, sums);
        } else {
          AddFromAverage(args.dy + from, shape.Divisor(shape.rows.PixelsOf(i), shape.columns.PixelsOf(j)), channels,
                         sums);
        }
      }
    }
    for (int64_t c = 0; c < channels; ++c) dx[first + c] = args.accumulate ? dx[first + c] + sums[c] : sums[c];
  }
}

}  // namespace

void Pool2dFwd(const Pool2dFwdArgs& args, CpuContext& context) {
  const PoolShape& shape = args.shape;
  const double written = (args.winners != nullptr ? 8.0 : 4.0) * ElementsMade(shape);
  if (context.Planned({"pool2d_fwd", 0, 4.0 * ElementsRead(shape) + written})) return;
  const int64_t image_size = shape.channels * shape.rows.pixels * shape.columns.pixels;
  const int64_t grain = GrainOf(shape.channels * shape.columns.windows * shape.rows.kernel * shape.columns.kernel);
  // One item is a row of y.
  context.pool.ParallelFor(shape.images * shape.rows.windows, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t item = begin; item < end; ++item) {
      const float* image = args.x + item / shape.rows.windows * image_size;
      const PoolRange rows = shape.rows.PixelsOf(static_cast<int>(item % shape.rows.windows));
      for (int j = 0; j < shape.columns.windows; ++j) {
        const PoolRange columns = shape.columns.PixelsOf(j);
        const int64_t to = (item * shape.columns.windows + j) * shape.channels;
        if (shape.kind == PoolKind::kMax) {
          MaxOfWindow(shape, image, rows, columns, args.y + to, args.winners != nullptr ? args.winners + to : nullptr);
        } else {
          AverageOfWindow(shape, image, rows, columns, args.y + to);
        }
      }
    }
  });
}

void Pool2dBwd(const Pool2dBwdArgs& args, CpuContext& context) {
  const PoolShape& shape = args.shape;
  const double read = (shape.kind == PoolKind::kMax ? 8.0 : 4.0) * ElementsMade(shape);
  if (context.Planned({"pool2d_bwd", 0, (args.accumulate ? 8.0 : 4.0) * ElementsRead(shape) + read})) return;
  const int64_t windows_of_pixel =
      CeilDiv(shape.rows.kernel, shape.rows.stride) * CeilDiv(shape.columns.kernel, shape.columns.stride);
  const int64_t grain = GrainOf(shape.channels * shape.columns.pixels * windows_of_pixel);
  // One item is a row of dx.
  context.pool.ParallelFor(shape.images * shape.rows.pixels, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t image = item / shape.rows.pixels;
      const int row = static_cast<int>(item % shape.rows.pixels);
      for (int column = 0; column < shape.columns.pixels; ++column) GatherPixel(args, image, row, column);
    }
  });
}

}  // namespace shardit::cpu
