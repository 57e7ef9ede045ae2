// Cross-entropy. Legend: N images, K classes.
#include <cmath>

#include "core/ops/cross_entropy.h"
#include "tests/core/host_copy.h"
#include "tests/core/ops/op_cases.h"

namespace shardit {
namespace {

// The first and the last class among others.
std::vector<int32_t> Labels(int64_t count, int64_t classes) {
  std::vector<int32_t> labels;
  for (int64_t n = 0; n < count; ++n) {
    labels.push_back(static_cast<int32_t>(n % 3 == 0 ? 0 : n % 3 == 1 ? classes - 1 : n * 7 % classes));
  }
  return labels;
}

OpCase CrossEntropyCase(int64_t count, int64_t classes, double spread = 1) {
  return {.name = CaseName("cross_entropy", {count, classes}, spread > 1 ? "spread" : ""),
          .inputs = {{.shape = {count, classes}, .spread = spread, .role = OpRole::kData}},
          .run = [=](Tape& tape, const std::vector<Var>& in) -> std::vector<Var> {
            std::vector<int32_t> labels = Labels(count, classes);
            const Tensor host = Tensor::Borrow(labels.data(), {count}, DType::kI32);
            return {CrossEntropy(tape, in[0], Placed(tape.allocator(), host))};
          },
          .naive = [=](const Arrays& in) -> Arrays {
            const std::vector<int32_t> labels = Labels(count, classes);
            Array losses({count});
            for (int64_t n = 0; n < count; ++n) {
              const double at_label = in[0](n, labels[static_cast<size_t>(n)]);
              for (int64_t k = 0; k < classes; ++k) losses(n) += std::exp(in[0](n, k) - at_label);
              losses(n) = std::log(losses(n));
            }
            return {losses};
          },
          .tolerance = 2e-7,
          .grad_tolerance = 1e-6};
}

}  // namespace

std::vector<OpCase> CrossEntropyCases() {
  return {CrossEntropyCase(1, 1),
          CrossEntropyCase(1, 2),
          CrossEntropyCase(5, 10),
          CrossEntropyCase(7, 33, 20),
          CrossEntropyCase(2, 1003),
          CrossEntropyCase(130, 3),
          CrossEntropyCase(4, 64, 100),
          Timed(CrossEntropyCase(256, 10)),
          Timed(CrossEntropyCase(256, 1000)),
          Large(CrossEntropyCase(256, 1000))};
}

}  // namespace shardit
