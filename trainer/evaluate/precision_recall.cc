#include "trainer/evaluate/precision_recall.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "core/base/check.h"
#include "trainer/evaluate/linear_algebra.h"

namespace shardit {
namespace {

// Rows whose distances to the whole set are held at once, and rows of the set that are widened to double at once: 100
// and 32 MiB for 50,000 x 2048.
constexpr int64_t kRowBlock = 256;
constexpr int64_t kColumnBlock = 2048;

// Some rows in double, with their squared norms.
struct Block {
  int64_t first = 0, count = 0, dim = 0;
  std::vector<double> values;
  std::vector<double> squares;

  MatrixView view() const { return {values.data(), count, dim, dim}; }
};

Block LoadBlock(const FeatureRows& set, int64_t first, int64_t count) {
  Block block{first, count, set.dim, {}, std::vector<double>(static_cast<size_t>(count))};
  block.values.assign(set.row(first), set.row(first + count));
  for (int64_t i = 0; i < count; ++i) {
    const double* row = block.values.data() + i * set.dim;
    block.squares[i] = std::inner_product(row, row + set.dim, row, 0.0);
  }
  return block;
}

// Squared distances by |x|^2 + |y|^2 - 2 x.y: out[i * stride + j] for row i and column j.
void ApproximateDistances(const Block& rows, const Block& columns, double* out, int64_t stride) {
  MultiplyTransposed(rows.view(), columns.view(), out, stride);
  for (int64_t i = 0; i < rows.count; ++i) {
    double* line = out + i * stride;
    for (int64_t j = 0; j < columns.count; ++j) line[j] = rows.squares[i] + columns.squares[j] - 2.0 * line[j];
  }
}

// The squared distance that decides. Eight sums, in an order that depends on dim alone.
double SquaredDistance(const float* x, const float* y, int64_t dim) {
  double sums[8] = {};
  for (int64_t i = 0; i < dim; ++i) {
    const double difference = static_cast<double>(x[i]) - static_cast<double>(y[i]);
    sums[i % 8] += difference * difference;
  }
  return std::accumulate(sums, sums + 8, 0.0);
}

// Bounds |approximate - SquaredDistance| over |x|^2 + |y|^2: dim roundings in each of three sums of products, of which
// the cross term is at most the mean of the squares, and dim in the differences, whose sum is at most twice both.
double RelativeSlack(int64_t dim) {
  return (2.0 * static_cast<double>(dim) + 8.0) * std::numeric_limits<double>::epsilon();
}

// The `rank`-th smallest (from 1) of SquaredDistance from row `self` of the set to its other rows. `approximate` holds
// all distances up to `slack`, infinity for the row itself; `scratch` has as many entries.
double KthDistance(const FeatureRows& set, int64_t self, int64_t rank, const double* approximate, double slack,
                   std::vector<double>& scratch) {
  scratch.assign(approximate, approximate + set.count);
  std::nth_element(scratch.begin(), scratch.begin() + (rank - 1), scratch.end());
  const double middle = scratch[rank - 1];
  // Order statistics move by no more than their elements do: the answer lies within `slack` of `middle`, what is
  // further than twice that from it is on its side for certain, and the others are summed again.
  int64_t below = 0;
  scratch.clear();
  for (int64_t j = 0; j < set.count; ++j) {
    if (approximate[j] < middle - 2.0 * slack) ++below;
  }
  int64_t zeros = 0;
  for (int64_t j = 0; j < set.count; ++j) {
    if (!(approximate[j] >= middle - 2.0 * slack && approximate[j] <= middle + 2.0 * slack)) continue;
    scratch.push_back(SquaredDistance(set.row(self), set.row(j), set.dim));
    // Nothing is nearer than 0: spares a set of equal vectors the rest.
    if (scratch.back() == 0.0 && ++zeros == rank - below) return 0.0;
  }
  std::nth_element(scratch.begin(), scratch.begin() + (rank - 1 - below), scratch.end());
  return scratch[rank - 1 - below];
}

// Marks in `inside` the rows that lie in a ball around a column. Returns how many it marked anew.
int64_t MarkInside(const FeatureRows& queries, const Block& rows, const FeatureRows& manifold, const Block& columns,
                   std::span<const double> squared_radii, const std::vector<double>& distances, uint8_t* inside) {
  const double relative = RelativeSlack(manifold.dim);
  int64_t marked = 0;
  for (int64_t i = 0; i < rows.count; ++i) {
    for (int64_t j = 0; j < columns.count && inside[i] == 0; ++j) {
      const double radius = squared_radii[columns.first + j], distance = distances[i * columns.count + j];
      const double slack = relative * (rows.squares[i] + columns.squares[j]);
      if (distance > radius + slack) continue;
      if (distance <= radius - slack ||
          SquaredDistance(queries.row(rows.first + i), manifold.row(columns.first + j), manifold.dim) <= radius) {
        inside[i] = 1;
        ++marked;
      }
    }
  }
  return marked;
}

}  // namespace

std::vector<double> SquaredRadii(const FeatureRows& set, Range rows, int64_t neighbours) {
  CHECK(neighbours >= 1 && set.count > neighbours)
      << "[SquaredRadii] " << neighbours << " neighbours among " << set.count << " rows";
  std::vector<double> radii;
  std::vector<double> distances(static_cast<size_t>(std::min(kRowBlock, rows.size()) * set.count));
  std::vector<double> scratch;
  for (int64_t first = rows.begin; first < rows.end; first += kRowBlock) {
    const Block block = LoadBlock(set, first, std::min(kRowBlock, rows.end - first));
    double largest = 0.0;
    for (int64_t column = 0; column < set.count; column += kColumnBlock) {
      const Block columns = LoadBlock(set, column, std::min(kColumnBlock, set.count - column));
      ApproximateDistances(block, columns, distances.data() + column, set.count);
      largest = std::max(largest, *std::max_element(columns.squares.begin(), columns.squares.end()));
    }
    for (int64_t i = 0; i < block.count; ++i) {
      double* line = distances.data() + i * set.count;
      line[first + i] = std::numeric_limits<double>::infinity();
      const double slack = RelativeSlack(set.dim) * (block.squares[i] + largest);
      radii.push_back(KthDistance(set, first + i, neighbours, line, slack, scratch));
    }
  }
  return radii;
}

std::vector<uint8_t> OnManifold(const FeatureRows& queries, Range rows, const FeatureRows& manifold,
                                std::span<const double> squared_radii) {
  CHECK_EQ(queries.dim, manifold.dim);
  CHECK_EQ(static_cast<int64_t>(squared_radii.size()), manifold.count);
  std::vector<uint8_t> inside(static_cast<size_t>(rows.size()));
  std::vector<double> distances(static_cast<size_t>(kRowBlock * kColumnBlock));
  for (int64_t first = rows.begin; first < rows.end; first += kRowBlock) {
    const Block block = LoadBlock(queries, first, std::min(kRowBlock, rows.end - first));
    int64_t open = block.count;  // rows not yet found inside
    for (int64_t column = 0; column < manifold.count && open > 0; column += kColumnBlock) {
      const Block columns = LoadBlock(manifold, column, std::min(kColumnBlock, manifold.count - column));
      ApproximateDistances(block, columns, distances.data(), columns.count);
      open -=
          MarkInside(queries, block, manifold, columns, squared_radii, distances, inside.data() + (first - rows.begin));
    }
  }
  return inside;
}

double Fraction(std::span<const uint8_t> indicators) {
  CHECK(!indicators.empty()) << "[Fraction] no indicators";
  return static_cast<double>(std::accumulate(indicators.begin(), indicators.end(), int64_t{0})) /
         static_cast<double>(indicators.size());
}

}  // namespace shardit
