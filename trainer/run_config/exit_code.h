// Exit codes of the program, and how an absl::Status becomes one. Where the kind of error alone does not decide (an
// invalid argument may be a wrong configuration, 64, or a wrong file, 65) the code travels with the status as a
// payload.
#pragma once

#include "absl/status/status.h"

namespace shardit {

enum class ExitCode : int {
  kOk = 0,
  kUsage = 64,         // command line or configuration
  kBadData = 65,       // data set, weights or checkpoint
  kInternal = 70,      // a mistake of ours
  kCannotCreate = 73,  // an output could not be created
  kIo = 74,            // reading or writing failed
  kRequeue = 75,       // stopped by a signal, state saved: run the same command again
  kHang = 76,
  kNumerics = 77,
  kDoNotRequeue = 78,
  kTasksFailed = 79,  // a study: some of its tasks failed, the others are done
};

// The same error, bound to leave with `code`. OK stays OK. A code attached earlier (closer to the cause) is kept.
absl::Status WithExitCode(absl::Status status, ExitCode code);

// The attached code; otherwise by kind: InvalidArgument, NotFound, DataLoss, OutOfRange and FailedPrecondition are bad
// data, AlreadyExists and PermissionDenied cannot-create, Unavailable and ResourceExhausted IO, Aborted and Cancelled
// requeue, DeadlineExceeded a hang, anything else internal.
ExitCode ExitCodeOf(const absl::Status& status);

}  // namespace shardit
