// How a subcommand joins the program: one file launch/<name>_command.cc that defines Add<Name>Command, found by CMake.
//
// A command declares its options and hands in what to run. Commands that report or convert run on one rank: under
// mpirun the other ranks leave at once with success. Commands that train or sample run on every rank and return the
// same status on each. The program prints an error once, as one line on standard error, and leaves with its exit code.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "parallel/comm/world.h"

namespace shardit {

class CommandLine {
 public:
  CommandLine();
  CommandLine(const CommandLine&) = delete;
  CommandLine& operator=(const CommandLine&) = delete;

  CLI::App& app() { return app_; }

  // A subcommand whose --help ends with `example`. `parent` null: of the program itself.
  CLI::App* Add(const std::string& name, const std::string& description, const std::string& example,
                CLI::App* parent = nullptr);

  // What a subcommand runs. `run` may refer to variables that `Keep` made.
  void OnOneRank(CLI::App* command, std::function<absl::Status()> run);
  void OnEveryRank(CLI::App* command, std::function<absl::Status(World&)> run);

  // Storage for a command's options, living as long as the command line.
  template <class T>
  T* Keep() {
    auto value = std::make_shared<T>();
    kept_.push_back(value);
    return value.get();
  }

  // Parses, runs the chosen command and returns the exit code of the process.
  int Run(int argc, char** argv);

 private:
  int Finish(const absl::Status& status, bool speak) const;

  CLI::App app_;
  std::vector<std::shared_ptr<void>> kept_;
  std::function<absl::Status()> on_one_rank_;
  std::function<absl::Status(World&)> on_every_rank_;
};

// Options --config and --set, shared by the commands that read configurations.
struct ConfigFlags {
  std::vector<std::string> files;
  std::vector<std::string> sets;
};
void AddConfigFlags(CLI::App* command, ConfigFlags* flags, bool required);

// Prints `text` and a newline on standard output; Unavailable (exit code 74) when that fails (disk full, closed pipe).
absl::Status Print(const std::string& text);

}  // namespace shardit
