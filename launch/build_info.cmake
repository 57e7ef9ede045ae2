# Writes OUTPUT, a source file with the version text, when it would change. Run at every build, so that the commit named
# is the one that was built. SOURCE_DIR, VERSION, COMPILER, BUILD_TYPE and SANITIZE are given.
execute_process(COMMAND git describe --always --dirty --abbrev=12 WORKING_DIRECTORY ${SOURCE_DIR}
                OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
if(NOT commit)
  set(commit "unknown")
endif()
if(SANITIZE)
  string(APPEND BUILD_TYPE ", sanitizer ${SANITIZE}")
endif()
file(CONFIGURE OUTPUT ${OUTPUT} CONTENT [[
#include "launch/build_info.h"

namespace shardit {

const char kVersionText[] =
    "shardit @VERSION@\n"
    "commit @commit@\n"
    "compiler @COMPILER@\n"
    "build @BUILD_TYPE@";

}  // namespace shardit
]] @ONLY)
