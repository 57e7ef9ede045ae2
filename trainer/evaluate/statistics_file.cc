#include "trainer/evaluate/statistics_file.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/status_macros.h"
#include "data/formats/npz.h"

namespace shardit {
namespace {

constexpr double kAsymmetry = 1e-4;  // of the largest variance

bool Holds(const NpzReader& reader, absl::string_view name) {
  const std::vector<std::string> names = reader.names();
  return std::find(names.begin(), names.end(), name) != names.end();
}

absl::Status Refused(const std::string& path, absl::string_view array, absl::string_view reason) {
  return absl::InvalidArgumentError(absl::StrCat(Quoted(path), ", array '", array, "': ", reason));
}

// The numbers of an array of this shape, verified and finite.
absl::StatusOr<std::vector<double>> ReadNumbers(const std::string& path, absl::string_view name, NpyArray& array) {
  RETURN_IF_ERROR(array.Verify());
  std::vector<double> values(static_cast<size_t>(array.header().elements()));
  RETURN_IF_ERROR(array.ReadAsDouble(0, array.header().elements(), values.data()));
  for (size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i])) return Refused(path, name, absl::StrCat("element ", i, " is not finite"));
  }
  return values;
}

// Refuses what no covariance looks like, and averages the two triangles.
absl::Status Symmetrize(const std::string& path, absl::string_view name, int64_t dim, std::vector<double>& matrix) {
  double largest = 0.0;
  for (int64_t i = 0; i < dim; ++i) {
    const double variance = matrix[i * dim + i];
    if (variance < 0.0) {
      return Refused(path, name, absl::StrCat("variance ", i, " must not be negative, got ", variance));
    }
    largest = std::max(largest, variance);
  }
  for (int64_t i = 0; i < dim; ++i) {
    for (int64_t j = i + 1; j < dim; ++j) {
      double& upper = matrix[i * dim + j];
      double& lower = matrix[j * dim + i];
      if (std::abs(upper - lower) > kAsymmetry * largest) {
        return Refused(path, name,
                       absl::StrCat("a covariance is symmetric, got ", upper, " at [", i, ", ", j, "] and ", lower,
                                    " at [", j, ", ", i, "]"));
      }
      upper = lower = 0.5 * (upper + lower);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Gaussian> ReadGaussian(const NpzReader& reader, const std::string& path, absl::string_view mean_name,
                                      absl::string_view covariance_name) {
  ASSIGN_OR_RETURN(NpyArray mean, reader.Array(mean_name));
  ASSIGN_OR_RETURN(NpyArray covariance, reader.Array(covariance_name));
  if (mean.shape().size() != 1 || mean.shape()[0] < 1 || mean.shape()[0] > kMaxStatisticsDim) {
    return Refused(path, mean_name,
                   absl::StrCat("expected shape (d) with d in 1 .. ", kMaxStatisticsDim, ", got (",
                                absl::StrJoin(mean.shape(), ", "), ")"));
  }
  const int64_t dim = mean.shape()[0];
  if (covariance.shape() != std::vector<int64_t>{dim, dim}) {
    return Refused(path, covariance_name,
                   absl::StrCat("expected shape (", dim, ", ", dim, ") as '", mean_name, "' has ", dim, ", got (",
                                absl::StrJoin(covariance.shape(), ", "), ")"));
  }
  Gaussian gaussian;
  ASSIGN_OR_RETURN(gaussian.mean, ReadNumbers(path, mean_name, mean));
  ASSIGN_OR_RETURN(gaussian.covariance, ReadNumbers(path, covariance_name, covariance));
  RETURN_IF_ERROR(Symmetrize(path, covariance_name, dim, gaussian.covariance));
  return gaussian;
}

absl::Status WriteNumbers(NpzWriter& writer, absl::string_view name, const std::vector<int64_t>& shape,
                          const std::vector<double>& values) {
  RETURN_IF_ERROR(writer.BeginArray(name, NpyType::kF64, shape));
  return writer.Append(values.data(), static_cast<int64_t>(values.size() * sizeof(double)));
}

}  // namespace

absl::StatusOr<bool> HoldsStatistics(const std::string& path) {
  ASSIGN_OR_RETURN(const NpzReader reader, NpzReader::Open(path));
  return Holds(reader, "mu") && Holds(reader, "sigma");
}

absl::StatusOr<ReferenceStatistics> ReadStatisticsFile(const std::string& path) {
  ASSIGN_OR_RETURN(const NpzReader reader, NpzReader::Open(path));
  ReferenceStatistics statistics;
  ASSIGN_OR_RETURN(statistics.features, ReadGaussian(reader, path, "mu", "sigma"));
  if (Holds(reader, "mu_s") || Holds(reader, "sigma_s")) {
    ASSIGN_OR_RETURN(statistics.spatial, ReadGaussian(reader, path, "mu_s", "sigma_s"));
  }
  return statistics;
}

absl::Status WriteStatisticsFile(FileSystem& fs, const std::string& path, const ReferenceStatistics& statistics) {
  ASSIGN_OR_RETURN(NpzWriter writer, NpzWriter::Create(fs, path));
  const Gaussian& features = statistics.features;
  RETURN_IF_ERROR(WriteNumbers(writer, "mu", {features.dim()}, features.mean));
  RETURN_IF_ERROR(WriteNumbers(writer, "sigma", {features.dim(), features.dim()}, features.covariance));
  if (statistics.spatial.has_value()) {
    const Gaussian& spatial = *statistics.spatial;
    RETURN_IF_ERROR(WriteNumbers(writer, "mu_s", {spatial.dim()}, spatial.mean));
    RETURN_IF_ERROR(WriteNumbers(writer, "sigma_s", {spatial.dim(), spatial.dim()}, spatial.covariance));
  }
  return writer.Finish();
}

}  // namespace shardit
