// Trying out which way is the fastest.
#pragma once

#include "absl/functional/function_ref.h"
#include "core/tensor/device.h"

namespace shardit::cuda {

// The median time of `body`'s work on the stream, in microseconds, of 5 after a warm-up; short work is repeated within
// each. Waits for the stream.
double TimeOnStream(Stream stream, absl::FunctionRef<void()> body);

}  // namespace shardit::cuda
