// Runs a target over its corpus and then over mutations of it, the same ones every time.
//
//   <target> [--runs 10000] [--seed 1] [--only RUN] [FILE...]     FILEs replace the corpus
//
// Run k of a seed makes the same input whatever ran before: a failure names its run, and --only repeats it. With
// SHARDIT_LONG_TESTS in the environment it goes on for 60 seconds instead. Without a sanitizer memory is limited, so
// that sizes taken from a file are met as a crash; a run of more than a minute counts as one.
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>

#include "tests/fuzz/fuzz.h"

// Provided by the sanitizers' run time, where there is one.
extern "C" __attribute__((weak)) void __sanitizer_set_death_callback(void (*callback)());

// HDF5 asks for whatever a file says and takes a null for an answer. Our own requests throw then, which ends the run.
extern "C" const char* __asan_default_options() { return "allocator_may_return_null=1"; }

namespace shardit::fuzz {
namespace {

constexpr size_t kMaxInputBytes = 1 << 20;
constexpr rlim_t kMemoryLimit = rlim_t{4} << 30;
constexpr unsigned kRunSeconds = 60;

// Of this process, for the handlers: a fuzz target is a process of its own.
volatile sig_atomic_t current_run = -1;
std::string* scratch = nullptr;

void TellRun() {
  char text[64];
  const int length = std::snprintf(text, sizeof(text), "\nfuzz: failed in run %d\n", static_cast<int>(current_run));
  if (write(STDERR_FILENO, text, static_cast<size_t>(length)) < 0) return;
}

void OnSignal(int signal_number) {
  TellRun();
  signal(signal_number, SIG_DFL);
  raise(signal_number);
}

std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::vector<std::string> ReadCorpus(const std::vector<std::string>& paths) {
  std::vector<std::string> names;
  for (const std::string& path : paths) {
    if (!std::filesystem::is_directory(path)) {
      names.push_back(path);
      continue;
    }
    for (const auto& entry : std::filesystem::recursive_directory_iterator(path)) {
      if (entry.is_regular_file()) names.push_back(entry.path());
    }
  }
  std::sort(names.begin(), names.end());  // folders list in no order
  std::vector<std::string> corpus;
  for (const std::string& name : names) corpus.push_back(ReadFile(name));
  return corpus;
}

class Mutator {
 public:
  Mutator(const std::vector<std::string>& corpus, uint64_t seed, int64_t run)
      : corpus_(corpus), random_(seed * 1'000'003 + static_cast<uint64_t>(run)) {}

  std::string Make() {
    std::string bytes = corpus_[Below(corpus_.size())];
    for (size_t left = 1 + Below(6); left > 0; --left) Change(&bytes);
    if (bytes.size() > kMaxInputBytes) bytes.resize(kMaxInputBytes);
    return bytes;
  }

 private:
  size_t Below(size_t bound) { return bound == 0 ? 0 : static_cast<size_t>(random_() % bound); }

  void Change(std::string* bytes) {
    const size_t at = Below(bytes->size()), length = 1 + Below(std::min<size_t>(64, bytes->size() - at));
    switch (Below(8)) {
      case 0:
        if (!bytes->empty()) (*bytes)[at] = static_cast<char>((*bytes)[at] ^ (1 << Below(8)));
        break;
      case 1:
        if (!bytes->empty()) (*bytes)[at] = static_cast<char>(random_());
        break;
      case 2:
        OverwriteNumber(bytes);
        break;
      case 3:
        bytes->erase(at, length);
        break;
      case 4:
        bytes->insert(at, bytes->substr(at, length));
        break;
      case 5:
        bytes->resize(at);
        break;
      case 6: {
        const std::string& other = corpus_[Below(corpus_.size())];
        bytes->replace(at, bytes->size() - at, other.substr(Below(other.size())));
        break;
      }
      case 7:
        ReplaceDigits(bytes);
        break;
    }
  }

  // Sizes, counts and offsets: a little- or big-endian integer becomes one at an edge.
  void OverwriteNumber(std::string* bytes) {
    const uint64_t size = bytes->size();
    const uint64_t edges[] = {0,
                              1,
                              0x7f,
                              0xff,
                              0x7fff,
                              0xffff,
                              0x7fffffff,
                              0xffffffff,
                              uint64_t{1} << 40,
                              uint64_t{1} << 62,
                              ~uint64_t{0} >> 1,
                              ~uint64_t{0},
                              size,
                              size + 1,
                              size - 1,
                              random_()};
    const size_t width = size_t{1} << Below(4);
    if (bytes->size() < width) return;
    char number[8];
    std::memcpy(number, &edges[Below(std::size(edges))], sizeof(number));
    if (Below(2) == 0) std::reverse(number, number + width);
    bytes->replace(Below(bytes->size() - width + 1), width, number, width);
  }

  // The same for numbers that are text.
  void ReplaceDigits(std::string* bytes) {
    const size_t begin = bytes->find_first_of("0123456789", Below(bytes->size()));
    if (begin == std::string::npos) return;
    const size_t end = std::min(bytes->find_first_not_of("0123456789", begin), bytes->size());
    const char* const numbers[] = {"0",
                                   "-1",
                                   "1",
                                   "4294967296",
                                   "9223372036854775807",
                                   "18446744073709551616",
                                   "1e999",
                                   "99999999999999999999999999",
                                   "nan",
                                   "0x10"};
    bytes->replace(begin, end - begin, numbers[Below(std::size(numbers))]);
  }

  const std::vector<std::string>& corpus_;
  std::mt19937_64 random_;
};

void RunOne(const std::string& input) {
  alarm(kRunSeconds);
  // A copy of exactly this size on the heap, so that a sanitizer sees the first byte read beyond it.
  const std::vector<uint8_t> bytes(input.begin(), input.end());
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

void WatchForFailures() {
  for (const int number : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGALRM}) signal(number, &OnSignal);
  if (__sanitizer_set_death_callback != nullptr) {
    __sanitizer_set_death_callback(&TellRun);
  } else {
    const rlimit limit{kMemoryLimit, kMemoryLimit};
    setrlimit(RLIMIT_AS, &limit);
  }
}

void MakeScratch(std::string* folder) {
  const bool in_memory = access("/dev/shm", W_OK) == 0;
  *folder = std::string(in_memory ? "/dev/shm" : "/tmp") + "/shardit_fuzz_XXXXXX";
  if (mkdtemp(folder->data()) == nullptr) std::abort();
  scratch = folder;
}

int Main(int argc, char** argv) {
  int64_t runs = 10000, only = -1;
  uint64_t seed = 1;
  std::vector<std::string> files;
  CLI::App app("Runs a fuzz target over its corpus and mutations of it.");
  app.add_option("--runs", runs, "Mutations to run");
  app.add_option("--seed", seed, "Of the mutations");
  app.add_option("--only", only, "This run alone");
  app.add_option("files", files, "Instead of the target's own corpus");
  CLI11_PARSE(app, argc, argv);
  for (const std::string& path : kCorpus) {
    if (app.count("files") == 0) files.push_back(std::string(SHARDIT_SOURCE_DIR "/") + path);
  }
  const std::vector<std::string> corpus = ReadCorpus(files);
  if (corpus.empty()) {
    std::fprintf(stderr, "fuzz: the corpus is empty\n");
    return 1;
  }
  std::string folder;
  MakeScratch(&folder);
  WatchForFailures();
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now(), end = start + std::chrono::seconds(60);
  const bool for_long = getenv("SHARDIT_LONG_TESTS") != nullptr;
  const auto wanted = [&](int64_t run) { return for_long ? Clock::now() < end : run < runs; };
  if (only < 0) std::for_each(corpus.begin(), corpus.end(), &RunOne);
  int64_t run = std::max<int64_t>(only, 0);
  for (; only < 0 ? wanted(run) : run == only; ++run) {
    current_run = static_cast<sig_atomic_t>(run);
    RunOne(Mutator(corpus, seed, run).Make());
  }
  std::filesystem::remove_all(folder);
  std::printf("%zu files and %lld mutations of them in %.1f s\n", corpus.size(), static_cast<long long>(run),
              std::chrono::duration<double>(Clock::now() - start).count());
  return 0;
}

}  // namespace

std::string InputFile(const std::string& bytes, int slot) {
  const std::string path = *scratch + "/input" + std::to_string(slot);
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  return path;
}

std::string OutputPath() { return *scratch + "/output"; }

}  // namespace shardit::fuzz

int main(int argc, char** argv) { return shardit::fuzz::Main(argc, argv); }
