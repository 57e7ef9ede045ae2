// Trains every layout of tests/trainer/layout_grid.h on thread-ranks and compares it with one rank. Prints a line a
// layout, and writes the table as JSON and as a page of documentation. Exit code 1 where a layout is not the same run.
//
//   layout_grid [--steps 10] [--only TEXT] [--gpu] [--json FILE] [--markdown FILE]
//
// With --gpu ranks compute in fp32 on GPUs, rank r on device r modulo their number, and are compared with one CPU rank.
#include "tests/trainer/layout_grid.h"

#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "core/base/file.h"
#include "core/cuda/device_query.h"

namespace shardit {
namespace {

struct Options {
  int steps = 10;
  std::string only, json, markdown;
  bool gpu = false;
};

struct Row {
  LayoutCase layout;
  LayoutDistance distance;
  DataBytes sent;          // in a step, by all ranks together
  int64_t peak_bytes = 0;  // of the fullest rank

  bool passed() const {
    return distance.loss <= kLayoutTolerance && distance.norm <= kLayoutTolerance &&
           distance.gradient <= kLayoutTolerance && distance.same_bits.value_or(true);
  }
};

Row RowOf(const LayoutCase& layout, const LayoutComparison::Result& result) {
  Row row{.layout = layout, .distance = result.distance};
  for (const LayoutOutcome::Rank& rank : result.outcome.ranks) {
    row.sent.dp += rank.sent.dp;
    row.sent.tp += rank.sent.tp;
    row.sent.pp += rank.sent.pp;
    row.peak_bytes = std::max(row.peak_bytes, rank.memory.peak_bytes_in_use);
  }
  return row;
}

std::vector<std::string> Cells(const Row& row) {
  const LayoutDistance& distance = row.distance;
  const auto kib = [](int64_t bytes) { return absl::StrFormat("%.1f", static_cast<double>(bytes) / 1024); };
  return {row.layout.Text(),
          absl::StrCat(row.layout.world()),
          absl::StrFormat("%.1e", distance.loss),
          absl::StrFormat("%.1e", distance.norm),
          absl::StrFormat("%.1e", distance.gradient),
          !distance.same_bits.has_value() ? ""
          : *distance.same_bits           ? "yes"
                                          : "NO",
          kib(row.sent.dp),
          kib(row.sent.tp),
          kib(row.sent.pp),
          kib(row.peak_bytes)};
}

std::string Markdown(const Options& options, const std::vector<Row>& rows) {
  Row worst;
  for (const Row& row : rows) {
    worst.distance.loss = std::max(worst.distance.loss, row.distance.loss);
    worst.distance.norm = std::max(worst.distance.norm, row.distance.norm);
    worst.distance.gradient = std::max(worst.distance.gradient, row.distance.gradient);
  }
  std::string page = absl::StrFormat(
      "# The layout grid\n\n"
      "Made by `tests/bench/layout_grid`, which `launch/test.sh --long` runs: a DiT of depth 6, width 48 and 12 heads, "
      "batches of\n%d, %d steps, on ranks that are threads. Distances are relative, and from one rank that takes the "
      "whole batch at once:\nthe worst loss and gradient norm of any step; the worst tensor's gradient, gathered, in "
      "the "
      "2-norm, in the first step.\nBits: a pipeline alone against one rank with the same micro-batches, losses, norms, "
      "gradients and state. KiB sent\nin a step by all ranks together along each axis; peak KiB of the fullest "
      "rank.\n\n"
      "%d layouts; worst distances: loss %.1e, norm %.1e, gradient %.1e; allowed 1e-5.\n\n",
      kLayoutBatch, options.steps, rows.size(), worst.distance.loss, worst.distance.norm, worst.distance.gradient);
  page +=
      "| layout | world | loss | norm | gradient | same bits | dp KiB | tp KiB | pp KiB | peak KiB |\n"
      "|---|--:|--:|--:|--:|---|--:|--:|--:|--:|\n";
  for (const Row& row : rows) absl::StrAppend(&page, "| ", absl::StrJoin(Cells(row), " | "), " |\n");
  return page;
}

nlohmann::ordered_json Json(const std::vector<Row>& rows) {
  nlohmann::ordered_json all = nlohmann::ordered_json::array();
  for (const Row& row : rows) {
    nlohmann::ordered_json one = {{"layout", row.layout.Text()},
                                  {"world", row.layout.world()},
                                  {"loss_distance", row.distance.loss},
                                  {"norm_distance", row.distance.norm},
                                  {"gradient_distance", row.distance.gradient},
                                  {"worst_gradient", row.distance.gradient_name},
                                  {"bytes_sent", {{"dp", row.sent.dp}, {"tp", row.sent.tp}, {"pp", row.sent.pp}}},
                                  {"peak_bytes", row.peak_bytes}};
    if (row.distance.same_bits.has_value()) one["same_bits"] = *row.distance.same_bits;
    all.push_back(std::move(one));
  }
  return all;
}

bool Write(const std::string& path, const std::string& text) {
  if (path.empty()) return true;
  const absl::Status written = AtomicWriteFile(PosixFileSystem(), path, text);
  if (!written.ok()) std::fprintf(stderr, "%s\n", std::string(written.message()).c_str());
  return written.ok();
}

int Run(const Options& options) {
  if (options.gpu && cuda::Devices().empty()) {
    std::fprintf(stderr, "no GPU: %s\n", cuda::WhyNoDevice().c_str());
    return 1;
  }
  LayoutComparison comparison;
  std::vector<Row> rows;
  bool passed = true;
  for (LayoutCase layout : LayoutGrid()) {
    if (layout.Text().find(options.only) == std::string::npos) continue;
    layout.steps = options.steps;
    if (options.gpu) layout.gpu = OnGpu{};
    rows.push_back(RowOf(layout, comparison.Compare(layout)));
    passed = passed && rows.back().passed();
    std::fprintf(stderr, "%s  %s\n", rows.back().passed() ? "ok    " : "FAILED",
                 absl::StrJoin(Cells(rows.back()), "  ").c_str());
  }
  passed = Write(options.json, Json(rows).dump(2) + "\n") && passed;
  passed = Write(options.markdown, Markdown(options, rows)) && passed;
  return passed && !rows.empty() ? 0 : 1;
}

}  // namespace
}  // namespace shardit

int main(int argc, char** argv) {
  shardit::Options options;
  CLI::App app("Trains a grid of layouts and compares each with one rank");
  app.add_option("--steps", options.steps, "steps of every run")->check(CLI::PositiveNumber);
  app.add_option("--only", options.only, "only layouts whose name has this text");
  app.add_flag("--gpu", options.gpu, "on GPUs");
  app.add_option("--json", options.json, "file for the table as JSON");
  app.add_option("--markdown", options.markdown, "file for the table as a page");
  CLI11_PARSE(app, argc, argv);
  return shardit::Run(options);
}
