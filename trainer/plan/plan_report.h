// A plan as people and programs read it.
#pragma once

#include <string>

#include "nlohmann/json_fwd.hpp"
#include "trainer/plan/layout_search.h"
#include "trainer/plan/run_plan.h"

namespace shardit {

// Sections of text: layout, memory of ranks by owner, bytes sent beside their closed forms, pipeline chart, step time.
// No line is longer than 120 columns.
std::string PlanText(const RunPlan& plan, const ClusterFigures& figures);
std::string SearchText(const LayoutSearchResult& result);

// The same as one object; `search` is added where there was one.
nlohmann::ordered_json PlanJson(const RunPlan& plan, const ClusterFigures& figures);
nlohmann::ordered_json SearchJson(const LayoutSearchResult& result);

// A row a rank: forward passes as digits (micro-batch mod 10), backward as letters (a for 0), deferred weight gradients
// as 'w', idle as '.'. Long pipelines show evenly spaced ranks.
std::string PipelineChart(const RunPlan& plan, int columns = 100);

}  // namespace shardit
