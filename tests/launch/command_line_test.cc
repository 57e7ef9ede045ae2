// What the program does with commands that throw.
#include "launch/command_line.h"

#include <new>
#include <stdexcept>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shardit {
namespace {

// Runs `shardit odd`, whose command is `run`; the exit code and what was printed on standard error.
std::pair<int, std::string> RunOdd(std::function<absl::Status()> run) {
  CommandLine line;
  line.OnOneRank(line.Add("odd", "Odd things", "shardit odd"), std::move(run));
  std::string program = "shardit", word = "odd";
  char* argv[] = {program.data(), word.data(), nullptr};
  ::testing::internal::CaptureStderr();
  const int code = line.Run(2, argv);
  return {code, ::testing::internal::GetCapturedStderr()};
}

TEST(CommandLine, ExceptionsAreOneLineAndACode) {
  EXPECT_EQ(RunOdd([]() -> absl::Status { throw std::bad_alloc(); }),
            std::pair(74, std::string("shardit: out of memory\n")));
  EXPECT_EQ(RunOdd([]() -> absl::Status { throw std::runtime_error("odd\nfile"); }),
            std::pair(70, std::string("shardit: odd file\n")));
  EXPECT_EQ(RunOdd([] { return absl::OkStatus(); }), std::pair(0, std::string()));
}

}  // namespace
}  // namespace shardit
