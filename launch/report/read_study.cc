#include "launch/report/read_study.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "launch/report/json_fields.h"
#include "launch/report/parse_study.h"
#include "launch/report/text.h"
#include "launch/study/sweep_results.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

constexpr char kSweepDescription[] = "sweep.textproto";
constexpr char kSweepResults[] = "results.json";
constexpr char kScalingResults[] = "scaling.json";
constexpr int64_t kMaxMetricsBytes = int64_t{256} << 20;
constexpr int64_t kMaxGridBytes = int64_t{16} << 20;
constexpr absl::string_view kPngSignature = "\x89PNG\r\n\x1a\n";

// The first of `paths` that is a file and, with every link followed, lies below `study`, whose own path has no links:
// documents and links in a folder that came from elsewhere may name any file of this machine. The path returned has no
// links.
absl::StatusOr<std::string> FindBelow(const std::string& study, const std::vector<std::string>& paths) {
  bool outside = false;
  for (const std::string& path : paths) {
    std::error_code error;
    const std::string real = std::filesystem::canonical(path, error).string();
    if (error || KindOfPath(real) != PathKind::kFile) continue;
    if (absl::StartsWith(real, JoinPath(study, ""))) return real;
    outside = true;
  }
  return outside ? absl::PermissionDeniedError("lies outside the study's folder, and is not read")
                 : absl::NotFoundError("is missing");
}

std::string BaseName(const std::string& path) { return path.substr(path.rfind('/') + 1); }

// A path as a document in `folder` states it.
std::string StatedPath(const std::string& folder, const std::string& stated) {
  return absl::StartsWith(stated, "/") ? stated : JoinPath(folder, stated);
}

// Where a run's files may lie: below the study, or where the document says.
std::vector<std::string> RunFolders(const std::string& study, const std::string& name, const std::string& stated) {
  std::vector<std::string> folders;
  const bool one_component = !name.empty() && name != "." && name != ".." && !absl::StrContains(name, '/');
  if (one_component) folders.push_back(JoinPath(JoinPath(study, "runs"), name));
  if (!stated.empty()) folders.push_back(StatedPath(study, stated));
  return folders;
}

LossCurve ReadCurve(const std::string& study, const std::vector<std::string>& run_folders, const std::string& name,
                    std::vector<std::string>* problems) {
  std::vector<std::string> paths;
  for (const std::string& folder : run_folders) paths.push_back(JoinPath(folder, "metrics.jsonl"));
  const absl::StatusOr<std::string> path = FindBelow(study, paths);
  if (absl::IsPermissionDenied(path.status())) {
    problems->push_back(CleanText(absl::StrCat(name, ": metrics.jsonl ", path.status().message())));
  }
  if (!path.ok()) return LossCurve();
  const absl::StatusOr<std::string> text = ReadWholeFile(*path, kMaxMetricsBytes);
  return text.ok() ? ParseLossCurve(*text) : LossCurve();
}

void ReadGrid(const std::string& study, const std::vector<std::string>& run_folders, const std::string& stated,
              Evaluation* evaluation) {
  if (stated.empty()) return;
  std::vector<std::string> paths;
  for (const std::string& folder : run_folders) {
    paths.push_back(StatedPath(folder, stated));
    paths.push_back(JoinPath(JoinPath(folder, "evaluation"), BaseName(stated)));
  }
  paths.push_back(StatedPath(study, stated));
  const absl::StatusOr<std::string> path = FindBelow(study, paths);
  if (!path.ok()) {
    evaluation->grid_problem = absl::StrCat("the picture of samples ", path.status().message());
    return;
  }
  absl::StatusOr<std::string> png = ReadWholeFile(*path, kMaxGridBytes);
  if (!png.ok()) {
    evaluation->grid_problem = CleanText(png.status().message());
  } else if (!absl::StartsWith(*png, kPngSignature)) {
    evaluation->grid_problem = "the picture of samples is not a PNG file";
  } else {
    evaluation->grid_png = *std::move(png);
  }
}

// Collected from the runs where the sweep's description is there; else as the sweep left it.
absl::StatusOr<Json> SweepDocument(const std::string& folder, std::vector<std::string>* problems) {
  if (KindOfPath(JoinPath(folder, kSweepDescription)) == PathKind::kFile) {
    absl::StatusOr<Json> collected = CollectSweep(folder);
    if (collected.ok()) return collected;
    problems->push_back(CleanText(absl::StrCat("results.json may be out of date: ", collected.status().message())));
  }
  return ReadJsonObject(JoinPath(folder, kSweepResults));
}

absl::StatusOr<Sweep> ReadSweep(const std::string& folder, std::vector<std::string>* problems) {
  ASSIGN_OR_RETURN(const Json document, SweepDocument(folder, problems));
  std::vector<std::vector<std::string>> grids;
  Sweep sweep = ParseSweep(document, &grids);
  sweep.folder = folder;
  if (sweep.name.empty()) sweep.name = CleanText(BaseName(folder));
  std::error_code error;
  const std::string real = std::filesystem::canonical(folder, error).string();
  if (error) return ErrnoStatus(error.value(), absl::StrCat("cannot open ", Quoted(folder)));
  for (size_t r = 0; r < sweep.runs.size(); ++r) {
    StudyRun& run = sweep.runs[r];
    const std::vector<std::string> folders = RunFolders(real, run.name, run.folder);
    run.curve = ReadCurve(real, folders, run.name, problems);
    for (size_t e = 0; e < run.evaluations.size(); ++e) {
      ReadGrid(real, folders, grids[r][e], &run.evaluations[e]);
    }
  }
  return sweep;
}

absl::StatusOr<Scaling> ReadScaling(const std::string& folder) {
  ASSIGN_OR_RETURN(const Json document, ReadJsonObject(JoinPath(folder, kScalingResults)));
  Scaling scaling = ParseScaling(document);
  scaling.folder = folder;
  if (scaling.name.empty()) scaling.name = CleanText(BaseName(folder));
  return scaling;
}

void ReadFolder(const std::string& folder, Study* study) {
  const auto keep = [&](auto read, auto* list) {
    if (read.ok()) {
      list->push_back(*std::move(read));
    } else {
      study->problems.push_back(CleanText(read.status().message()));
    }
  };
  const auto has = [&](const char* name) { return KindOfPath(JoinPath(folder, name)) != PathKind::kMissing; };
  if (has(kSweepDescription) || has(kSweepResults)) keep(ReadSweep(folder, &study->problems), &study->sweeps);
  if (has(kScalingResults)) keep(ReadScaling(folder), &study->scalings);
}

}  // namespace

absl::StatusOr<Study> ReadStudy(const std::string& folder) {
  Study study{.folder = folder};
  ASSIGN_OR_RETURN(const std::vector<FolderEntry> entries, ListFolder(folder));
  ReadFolder(folder, &study);
  for (const FolderEntry& entry : entries) {
    if (entry.kind == PathKind::kFolder) ReadFolder(JoinPath(folder, entry.name), &study);
  }
  if (!study.sweeps.empty() || !study.scalings.empty()) return study;
  const std::string why =
      study.problems.empty() ? absl::StrCat(Quoted(folder), ": no results.json or scaling.json here or one level below")
                             : study.problems.front();
  return WithExitCode(absl::NotFoundError(absl::StrCat(
                          why, "; expected the folder of a study that `shardit sweep` or `shardit scaling` wrote")),
                      ExitCode::kBadData);
}

}  // namespace shardit
