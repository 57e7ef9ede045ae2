// Early return on a bad absl::Status. Messages say what, where, expected, got, and how to fix.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define SHARDIT_CONCAT_INNER(a, b) a##b
#define SHARDIT_CONCAT(a, b) SHARDIT_CONCAT_INNER(a, b)

// RETURN_IF_ERROR(expression of type absl::Status)
#define RETURN_IF_ERROR(expression)                  \
  do {                                               \
    absl::Status shardit_status = (expression);      \
    if (!shardit_status.ok()) return shardit_status; \
  } while (false)

// ASSIGN_OR_RETURN(declaration or lvalue, expression of type absl::StatusOr<T>)
#define ASSIGN_OR_RETURN(target, expression) \
  SHARDIT_ASSIGN_OR_RETURN(SHARDIT_CONCAT(shardit_status_or_, __LINE__), target, expression)
#define SHARDIT_ASSIGN_OR_RETURN(temporary, target, expression) \
  auto temporary = (expression);                                \
  if (!temporary.ok()) return std::move(temporary).status();    \
  target = *std::move(temporary)
