#include "launch/machine/cluster_file.h"

#include "absl/strings/str_cat.h"
#include "configs/cluster.pb.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "trainer/run_config/exit_code.h"
#include "trainer/run_config/field_tree.h"
#include "trainer/run_config/text_scan.h"

namespace shardit {
namespace {

absl::Status Invalid(const std::string& path, const std::string& what) {
  return WithExitCode(absl::InvalidArgumentError(absl::StrCat(path, ": ", what)), ExitCode::kUsage);
}

constexpr double kMost = 1e9;  // of any figure: what follows from them stays a number

absl::Status CheckPositive(const std::string& path, const char* field, double value) {
  if (value > 0 && value <= kMost) return absl::OkStatus();
  return Invalid(path, absl::StrCat(field, ": expected a number above 0, at most ", kMost, ", got ", value));
}

absl::Status CheckNotNegative(const std::string& path, const char* field, double value) {
  if (value >= 0 && value <= kMost) return absl::OkStatus();
  return Invalid(path, absl::StrCat(field, ": expected a number from 0 to ", kMost, ", got ", value));
}

double PeakOf(const config::Cluster& cluster, Precision precision) {
  switch (precision) {
    case Precision::kFp32:
      return cluster.fp32_gflops();
    case Precision::kTf32:
      return cluster.tf32_gflops();
    case Precision::kBf16:
      return cluster.bf16_gflops();
  }
  return 0;
}

LinkFigures ToLink(const config::ClusterLink& link) {
  return {.latency_seconds = 1e-6 * link.latency_us(), .bytes_per_second = 1e9 * link.gbytes_per_s()};
}

absl::Status CheckCluster(const std::string& path, const config::Cluster& cluster, Precision precision) {
  RETURN_IF_ERROR(CheckPositive(path, "devices_per_node", static_cast<double>(cluster.devices_per_node())));
  RETURN_IF_ERROR(CheckNotNegative(path, "nodes", static_cast<double>(cluster.nodes())));
  RETURN_IF_ERROR(CheckNotNegative(path, "kernel_us", cluster.kernel_us()));
  RETURN_IF_ERROR(CheckNotNegative(path, "intra_node.latency_us", cluster.intra_node().latency_us()));
  RETURN_IF_ERROR(CheckNotNegative(path, "inter_node.latency_us", cluster.inter_node().latency_us()));
  RETURN_IF_ERROR(CheckPositive(path, "peak at the run's precision", PeakOf(cluster, precision)));
  RETURN_IF_ERROR(CheckPositive(path, "gemm_efficiency", cluster.gemm_efficiency()));
  RETURN_IF_ERROR(CheckPositive(path, "attention_efficiency", cluster.attention_efficiency()));
  RETURN_IF_ERROR(CheckPositive(path, "memory_gbytes_per_s", cluster.memory_gbytes_per_s()));
  RETURN_IF_ERROR(CheckPositive(path, "memory_gib", cluster.memory_gib()));
  RETURN_IF_ERROR(CheckPositive(path, "intra_node.gbytes_per_s", cluster.intra_node().gbytes_per_s()));
  return CheckPositive(path, "inter_node.gbytes_per_s", cluster.inter_node().gbytes_per_s());
}

}  // namespace

absl::StatusOr<ClusterFigures> LoadCluster(const std::string& path, Precision precision) {
  ASSIGN_OR_RETURN(const std::string text, ReadWholeFile(path, kMaxConfigBytes));
  config::Cluster cluster;
  const absl::Status parsed = ParseConfigText(text, path, &cluster);
  if (!parsed.ok()) return WithExitCode(parsed, ExitCode::kUsage);
  RETURN_IF_ERROR(CheckCluster(path, cluster, precision));
  ClusterFigures figures{.name = cluster.name().empty() ? path : PrintableName(cluster.name()),
                         .devices_are_cores = cluster.devices_are_cores(),
                         .devices_per_node = cluster.devices_per_node(),
                         .nodes = cluster.nodes()};
  figures.peak_flops = 1e9 * PeakOf(cluster, precision);
  figures.gemm_efficiency = cluster.gemm_efficiency();
  figures.attention_efficiency = cluster.attention_efficiency();
  figures.memory_bytes_per_second = 1e9 * cluster.memory_gbytes_per_s();
  figures.memory_bytes = static_cast<int64_t>(cluster.memory_gib() * (int64_t{1} << 30));
  figures.kernel_seconds = 1e-6 * cluster.kernel_us();
  figures.intra_node = ToLink(cluster.intra_node());
  figures.inter_node = ToLink(cluster.inter_node());
  return figures;
}

}  // namespace shardit
