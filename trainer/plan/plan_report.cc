#include "trainer/plan/plan_report.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"

namespace shardit {
namespace {

constexpr int kChartRows = 16;

std::string Text(std::string_view view) { return std::string(view); }

// Three digits and a unit.
std::string Amount(double value, double step, const std::array<const char*, 5>& units) {
  size_t unit = 0;
  for (; unit + 1 < units.size() && value >= 999.5; ++unit) value /= step;
  return absl::StrFormat(value == std::floor(value) && unit == 0 ? "%.0f %s" : "%.3g %s", value, units[unit]);
}
std::string Bytes(double value) { return Amount(value, 1024, {"B", "KiB", "MiB", "GiB", "TiB"}); }

std::string Seconds(double seconds) {
  if (seconds >= 1) return absl::StrFormat("%.3g s", seconds);
  return seconds >= 1e-3 ? absl::StrFormat("%.3g ms", 1e3 * seconds) : absl::StrFormat("%.3g us", 1e6 * seconds);
}

std::string UnitsOf(const RankPlan& rank) {
  std::string text;
  for (const UnitRange& part : rank.parts)
    absl::StrAppend(&text, text.empty() ? "" : ",", part.begin, "-", part.end - 1);
  return text;
}

std::vector<MemoryOwner> Owners() {
  std::vector<MemoryOwner> owners;
  for (int i = 0; i < kMemoryOwners; ++i) owners.push_back(static_cast<MemoryOwner>(i));
  return owners;
}

int64_t Of(const RankPlan& rank, MemoryOwner owner) { return rank.memory.peak_by_owner[static_cast<size_t>(owner)]; }

struct StepPart {
  const char* key;
  const char* name;
  double StepEstimate::*seconds;
};
constexpr StepPart kStepParts[] = {{"compute_ms", "compute", &StepEstimate::compute},
                                   {"tp_exposed_ms", "tensor-parallel waits", &StepEstimate::tp_exposed},
                                   {"pp_bubble_ms", "pipeline bubble", &StepEstimate::pp_bubble},
                                   {"dp_exposed_ms", "data-parallel waits", &StepEstimate::dp_exposed},
                                   {"optimizer_ms", "optimizer", &StepEstimate::optimizer},
                                   {"shared_cores_ms", "waiting for shared cores", &StepEstimate::shared_cores}};

void AddMemory(const RunPlan& plan, std::string* text) {
  absl::StrAppendFormat(text, "\nMemory of a rank at its peak%s\n%-6s %-12s", plan.fits ? "" : " (does not fit)",
                        "stage", "units");
  for (const MemoryOwner owner : Owners()) absl::StrAppendFormat(text, " %11s", Text(Name(owner)));
  absl::StrAppendFormat(text, " %11s\n", "total");
  const size_t step = std::max<size_t>(1, plan.ranks.size() / kChartRows);
  for (size_t i = 0; i < plan.ranks.size(); i += step) {
    const RankPlan& rank = plan.ranks[i];
    std::string units = UnitsOf(rank);
    if (units.size() > 12) units = units.substr(0, 10) + "..";
    absl::StrAppendFormat(text, "%-6d %-12s", rank.coords.pp, units);
    for (const MemoryOwner owner : Owners()) {
      absl::StrAppendFormat(text, " %11s", Bytes(static_cast<double>(Of(rank, owner))));
    }
    absl::StrAppendFormat(text, " %11s\n", Bytes(static_cast<double>(rank.memory.peak_bytes_in_use)));
  }
}

void AddBytes(const RunPlan& plan, std::string* text) {
  const RankPlan& rank = plan.ranks.front();
  const ClosedForms& forms = plan.formulas.front();
  absl::StrAppend(text, "\nBytes sent in a step by rank 0 (P ", rank.padded, " elements, m ", plan.micro_batches,
                  ")\n");
  const auto line = [&](const char* axis, int64_t data, int64_t all, const AxisFormula& form) {
    absl::StrAppendFormat(text, "%-3s %15d  with control %15d  formula %17.0f = %s\n", axis, data, all, form.bytes,
                          form.text);
  };
  line("dp", rank.sent_data.dp, rank.sent.dp, forms.dp);
  line("tp", rank.sent_data.tp, rank.sent.tp, forms.tp);
  line("pp", rank.sent_data.pp, rank.sent.pp, forms.pp);
}

void AddStep(const RunPlan& plan, const ClusterFigures& figures, std::string* text) {
  const StepEstimate& step = plan.step;
  absl::StrAppend(text, "\nStep on ", figures.name, ", ", plan.placement.nodes,
                  plan.placement.nodes == 1 ? " node of " : " nodes of ", plan.placement.ranks_per_node,
                  " ranks: ", Seconds(step.total), "\n");
  for (const StepPart& part : kStepParts) {
    if (step.*part.seconds <= 0) continue;
    absl::StrAppendFormat(text, "  %-26s %9s  %4.1f%%\n", part.name, Seconds(step.*part.seconds),
                          100 * step.*part.seconds / step.total);
  }
  absl::StrAppendFormat(text, "  %.4g images/s, %.3g TFLOP/s, MFU %.1f%%\n", step.images_per_second,
                        1e-12 * step.model_flops_per_second, 100 * step.mfu);
}

nlohmann::ordered_json LayoutJson(const ParallelOptions& parallel, int64_t micro_batch) {
  const char* const recompute[] = {"NONE", "SELECTIVE", "FULL"};
  return {{"dp", parallel.dp},
          {"tp", parallel.tp},
          {"pp", parallel.pp},
          {"zero_stage", parallel.zero_stage},
          {"sequence_parallel", parallel.sequence_parallel},
          {"schedule", Text(Name(parallel.schedule))},
          {"virtual_stages", parallel.virtual_stages},
          {"recompute", recompute[static_cast<int>(parallel.recompute)]},
          {"micro_batch", micro_batch}};
}

nlohmann::ordered_json AxisJson(int64_t dp, int64_t tp, int64_t pp) { return {{"dp", dp}, {"tp", tp}, {"pp", pp}}; }

nlohmann::ordered_json OwnersJson(const RankPlan& rank) {
  nlohmann::ordered_json bytes;
  for (const MemoryOwner owner : Owners()) bytes[Text(Name(owner))] = Of(rank, owner);
  bytes["total"] = rank.memory.peak_bytes_in_use;
  return bytes;
}

nlohmann::ordered_json RankJson(const RankPlan& rank, const ClosedForms& forms) {
  nlohmann::ordered_json units = nlohmann::ordered_json::array();
  for (const UnitRange& part : rank.parts) units.push_back({part.begin, part.end});
  nlohmann::ordered_json json{{"pp", rank.coords.pp},
                              {"units", units},
                              {"parameters", rank.parameters},
                              {"peak_bytes", rank.memory.peak_bytes_in_use},
                              {"bytes", OwnersJson(rank)},
                              {"bytes_sent", AxisJson(rank.sent.dp, rank.sent.tp, rank.sent.pp)},
                              {"data_bytes_sent", AxisJson(rank.sent_data.dp, rank.sent_data.tp, rank.sent_data.pp)}};
  json["formula"] = {{"dp", forms.dp.bytes}, {"tp", forms.tp.bytes}, {"pp", forms.pp.bytes}};
  nlohmann::ordered_json parts = nlohmann::ordered_json::array();
  for (const StageCost& cost : rank.costs) {
    parts.push_back(
        {{"forward_ms", 1e3 * cost.forward}, {"backward_ms", 1e3 * cost.backward}, {"weights_ms", 1e3 * cost.weights}});
  }
  json["passes"] = parts;
  return json;
}

nlohmann::ordered_json KernelsJson(const RankPlan& rank) {
  nlohmann::ordered_json kernels;
  for (const auto& [name, total] : rank.kernels) {
    kernels[Text(name)] = {
        {"calls", total.calls}, {"flops", total.flops}, {"bytes", total.bytes}, {"ms", 1e3 * total.seconds}};
  }
  return kernels;
}

nlohmann::ordered_json ClusterJson(const ClusterFigures& figures) {
  const auto link = [](const LinkFigures& figures) {
    return nlohmann::ordered_json{{"latency_us", 1e6 * figures.latency_seconds},
                                  {"gbytes_per_s", 1e-9 * figures.bytes_per_second}};
  };
  return {{"name", figures.name},
          {"devices_are_cores", figures.devices_are_cores},
          {"devices_per_node", figures.devices_per_node},
          {"peak_gflops", 1e-9 * figures.peak_flops},
          {"gemm_efficiency", figures.gemm_efficiency},
          {"attention_efficiency", figures.attention_efficiency},
          {"memory_gbytes_per_s", 1e-9 * figures.memory_bytes_per_second},
          {"memory_bytes", figures.memory_bytes},
          {"kernel_us", 1e6 * figures.kernel_seconds},
          {"intra_node", link(figures.intra_node)},
          {"inter_node", link(figures.inter_node)}};
}

char Mark(const PipelineAction& action) {
  switch (action.kind) {
    case ActionKind::kForward:
      return static_cast<char>('0' + action.micro_batch % 10);
    case ActionKind::kBackward:
    case ActionKind::kBackwardInput:
      return static_cast<char>('a' + action.micro_batch % 10);
    case ActionKind::kWeights:
      return 'w';
  }
  return '?';
}

}  // namespace

std::string PipelineChart(const RunPlan& plan, int columns) {
  const SimulatedPipeline& chart = plan.chart;
  const size_t ranks = chart.ranks.size(), step = std::max<size_t>(1, (ranks + kChartRows - 1) / kChartRows);
  std::string text;
  for (size_t rank = 0; rank < ranks; rank += step) {
    std::string row(static_cast<size_t>(columns), '.');
    for (const SimulatedSpan& span : chart.ranks[rank]) {
      const double scale = columns / chart.makespan;
      const size_t begin = static_cast<size_t>(std::lround(span.begin * scale));
      const size_t end = std::min(row.size(), static_cast<size_t>(std::lround(span.end * scale)));
      for (size_t i = begin; i < end; ++i) row[i] = Mark(span.action);
    }
    absl::StrAppendFormat(&text, "%4d |%s|\n", rank, row);
  }
  return text;
}

std::string PlanText(const RunPlan& plan, const ClusterFigures& figures) {
  std::string text = absl::StrCat(
      "ranks            ", plan.shape.ranks(), "\n",  //
      "layout           ", LayoutName(plan.options.parallel, plan.options.train.micro_batch),
      "\n",                                        //
      "parameters       ", plan.parameters, "\n",  //
      "micro-batches    ", plan.micro_batches, " of ", plan.options.train.micro_batch, " images a rank and step\n");
  AddMemory(plan, &text);
  AddBytes(plan, &text);
  if (plan.shape.pp > 1) {
    absl::StrAppendFormat(&text, "\nPipeline, %s, first micro-batches (0-9 forward, a-j backward, w weights, . idle)\n",
                          Text(Name(plan.options.parallel.schedule)));
    absl::StrAppend(&text, PipelineChart(plan));
  }
  AddStep(plan, figures, &text);
  return text;
}

std::string SearchText(const LayoutSearchResult& result) {
  std::string text = absl::StrCat("Best layout\n  ", result.why_best, "\n\nPlanned\n");
  for (const RunPlan& plan : result.finalists) {
    absl::StrAppendFormat(&text, "  %9s  %10s  %s\n", Seconds(plan.step.total),
                          Bytes(static_cast<double>(plan.largest().memory.peak_bytes_in_use)),
                          LayoutName(plan.options.parallel, plan.options.train.micro_batch));
  }
  absl::StrAppend(&text, "\nBest of each kind, estimated\n");
  for (const LayoutFamily& family : result.families) {
    absl::StrAppendFormat(&text, "  %-30s %s\n", family.name, family.why_not);
    if (family.possible) {
      absl::StrAppendFormat(&text, "  %-30s %s\n", "", LayoutName(family.best.parallel, family.best.micro_batch));
    }
  }
  return text + "\n";
}

nlohmann::ordered_json PlanJson(const RunPlan& plan, const ClusterFigures& figures) {
  nlohmann::ordered_json json;
  json["model"] = {{"name", plan.options.model.name},
                   {"conditioning", Text(Name(plan.options.model.conditioning))},
                   {"parameters", plan.parameters}};
  json["parameters"] = plan.parameters;
  json["world"] = plan.shape.ranks();
  json["layout"] = LayoutJson(plan.options.parallel, plan.options.train.micro_batch);
  json["micro_batches"] = plan.micro_batches;
  json["fits"] = plan.fits;
  json["peak_bytes"] = plan.largest().memory.peak_bytes_in_use;
  json["bytes_per_rank"] = OwnersJson(plan.largest());
  const RankPlan& first = plan.ranks.front();
  json["bytes_sent"] = AxisJson(first.sent.dp, first.sent.tp, first.sent.pp);
  json["formulas"] = {{"dp", plan.formulas.front().dp.text},
                      {"tp", plan.formulas.front().tp.text},
                      {"pp", plan.formulas.front().pp.text}};
  json["ranks"] = nlohmann::ordered_json::array();
  for (size_t i = 0; i < plan.ranks.size(); ++i) json["ranks"].push_back(RankJson(plan.ranks[i], plan.formulas[i]));
  nlohmann::ordered_json& step = json["step"];
  step["step_ms"] = 1e3 * plan.step.total;
  for (const StepPart& part : kStepParts) step[part.key] = 1e3 * plan.step.*part.seconds;
  step["images_per_s"] = plan.step.images_per_second;
  step["tflops"] = 1e-12 * plan.step.model_flops_per_second;
  step["mfu"] = plan.step.mfu;
  json["kernels"] = KernelsJson(first);
  json["pipeline"] = {{"schedule", Text(Name(plan.options.parallel.schedule))},
                      {"idle_fraction", plan.chart.idle_fraction},
                      {"chart", PipelineChart(plan)}};
  json["cluster"] = ClusterJson(figures);
  return json;
}

nlohmann::ordered_json SearchJson(const LayoutSearchResult& result) {
  nlohmann::ordered_json json{
      {"why", result.why_best}, {"estimated", result.estimated}, {"too_large", result.too_large}};
  json["planned"] = nlohmann::ordered_json::array();
  for (const RunPlan& plan : result.finalists) {
    nlohmann::ordered_json row = LayoutJson(plan.options.parallel, plan.options.train.micro_batch);
    row["step_ms"] = 1e3 * plan.step.total;
    row["peak_bytes"] = plan.largest().memory.peak_bytes_in_use;
    json["planned"].push_back(row);
  }
  json["kinds"] = nlohmann::ordered_json::array();
  for (const LayoutFamily& family : result.families) {
    nlohmann::ordered_json row{{"kind", family.name}, {"why_not", family.why_not}};
    if (family.possible) {
      row["layout"] = LayoutJson(family.best.parallel, family.best.micro_batch);
      row["step_ms"] = 1e3 * family.best.seconds;
      row["peak_bytes"] = family.best.peak_bytes;
      row["fits"] = family.best.fits;
    }
    json["kinds"].push_back(row);
  }
  return json;
}

}  // namespace shardit
