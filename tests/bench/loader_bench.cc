// How many latents a second one core serves, and how long opening an index takes. Prints a table to standard error and
// one JSON document to standard output.
//
//   loader_bench [samples=32768] [batch=256] [repeats=20] [folder for the test files]
//
// Rows: samples of 4 x 32 x 32 in random order from the page cache, file by file type, mirrored at random, once from
// the reading thread alone and once through Loader with a consumer that takes each batch and does nothing. The process
// is pinned to one processor. `read floor` is pread of the same places into the same buffers, nothing else; `copy
// floor` is memcpy from memory.
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/base/check.h"
#include "data/dataset.h"
#include "data/epoch_order.h"
#include "data/latent_file_writer.h"
#include "data/loader.h"
#include "tests/bench/timing.h"

namespace shardit {
namespace {

struct Options {
  int64_t samples = 32768, batch = 256, repeats = 20;
  std::string folder;
};

// Processor time of all threads: what one core would need, whatever else the machine runs.
double SecondsOf(const auto& work) {
  const double start = bench::Now(CLOCK_PROCESS_CPUTIME_ID);
  work();
  return bench::Now(CLOCK_PROCESS_CPUTIME_ID) - start;
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

template <class T>
T Must(absl::StatusOr<T> value) {
  CHECK(value.ok()) << value.status();
  return *std::move(value);
}

void PinToFirstAllowedCpu() {
  cpu_set_t allowed, one;
  CHECK_EQ(sched_getaffinity(0, sizeof(allowed), &allowed), 0);
  CPU_ZERO(&one);
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    CPU_SET(cpu, &one);
    break;
  }
  CHECK_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
}

std::string CpuName() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

// The values do not matter for speed; they are small so that float16 holds them.
void WriteFile(const std::string& path, int64_t samples, LatentKind kind, LatentType type, LatentShape shape) {
  LatentFileInfo info;
  info.path = path;
  info.count = samples;
  info.shape = shape;
  info.kind = kind;
  info.type = type;
  info.classes = 1000;
  info.scale = 0.18215f;
  const auto writer = Must(LatentFileWriter::Create(info));
  const int64_t block = std::min<int64_t>(samples, 1024);
  std::vector<float> values(block * shape.elements() * (kind == LatentKind::kMoments ? 2 : 1));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 17) / 8;
  std::vector<int32_t> labels(block);
  for (int64_t i = 0; i < block; ++i) labels[i] = static_cast<int32_t>(i % 1000);
  for (int64_t first = 0; first < samples; first += block) {
    CHECK(writer->Append(values.data(), labels.data(), std::min(block, samples - first)).ok());
  }
  CHECK(writer->Commit().ok());
}

class LoaderBench {
 public:
  explicit LoaderBench(const Options& options) : options_(options) {}

  void Run() {
    rows_ = nlohmann::json::array();
    std::fprintf(stderr, "%-28s %12s %10s\n", "4x32x32, random order", "latents/s", "GB/s out");
    Kind("float32", LatentKind::kLatents, LatentType::kFloat32, false);
    Kind("float32 in memory", LatentKind::kLatents, LatentType::kFloat32, true);
    Kind("float16", LatentKind::kLatents, LatentType::kFloat16, false);
    Kind("moments float32", LatentKind::kMoments, LatentType::kFloat32, false);
    Order();
    IndexBuild();
    const nlohmann::json report = {{"benchmark", "loader"},
                                   {"time", "processor time, one core"},
                                   {"cpu", CpuName()},
                                   {"samples", options_.samples},
                                   {"batch", options_.batch},
                                   {"repeats", options_.repeats},
                                   {"rows", rows_}};
    std::printf("%s\n", report.dump(1).c_str());
  }

 private:
  static constexpr LatentShape kShape{4, 32, 32};

  void Report(const std::string& name, double seconds_a_latent) {
    const double rate = 1 / seconds_a_latent;
    const double gigabytes = rate * static_cast<double>(kShape.elements()) * 4e-9;
    std::fprintf(stderr, "%-28s %12.0f %10.2f\n", name.c_str(), rate, gigabytes);
    rows_.push_back({{"name", name}, {"latents_per_s", rate}, {"output_gb_per_s", gigabytes}});
  }

  // Median time of one batch over all repeats of one pass over the file, per latent.
  template <class Work>
  double PerLatent(const Work& one_batch) {
    const int64_t batches = std::max<int64_t>(1, options_.samples / options_.batch);
    std::vector<double> passes;
    for (int64_t repeat = 0; repeat < options_.repeats + 1; ++repeat) {
      const double seconds = SecondsOf([&] {
        for (int64_t i = 0; i < batches; ++i) one_batch(repeat * batches + i);
      });
      if (repeat > 0) passes.push_back(seconds / static_cast<double>(batches * options_.batch));
    }
    return Median(passes);
  }

  void Kind(const std::string& name, LatentKind kind, LatentType type, bool in_memory) {
    const std::string path = options_.folder + "/loader_bench.h5";
    WriteFile(path, options_.samples, kind, type, kShape);
    const auto dataset = Must(Dataset::Open({path, in_memory}));
    const LatentFile& file = *dataset->files()[0];
    SampleReader reader = Must(SampleReader::Make(*dataset));
    SampleStream stream(1, options_.samples);
    const int64_t elements = kShape.elements(), batch = options_.batch;
    // Three buffers in turn, as the ring of the loader has: the output leaves the cache as it does in a step.
    auto x = Must(AlignedBuffer<float>::Make(3 * batch * elements, "bench"));
    auto raw = Must(AlignedBuffer<std::byte>::Make(3 * batch * file.info().sample_bytes(), "bench"));
    Report(name + (in_memory ? ", copy floor" : ", read floor"), PerLatent([&](int64_t step) {
             for (int64_t i = 0; i < batch; ++i) {
               const int64_t sample = stream.SampleAt(step * batch + i);
               std::byte* const out = raw.data() + (step % 3 * batch + i) * file.info().sample_bytes();
               CHECK(file.ReadRaw(sample, 1, out).ok());
             }
           }));
    Report(name + ", reader", PerLatent([&](int64_t step) {
             for (int64_t i = 0; i < batch; ++i) {
               const uint64_t position = step * batch + i;
               const SampleDraw draw{1, position, position % 2 == 1};
               float* const out = x.data() + (step % 3 * batch + i) * elements;
               CHECK(reader.Read(stream.SampleAt(position), draw, out).ok());
             }
           }));
    const auto loader = Must(Loader::Create(dataset, {.seed = 1, .global_batch = batch}));
    Report(name + ", loader", PerLatent([&](int64_t) { CHECK(loader->Next().ok()); }));
    unlink(path.c_str());
  }

  void Order() {
    SampleStream stream(1, 1'281'167);
    int64_t sum = 0;
    const double seconds = PerLatent([&](int64_t step) {
      for (int64_t i = 0; i < options_.batch; ++i) sum += stream.SampleAt(step * options_.batch + i);
    });
    CHECK_GT(sum, 0);
    std::fprintf(stderr, "%-28s %9.1f ns a sample\n", "epoch order, N = 1281167", seconds * 1e9);
    rows_.push_back({{"name", "epoch order"}, {"ns_per_sample", seconds * 1e9}});
  }

  // Opening reads labels and metadata only, so small latents stand in for 21 GB of them.
  void IndexBuild() {
    const std::string path = options_.folder + "/loader_bench_index.h5";
    WriteFile(path, 1'281'167, LatentKind::kLatents, LatentType::kFloat16, {1, 2, 2});
    std::vector<double> times;
    for (int64_t repeat = 0; repeat < options_.repeats; ++repeat) {
      times.push_back(SecondsOf([&] { CHECK_EQ(Must(Dataset::Open({path}))->size(), 1'281'167); }));
    }
    unlink(path.c_str());
    std::fprintf(stderr, "%-28s %9.1f ms\n", "open 1281167 samples", Median(times) * 1e3);
    rows_.push_back({{"name", "open 1281167 samples"}, {"ms", Median(times) * 1e3}});
  }

  const Options options_;
  nlohmann::json rows_;
};

}  // namespace
}  // namespace shardit

int main(int argc, char** argv) {
  shardit::Options options;
  if (argc > 1) options.samples = std::max(1L, std::atol(argv[1]));
  if (argc > 2) options.batch = std::max(1L, std::atol(argv[2]));
  if (argc > 3) options.repeats = std::max(1L, std::atol(argv[3]));
  options.folder = argc > 4 ? argv[4] : std::filesystem::temp_directory_path().string();
  shardit::PinToFirstAllowedCpu();
  shardit::LoaderBench(options).Run();
  return 0;
}
