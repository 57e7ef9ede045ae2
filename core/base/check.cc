#include "core/base/check.h"

#include <cstdio>
#include <cstdlib>
#include <utility>

namespace shardit {
namespace {

// Identity is per thread, not per process, because ranks can be threads.
std::string& MutableThreadIdentity() {
  thread_local std::string identity;
  return identity;
}

std::function<std::string()>& MutableFailureReport() {
  thread_local std::function<std::string()> report;
  return report;
}

}  // namespace

void SetFailureReport(std::function<std::string()> report) { MutableFailureReport() = std::move(report); }

void SetThreadIdentity(std::string identity) { MutableThreadIdentity() = std::move(identity); }

const std::string& ThreadIdentity() { return MutableThreadIdentity(); }

namespace internal {

CheckFailure::CheckFailure(const char* file, int line, const char* condition) {
  if (!ThreadIdentity().empty()) stream_ << "[" << ThreadIdentity() << "] ";
  stream_ << file << ":" << line << ": CHECK failed: " << condition << " ";
}

CheckFailure::~CheckFailure() {
  const std::string message = stream_.str();
  std::fprintf(stderr, "%s\n", message.c_str());
  if (MutableFailureReport()) std::fprintf(stderr, "%s", MutableFailureReport()().c_str());
  std::fflush(stderr);
  std::abort();
}

}  // namespace internal
}  // namespace shardit
