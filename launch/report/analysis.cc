#include "launch/report/analysis.h"

#include <algorithm>
#include <map>
#include <set>

#include "launch/report/paper_results.h"

namespace shardit {
namespace {

// The identity that most evaluations have; of equally many, the one that comes first.
std::string CommonIdentity(const Sweep& sweep) {
  std::map<std::string, int64_t> counts;
  std::string common;
  for (const StudyRun& run : sweep.runs) {
    for (const Evaluation& evaluation : run.evaluations) {
      if (evaluation.score() != nullptr) ++counts[evaluation.identity];
    }
  }
  int64_t most = 0;
  for (const StudyRun& run : sweep.runs) {
    for (const Evaluation& evaluation : run.evaluations) {
      if (evaluation.score() == nullptr || counts[evaluation.identity] <= most) continue;
      most = counts[evaluation.identity];
      common = evaluation.identity;
    }
  }
  return common;
}

std::vector<DesignComparison> CompareDesigns(const std::vector<ScoredRun>& scored) {
  std::map<std::pair<std::string, int64_t>, DesignComparison> groups;
  for (const ScoredRun& each : scored) {
    DesignComparison& group = groups[{each.run->model, each.run->patch}];
    group.model = each.run->model;
    group.patch = each.run->patch;
    group.runs.push_back(each);
  }
  std::vector<DesignComparison> compared;
  for (auto& [key, group] : groups) {
    std::set<std::string> designs;
    for (const ScoredRun& each : group.runs) designs.insert(each.run->conditioning);
    if (designs.size() < 2) continue;
    std::stable_sort(group.runs.begin(), group.runs.end(), [](const ScoredRun& a, const ScoredRun& b) {
      return a.evaluation->score()->value < b.evaluation->score()->value;
    });
    compared.push_back(std::move(group));
  }
  return compared;
}

}  // namespace

ScoreRelation RelateScores(const std::vector<double>& gflops, const std::vector<double>& scores) {
  ScoreRelation relation{.n = static_cast<int64_t>(gflops.size())};
  const std::vector<double> log_gflops = Logs(gflops);
  relation.law = FitPowerLaw(gflops, scores);
  // A distance of 0 (samples that are the reference) has no logarithm.
  const bool positive = std::all_of(scores.begin(), scores.end(), [](double score) { return score > 0; });
  if (positive) relation.log_log = Pearson(log_gflops, Logs(scores));
  relation.log_linear = Pearson(log_gflops, scores);
  relation.spearman = Spearman(gflops, scores);
  return relation;
}

SweepAnalysis Analyse(const Sweep& sweep) {
  SweepAnalysis analysis{.identity = CommonIdentity(sweep)};
  std::vector<double> gflops, scores;
  for (const StudyRun& run : sweep.runs) {
    for (const Evaluation& evaluation : run.evaluations) {
      if (evaluation.score() == nullptr) continue;
      if (!analysis.Comparable(evaluation)) {
        ++analysis.evaluations_left_out;
      } else {
        analysis.score_name = evaluation.score_name();
      }
    }
    const Evaluation* final = run.final_evaluation();
    if (final == nullptr || !analysis.Comparable(*final) || !run.gmacs_forward.has_value()) continue;
    analysis.scored.push_back({&run, final});
    if (!run.in_main_grid()) continue;
    gflops.push_back(*run.gmacs_forward);
    scores.push_back(final->score()->value);
  }
  analysis.by_gflops = RelateScores(gflops, scores);
  analysis.designs = CompareDesigns(analysis.scored);
  return analysis;
}

ScoreRelation PaperRelation() {
  std::vector<double> gflops, scores;
  for (const PaperResult& model : kPaperModels) {
    gflops.push_back(model.gflops);
    scores.push_back(model.fid);
  }
  return RelateScores(gflops, scores);
}

double TrainingGflops(const StudyRun& run, const Evaluation& evaluation) {
  return 3 * run.gmacs_forward.value_or(0) * static_cast<double>(evaluation.images);
}

}  // namespace shardit
