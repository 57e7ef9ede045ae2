// Makes the report of a study's folder: one HTML page, a table and a document for machines, and the figures one by one.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "launch/report/page.h"

namespace shardit {

struct ReportOptions {
  std::string folder;   // of the study
  std::string out;      // the page; report.csv and report.json get its name with their ending
  std::string figures;  // folder of the SVG files
  std::string version;
  std::string command;  // that was typed
};

// Reads the study, computes and draws. Where gnuplot is missing or fails, figures are missing and the study's problems
// say so; NotFound (exit code 65) where there is no study.
absl::StatusOr<ReportContent> MakeReport(const ReportOptions& options);

// Writes the files, each atomically, folders as needed. The same content gives the same bytes. Figures of an earlier
// report that this one does not have stay.
absl::Status WriteReport(const ReportContent& content, const ReportOptions& options);

}  // namespace shardit
