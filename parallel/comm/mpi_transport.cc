#include "parallel/comm/mpi_transport.h"

#include <cstdio>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "parallel/comm/mpi_check.h"

namespace shardit {

namespace internal {

void MpiFailure(int code, const char* expression, const char* file, int line) {
  char reason[MPI_MAX_ERROR_STRING] = "unknown error";
  int length = 0;
  MPI_Error_string(code, reason, &length);
  std::fprintf(stderr, "[%s] %s:%d: %s failed: %s\n", ThreadIdentity().c_str(), file, line, expression, reason);
  std::fflush(stderr);
  MPI_Abort(MPI_COMM_WORLD, 1);
  std::abort();
}

}  // namespace internal

namespace {

constexpr int kLargestTag = (1 << 23) - 1;

class MpiTransport final : public Transport {
 public:
  MpiTransport() {
    MPI_CHECK(MPI_Comm_dup(MPI_COMM_WORLD, &comm_));
    MPI_CHECK(MPI_Comm_rank(comm_, &rank_));
    MPI_CHECK(MPI_Comm_size(comm_, &size_));
  }
  ~MpiTransport() override {
    MPI_CHECK(MPI_Comm_free(&comm_));
    MPI_CHECK(MPI_Finalize());
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  bool NeedsPolling() const override { return true; }

  void PostSend(int peer, int tag, const void* data, int64_t bytes, void* cookie) override {
    MPI_CHECK(MPI_Isend(data, static_cast<int>(bytes), MPI_BYTE, peer, tag, comm_, &requests_.emplace_back()));
    cookies_.push_back(cookie);
  }
  void PostRecv(int peer, int tag, void* data, int64_t bytes, void* cookie) override {
    MPI_CHECK(MPI_Irecv(data, static_cast<int>(bytes), MPI_BYTE, peer, tag, comm_, &requests_.emplace_back()));
    cookies_.push_back(cookie);
  }

  void Poll(std::vector<void*>* cookies) override {
    if (requests_.empty()) {
      // A test of no requests makes no progress; a probe does.
      int found = 0;
      MPI_CHECK(MPI_Iprobe(MPI_ANY_SOURCE, kLargestTag, comm_, &found, MPI_STATUS_IGNORE));
      return;
    }
    int completed = 0;
    indices_.resize(requests_.size());
    statuses_.resize(requests_.size());
    const int code = MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &completed, indices_.data(),
                                  statuses_.data());
    if (code == MPI_ERR_IN_STATUS) {
      for (int i = 0; i < completed; ++i) MPI_CHECK(statuses_[i].MPI_ERROR);
    }
    MPI_CHECK(code);
    for (int i = 0; i < completed; ++i) cookies->push_back(cookies_[indices_[i]]);
    if (completed > 0) DropCompleted();
  }

  void Abort(int exit_code) override {
    std::fflush(nullptr);
    MPI_Abort(MPI_COMM_WORLD, exit_code);
    std::_Exit(exit_code);
  }

 private:
  // MPI sets the requests it has completed to null. The rest keep their order.
  void DropCompleted() {
    size_t kept = 0;
    for (size_t i = 0; i < requests_.size(); ++i) {
      if (requests_[i] == MPI_REQUEST_NULL) continue;
      requests_[kept] = requests_[i];
      cookies_[kept++] = cookies_[i];
    }
    requests_.resize(kept);
    cookies_.resize(kept);
  }

  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0;
  int size_ = 1;
  std::vector<MPI_Request> requests_;
  std::vector<void*> cookies_;  // of requests_, same index
  std::vector<int> indices_;
  std::vector<MPI_Status> statuses_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Transport>> MakeMpiTransport(int* argc, char*** argv) {
  int provided = MPI_THREAD_SINGLE;
  MPI_CHECK(MPI_Init_thread(argc, argv, MPI_THREAD_SERIALIZED, &provided));
  if (provided < MPI_THREAD_SERIALIZED) {
    return absl::FailedPreconditionError(absl::StrCat("MPI_Init_thread: expected MPI_THREAD_SERIALIZED, got level ",
                                                      provided, "; use an MPI library built with thread support"));
  }
  MPI_CHECK(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
  int* tag_limit = nullptr;
  int found = 0;
  MPI_CHECK(MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, &tag_limit, &found));
  if (found == 0 || *tag_limit < kLargestTag) {
    return absl::FailedPreconditionError(absl::StrCat("MPI_TAG_UB: expected at least ", kLargestTag, ", got ",
                                                      found == 0 ? 0 : *tag_limit,
                                                      "; choose another transport of the MPI library"));
  }
  return std::make_unique<MpiTransport>();
}

}  // namespace shardit
