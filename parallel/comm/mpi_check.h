// MPI_CHECK(MPI_Foo(...)): a call that failed prints expression, file and line and the library's reason, and aborts the
// job on every rank. Needs MPI_ERRORS_RETURN on the communicator in use. This is the place that includes mpi.h: without
// the old C++ bindings, whose library MPI 3 has dropped.
#pragma once

#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

namespace shardit::internal {
[[noreturn]] void MpiFailure(int code, const char* expression, const char* file, int line);
}  // namespace shardit::internal

#define MPI_CHECK(expression)                                                                                \
  do {                                                                                                       \
    const int mpi_code = (expression);                                                                       \
    if (mpi_code != MPI_SUCCESS) ::shardit::internal::MpiFailure(mpi_code, #expression, __FILE__, __LINE__); \
  } while (false)
