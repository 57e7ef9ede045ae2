// The figures of a sweep's scores. Each is absent where there is nothing to draw.
#pragma once

#include <optional>
#include <string>

#include "launch/report/analysis.h"
#include "launch/report/gnuplot.h"
#include "launch/report/study.h"

namespace shardit {

// Score against forward Gflops: every run's final evaluation with its interval, and the fitted law.
std::optional<FigureScript> ScoreByGflopsFigure(const Sweep& sweep, const SweepAnalysis& analysis);

// Score against training compute: every comparable evaluation, those of a run linked.
std::optional<FigureScript> ScoreByComputeFigure(const Sweep& sweep, const SweepAnalysis& analysis);

// The paper's twelve models with their own law; the sweep's beside them where its score is FID too.
FigureScript PaperFigure(const SweepAnalysis& analysis);

// Conditioning designs at equal size and patch.
std::optional<FigureScript> DesignsFigure(const Sweep& sweep, const SweepAnalysis& analysis);

// "FD = 12.3 · G^-0.45" with errors: the law in words, for captions and keys.
std::string LawText(const PowerLaw& law, const std::string& score);

}  // namespace shardit
