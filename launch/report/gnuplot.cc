#include "launch/report/gnuplot.h"

#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <memory>
#include <regex>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "core/base/status_macros.h"
#include "launch/report/text.h"
#include "launch/study/child_process.h"

namespace shardit {
namespace {

constexpr int64_t kMaxSvgBytes = int64_t{64} << 20;

// A folder for gnuplot's files that is gone afterwards.
class TemporaryFolder {
 public:
  static absl::StatusOr<std::unique_ptr<TemporaryFolder>> Make() {
    const char* parent = std::getenv("TMPDIR");
    std::string path = JoinPath(parent != nullptr && *parent != '\0' ? parent : "/tmp", "shardit-report-XXXXXX");
    if (mkdtemp(path.data()) == nullptr) return ErrnoStatus(errno, absl::StrCat("cannot make a folder ", Quoted(path)));
    return std::unique_ptr<TemporaryFolder>(new TemporaryFolder(std::move(path)));
  }
  ~TemporaryFolder() { RemoveTree(PosixFileSystem(), path_).IgnoreError(); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::string File(const char* name) const { return JoinPath(path_, name); }

 private:
  explicit TemporaryFolder(std::string path) : path_(std::move(path)) {}
  const std::string path_;
};

std::string WholeScript(const FigureScript& figure, const std::string& output) {
  return absl::StrCat("set encoding utf8\nset terminal svg size ", figure.width, ",", figure.height,
                      " fixed noenhanced font 'sans-serif,13' background 'white' name ", GnuplotString(figure.name),
                      "\nset output ", GnuplotString(output), "\n", figure.commands);
}

// Ids in a tag, and what refers to them. gnuplot numbers the plots of every panel from 1: those ids nobody refers to.
std::string RenameIds(const std::string& tag, const std::string& prefix) {
  static const std::regex plot_id(R"re( id="[^"]*_plot_[0-9]+" ?)re");
  static const std::regex id(R"re((\sid=|href=)(['"])(#?))re");
  static const std::regex reference(R"re(url\(#)re");
  std::string renamed = std::regex_replace(tag, plot_id, "");
  renamed = std::regex_replace(renamed, id, absl::StrCat("$1$2$3", prefix, "-"));
  return std::regex_replace(renamed, reference, absl::StrCat("url(#", prefix, "-"));
}

}  // namespace

std::string TidySvg(const std::string& raw, const FigureScript& figure) {
  std::string svg;
  size_t at = raw.find("<svg");
  bool has_title = false, in_title = false;
  while (at < raw.size()) {
    const size_t end = raw[at] == '<' ? raw.find('>', at) : raw.find('<', at) - 1;
    const std::string part = raw.substr(at, end == std::string::npos ? end : end - at + 1);
    at += part.size();
    if (absl::StartsWith(part, "<title")) {
      in_title = true;  // gnuplot's titles are names of plots, which browsers show under the mouse
      if (!has_title) absl::StrAppend(&svg, "<title>", HtmlText(figure.title), "</title>");
      has_title = true;
    } else if (absl::StartsWith(part, "</title")) {
      in_title = false;
    } else if (!in_title) {
      absl::StrAppend(&svg, part[0] == '<' ? RenameIds(part, figure.name) : part);
    }
  }
  return svg;
}

absl::StatusOr<std::string> DrawFigure(const FigureScript& figure) {
  ASSIGN_OR_RETURN(const std::unique_ptr<TemporaryFolder> folder, TemporaryFolder::Make());
  const std::string script = folder->File("script"), output = folder->File("figure.svg"), log = folder->File("log");
  RETURN_IF_ERROR(AtomicWriteFile(PosixFileSystem(), script, WholeScript(figure, output)));
  // -d: without the user's own settings.
  ASSIGN_OR_RETURN(const std::unique_ptr<ChildProcess> gnuplot,
                   ChildProcess::Start({.argv = {"gnuplot", "-d", script}, .log = log}));
  const ChildResult result = gnuplot->Wait();
  absl::StatusOr<std::string> raw = ReadWholeFile(output, kMaxSvgBytes);
  if (result.exit_code == 0 && raw.ok() && absl::StrContains(*raw, "</svg>")) return TidySvg(*raw, figure);
  return absl::InternalError(absl::StrCat("gnuplot drew no figure ", figure.name, ": exit code ", result.exit_code,
                                          result.last_error.empty() ? "" : ", ", result.last_error));
}

}  // namespace shardit
