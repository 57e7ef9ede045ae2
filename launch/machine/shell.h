// Words of shell commands, and the path of this program.
#pragma once

#include <string>

namespace shardit {

// A word of a POSIX shell command that stands for exactly `text`.
std::string ShellWord(const std::string& text);

// The absolute path of the running program; "shardit" where the system does not say.
std::string OwnPath();

}  // namespace shardit
