#include <algorithm>
#include <cmath>

#include "core/ops/cross_entropy.h"

namespace shardit::cpu {
namespace {

// Rows below which one thread does them all.
int64_t GrainOf(int64_t classes) {
  constexpr int64_t kGrain = 512;  // exponentials: below it, waking a thread costs more than it saves
  return kGrain / classes;
}

double Bytes(int64_t tensors, int64_t count, int64_t classes) {
  return 4.0 * static_cast<double>(tensors * count * classes + 2 * count);
}

// The sum of exponentials of a row, relative to that of its largest logit.
struct Softmax {
  double largest = 0;
  double sum = 0;

  Softmax(const float* logits, int64_t classes) : largest(*std::max_element(logits, logits + classes)) {
    for (int64_t k = 0; k < classes; ++k) sum += Exp(logits[k]);
  }
  double Exp(float logit) const { return std::exp(double{logit} - largest); }
};

}  // namespace

void CrossEntropyFwd(const CrossEntropyFwdArgs& args, CpuContext& context) {
  const auto& [logits, labels, losses, count, classes] = args;
  if (context.Planned({"cross_entropy_fwd", 0, Bytes(1, count, classes)})) return;
  context.pool.ParallelFor(count, GrainOf(classes), [&](int64_t begin, int64_t end, int) {
    for (int64_t n = begin; n < end; ++n) {
      const int64_t label = labels[n];
      CHECK(label >= 0 && label < classes)
          << "[cross_entropy] label " << label << " at " << n << ", there are " << classes << " classes";
      const float* const row = logits + n * classes;
      const Softmax softmax(row, classes);
      losses[n] = static_cast<float>(std::log(softmax.sum) - (row[label] - softmax.largest));
    }
  });
}

void CrossEntropyBwd(const CrossEntropyBwdArgs& args, CpuContext& context) {
  const auto& [logits, labels, dlosses, dlogits, accumulate, count, classes] = args;
  if (context.Planned({"cross_entropy_bwd", 0, Bytes(accumulate ? 3 : 2, count, classes)})) return;
  context.pool.ParallelFor(count, GrainOf(classes), [&](int64_t begin, int64_t end, int) {
    for (int64_t n = begin; n < end; ++n) {
      const float* const row = logits + n * classes;
      float* const to = dlogits + n * classes;
      const Softmax softmax(row, classes);
      for (int64_t k = 0; k < classes; ++k) {
        const double slope = softmax.Exp(row[k]) / softmax.sum - (k == labels[n] ? 1 : 0);
        const float grad = static_cast<float>(dlosses[n] * slope);
        to[k] = accumulate ? to[k] + grad : grad;
      }
    }
  });
}

}  // namespace shardit::cpu
