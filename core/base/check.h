// CHECK: for conditions that only a mistake of ours can break (shapes, dtypes, schedules, ownership). A failed check
// prints one line, prefixed with the identity of the calling thread (rank and mesh coordinates), and aborts the
// process. The world being wrong (files, configuration, peers) is never a CHECK: return absl::Status.
#pragma once

#include <functional>
#include <sstream>
#include <string>

namespace shardit {

// Names the calling thread in check failures and reports, for example "rank 3 (pp=0 dp=1 tp=1)".
void SetThreadIdentity(std::string identity);
const std::string& ThreadIdentity();

// What a failed CHECK on this thread prints after its line, such as the last operations and collectives of the rank.
// The report must not CHECK. Null: nothing. Whoever sets it keeps what it refers to alive, or sets null first.
void SetFailureReport(std::function<std::string()> report);

namespace internal {

// Collects the message streamed after a failed CHECK; its destructor prints and aborts.
class CheckFailure {
 public:
  CheckFailure(const char* file, int line, const char* condition);
  CheckFailure(const CheckFailure&) = delete;
  CheckFailure& operator=(const CheckFailure&) = delete;
  [[noreturn]] ~CheckFailure();
  std::ostream& stream() { return stream_; }

 private:
  std::ostringstream stream_;
};

// Gives the streaming expression type void, so that CHECK can be one branch of a conditional expression.
struct Voidify {
  void operator&(std::ostream&) const {}
};

}  // namespace internal
}  // namespace shardit

#define CHECK(condition)     \
  (condition)                \
      ? static_cast<void>(0) \
      : ::shardit::internal::Voidify() & ::shardit::internal::CheckFailure(__FILE__, __LINE__, #condition).stream()

#define SHARDIT_CHECK_OP(a, op, b) CHECK((a)op(b)) << "(" << (a) << " vs " << (b) << ") "
#define CHECK_EQ(a, b) SHARDIT_CHECK_OP(a, ==, b)
#define CHECK_NE(a, b) SHARDIT_CHECK_OP(a, !=, b)
#define CHECK_LT(a, b) SHARDIT_CHECK_OP(a, <, b)
#define CHECK_LE(a, b) SHARDIT_CHECK_OP(a, <=, b)
#define CHECK_GT(a, b) SHARDIT_CHECK_OP(a, >, b)
#define CHECK_GE(a, b) SHARDIT_CHECK_OP(a, >=, b)
