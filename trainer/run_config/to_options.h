// One field of a configuration message to one member of a plain struct; nothing is decided here.
#pragma once

#include "configs/run_config.pb.h"
#include "trainer/run_config/run_config.h"

namespace shardit {

// `c` has every default filled in.
RunOptions ToOptions(const config::RunConfig& c);

}  // namespace shardit
