#include "launch/all_commands.h"
#include "launch/command_line.h"

int main(int argc, char** argv) {
  shardit::CommandLine command_line;
  shardit::AddAllCommands(command_line);
  return command_line.Run(argc, argv);
}
