#include "trainer/evaluate/moments.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "trainer/evaluate/linear_algebra.h"

namespace shardit {
namespace {

// Rows that are centred and multiplied at once: enough for dsyrk's speed, 8 MiB at 2048 dims.
constexpr int64_t kBlockRows = 512;

// Appends and takes off the raw bytes of numbers.
template <typename T>
void Put(const T* values, int64_t count, std::string& bytes) {
  bytes.append(reinterpret_cast<const char*>(values), static_cast<size_t>(count) * sizeof(T));
}
template <typename T>
void Take(absl::string_view& bytes, T* values, int64_t count) {
  const size_t size = static_cast<size_t>(count) * sizeof(T);
  std::memcpy(values, bytes.data(), size);
  bytes.remove_prefix(size);
}

int64_t SerializedBytes(int64_t dim) { return 8 * (2 + dim + dim * (dim + 1) / 2); }

}  // namespace

Moments::Moments(int64_t dim)
    : dim_(dim), mean_(static_cast<size_t>(dim)), scatter_(static_cast<size_t>(dim) * static_cast<size_t>(dim)) {
  CHECK_GE(dim, 1);
}

void Moments::Add(const float* rows, int64_t count) {
  for (int64_t first = 0; first < count; first += kBlockRows) {
    AddBlock(rows + first * dim_, nullptr, std::min(kBlockRows, count - first));
  }
}

void Moments::AddWeighted(const float* rows, const uint32_t* weights, int64_t count) {
  for (int64_t first = 0; first < count; first += kBlockRows) {
    AddBlock(rows + first * dim_, weights + first, std::min(kBlockRows, count - first));
  }
}

void Moments::AddBlock(const float* rows, const uint32_t* weights, int64_t count) {
  std::vector<int64_t> used;  // rows of any weight
  int64_t weight_sum = 0;
  std::vector<double> mean(static_cast<size_t>(dim_));
  const auto weight_of = [&](int64_t row) { return weights == nullptr ? uint32_t{1} : weights[row]; };
  for (int64_t row = 0; row < count; ++row) {
    const uint32_t weight = weight_of(row);
    if (weight == 0) continue;
    used.push_back(row);
    weight_sum += weight;
    for (int64_t i = 0; i < dim_; ++i) mean[i] += weight * static_cast<double>(rows[row * dim_ + i]);
  }
  if (used.empty()) return;
  for (double& value : mean) value /= static_cast<double>(weight_sum);

  std::vector<double> centred(used.size() * static_cast<size_t>(dim_));
  double* out = centred.data();
  for (const int64_t row : used) {
    const double scale = std::sqrt(static_cast<double>(weight_of(row)));
    for (int64_t i = 0; i < dim_; ++i) *out++ = scale * (static_cast<double>(rows[row * dim_ + i]) - mean[i]);
  }
  AddOuterProducts(static_cast<int64_t>(used.size()), dim_, centred.data(), scatter_.data());
  ShiftMean(weight_sum, mean);
}

void Moments::ShiftMean(int64_t count, const std::vector<double>& mean) {
  const double old_count = static_cast<double>(count_), added = static_cast<double>(count), all = old_count + added;
  const double scale = std::sqrt(old_count * added / all);
  std::vector<double> difference(static_cast<size_t>(dim_));
  for (int64_t i = 0; i < dim_; ++i) {
    const double delta = mean[i] - mean_[i];
    difference[i] = scale * delta;
    mean_[i] += delta * added / all;
  }
  AddOuterProducts(1, dim_, difference.data(), scatter_.data());
  count_ += count;
}

void Moments::Merge(const Moments& other) {
  CHECK_EQ(dim_, other.dim_);
  if (other.count_ == 0) return;
  for (size_t i = 0; i < scatter_.size(); ++i) scatter_[i] += other.scatter_[i];
  ShiftMean(other.count_, other.mean_);
}

absl::StatusOr<Gaussian> Moments::Estimate() const {
  if (count_ < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("a covariance needs at least 2 samples, got ", count_, "; evaluate more samples"));
  }
  Gaussian gaussian{mean_, std::vector<double>(scatter_.size())};
  for (int64_t i = 0; i < dim_; ++i) {
    for (int64_t j = i; j < dim_; ++j) {
      const double value = scatter_[i * dim_ + j] / static_cast<double>(count_ - 1);
      gaussian.covariance[i * dim_ + j] = gaussian.covariance[j * dim_ + i] = value;
    }
  }
  return gaussian;
}

std::string Moments::Serialize() const {
  std::string bytes;
  bytes.reserve(static_cast<size_t>(SerializedBytes(dim_)));
  Put(&dim_, 1, bytes);
  Put(&count_, 1, bytes);
  Put(mean_.data(), dim_, bytes);
  for (int64_t i = 0; i < dim_; ++i) Put(&scatter_[i * dim_ + i], dim_ - i, bytes);
  return bytes;
}

absl::StatusOr<Moments> Moments::Parse(absl::string_view bytes, int64_t dim) {
  Moments moments(dim);
  int64_t stored_dim = -1;
  if (bytes.size() >= sizeof(stored_dim)) Take(bytes, &stored_dim, 1);
  if (stored_dim != dim || static_cast<int64_t>(bytes.size() + sizeof(stored_dim)) != SerializedBytes(dim)) {
    return absl::InvalidArgumentError(absl::StrCat("serialized moments of ", dim, " dims take ", SerializedBytes(dim),
                                                   " bytes, got ", stored_dim, " dims and ",
                                                   bytes.size() + sizeof(stored_dim), " bytes"));
  }
  Take(bytes, &moments.count_, 1);
  if (moments.count_ < 0) {
    return absl::InvalidArgumentError(absl::StrCat("serialized moments of ", moments.count_, " samples"));
  }
  Take(bytes, moments.mean_.data(), dim);
  for (int64_t i = 0; i < dim; ++i) Take(bytes, &moments.scatter_[i * dim + i], dim - i);
  return moments;
}

}  // namespace shardit
