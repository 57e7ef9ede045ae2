// What this binary is. The text is generated at every build (launch/build_info.cmake).
#pragma once

namespace shardit {

// Lines "shardit 0.1.0", "commit ...", "compiler ...", "build ..."; no newline at the end.
extern const char kVersionText[];

}  // namespace shardit
