// What a report computes of a sweep: which scores may be compared, how they follow from model size, and the designs
// side by side. Pointers go into the sweep, which outlives the analysis.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "launch/report/study.h"

namespace shardit {

// Score against forward Gflops (multiply-accumulates, as the paper counts them), one point a run.
struct ScoreRelation {
  int64_t n = 0;
  std::optional<PowerLaw> law;            // score = factor Gflops^exponent
  std::optional<Correlation> log_log;     // of log Gflops and log score
  std::optional<Correlation> log_linear;  // of log Gflops and score, the one that the paper states
  std::optional<Correlation> spearman;
};
ScoreRelation RelateScores(const std::vector<double>& gflops, const std::vector<double>& scores);

struct ScoredRun {
  const StudyRun* run = nullptr;
  const Evaluation* evaluation = nullptr;  // the run's final one
};

// Runs of one model and patch that differ in design: at least two designs.
struct DesignComparison {
  std::string model;
  int64_t patch = 0;
  std::vector<ScoredRun> runs;  // best score first
};

struct SweepAnalysis {
  std::string score_name;  // "fid", "fd", or "" where nothing was evaluated
  // Most evaluations agree in extractor, number of samples, sampler and all else that moves a score. Those that do not
  // are in the tables, and nowhere else.
  std::string identity;
  int64_t evaluations_left_out = 0;
  std::vector<ScoredRun> scored;  // runs with Gflops and a comparable final evaluation, in the study's order
  ScoreRelation by_gflops;        // of `scored`, those of the main grid
  std::vector<DesignComparison> designs;

  bool Comparable(const Evaluation& evaluation) const {
    return evaluation.score() != nullptr && evaluation.identity == identity;
  }
};
SweepAnalysis Analyse(const Sweep& sweep);

// Of the paper's twelve models.
ScoreRelation PaperRelation();

// The paper's measure of training compute up to an evaluation: Gflops x images x 3.
double TrainingGflops(const StudyRun& run, const Evaluation& evaluation);

}  // namespace shardit
