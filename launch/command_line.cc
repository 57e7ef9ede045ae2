#include "launch/command_line.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <new>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "launch/build_info.h"
#include "trainer/faults/start_deadline.h"
#include "trainer/metrics/status_line.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

// 80 columns: names and types to the left, descriptions of at most 51 bytes to the right.
constexpr size_t kNameColumn = 28;

// Within which all ranks must have started; SHARDIT_START_SECONDS says otherwise.
constexpr double kStartSeconds = 300.0;

// Rank of this process as the launcher tells it, before MPI starts; 0 without a launcher.
int LaunchRank() {
  for (const char* variable : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"}) {
    if (const char* rank = std::getenv(variable); rank != nullptr) return std::atoi(rank);
  }
  return 0;
}

// CLI11 says some errors on several lines. Names from outside are mostly quoted and escaped by whoever reports them;
// what could still move a terminal's cursor is escaped here.
std::string OneLine(const std::string& text) {
  std::string line;
  for (const char c : text.substr(0, text.find_last_not_of('\n') + 1)) {
    if (c == '\n') {
      line += ' ';
    } else if (absl::ascii_isprint(static_cast<unsigned char>(c))) {
      line += c;
    } else {
      absl::StrAppend(&line, "\\x", absl::Hex(static_cast<unsigned char>(c), absl::kZeroPad2));
    }
  }
  return line;
}

std::string CommandPath(const CLI::App& app) {
  std::string path = app.get_name();
  for (const CLI::App* parent = app.get_parent(); parent != nullptr; parent = parent->get_parent()) {
    path = absl::StrCat(parent->get_name(), " ", path);
  }
  return path;
}

// The innermost subcommand that was named, for the hint in an error.
const CLI::App& ChosenCommand(const CLI::App& app) {
  const CLI::App* chosen = &app;
  while (!chosen->get_subcommands().empty()) chosen = chosen->get_subcommands().front();
  return *chosen;
}

}  // namespace

CommandLine::CommandLine() : app_("Trains Diffusion Transformers on many devices.", "shardit") {
  app_.set_version_flag("--version", std::string(kVersionText), "Print version, commit and build options");
  app_.get_formatter()->column_width(kNameColumn);
  app_.require_subcommand(1);
  app_.footer("\nExample:\n  mpirun -n 2 shardit train --config configs/fashion_mnist.textproto");
}

CLI::App* CommandLine::Add(const std::string& name, const std::string& description, const std::string& example,
                           CLI::App* parent) {
  CLI::App* command = (parent == nullptr ? &app_ : parent)->add_subcommand(name, description);
  command->footer("\nExample:\n  " + example);
  return command;
}

void CommandLine::OnOneRank(CLI::App* command, std::function<absl::Status()> run) {
  command->final_callback([this, run = std::move(run)] { on_one_rank_ = run; });
}

void CommandLine::OnEveryRank(CLI::App* command, std::function<absl::Status(World&)> run) {
  command->final_callback([this, run = std::move(run)] { on_every_rank_ = run; });
}

int CommandLine::Finish(const absl::Status& status, bool speak) const {
  if (!status.ok() && speak) {
    std::fprintf(stderr, "shardit: %s\n", OneLine(std::string(status.message())).c_str());
  }
  return static_cast<int>(ExitCodeOf(status));
}

namespace {

// Our own code throws nothing; the libraries do where memory ends, or where a file says what nobody foresaw.
absl::Status Caught(const std::function<absl::Status()>& run, bool* threw) {
  try {
    return run();
  } catch (const std::bad_alloc&) {
    *threw = true;
    return absl::ResourceExhaustedError("out of memory");
  } catch (const std::exception& error) {
    *threw = true;
    return absl::InternalError(error.what());
  }
}

}  // namespace

int CommandLine::Run(int argc, char** argv) {
  const int launch_rank = LaunchRank();
  try {
    app_.parse(argc, argv);
  } catch (const CLI::Success& help_or_version) {
    return launch_rank == 0 ? app_.exit(help_or_version) : 0;
  } catch (const CLI::ParseError& error) {
    const CLI::App& chosen = ChosenCommand(app_);
    std::string what = error.what();
    // A word that nothing takes shows as something else that is missing.
    const std::vector<std::string> unknown = chosen.remaining();
    if (error.get_name() == "RequiredError" && !unknown.empty()) {
      const std::string& word = unknown.front();
      const bool takes_commands = !chosen.get_subcommands([](const CLI::App*) { return true; }).empty();
      if (absl::StartsWith(word, "-")) {
        what = absl::StrCat("unknown option ", word);
      } else if (takes_commands) {
        what = absl::StrCat("unknown command ", word);
      } else {
        absl::StrAppend(&what, ", and got ", word, " that belongs to no option");
      }
    }
    const absl::Status status =
        absl::InvalidArgumentError(absl::StrCat(what, "; see ", CommandPath(chosen), " --help"));
    return Finish(WithExitCode(status, ExitCode::kUsage), launch_rank == 0);
  }
  InstallLogger(launch_rank);
  bool threw = false;
  if (on_one_rank_) return launch_rank == 0 ? Finish(Caught(on_one_rank_, &threw), true) : 0;
  std::optional<StartDeadline> deadline;
  deadline.emplace(StartDeadlineOptions{.seconds = StartSeconds(kStartSeconds), .folder = "."});
  absl::StatusOr<World> world = InitMpiWorld(&argc, &argv);
  deadline.reset();
  if (!world.ok()) return Finish(world.status(), true);
  const absl::Status status = Caught([&] { return on_every_rank_(*world); }, &threw);
  const int code = Finish(status, threw || world->rank() == 0);
  if (threw) world->Abort(code);  // the others may wait for this rank
  return code;
}

void AddConfigFlags(CLI::App* command, ConfigFlags* flags, bool required) {
  command->add_option("--config", flags->files, "Run description; later files win")
      ->type_name("FILE")
      ->required(required)
      ->allow_extra_args(false);
  command->add_option("--set", flags->sets, "Override, as section.field=value")
      ->type_name("A.B=V")
      ->allow_extra_args(false);
}

absl::Status Print(const std::string& text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fputc('\n', stdout) == EOF ||
      std::fflush(stdout) != 0) {
    return WithExitCode(ErrnoStatus(errno, "cannot write to standard output"), ExitCode::kIo);
  }
  return absl::OkStatus();
}

}  // namespace shardit
