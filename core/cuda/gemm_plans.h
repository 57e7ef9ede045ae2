// GemmPlans: how cuBLASLt is asked for each shape of matrix product, decided once and kept. It knows what cuBLASLt
// offers; what a product of ours needs beyond that is core/ops/gemm.cu's.
//
// Choice of the algorithm: the library's first one for the shape, which is the same in every run and on equal devices.
// With CudaOptions::tune_products, and not deterministic, the fastest of its first 16, timed when the shape is first
// met; inside a capture nothing can be timed, and the first one is kept. Algorithms that add up parts of a sum in the
// output's type are never taken for bf16 outputs (a sum is rounded once), and with deterministic for none.
//
// One compute thread, as for the CudaContext that owns it. The first meeting of a shape costs host time and, where it
// is tuned, waits for the stream (for the device never); later ones issue one call.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "core/tensor/cuda_context.h"
#include "core/tensor/elements.h"

namespace shardit::cuda {

// D = op(A) op(B), or D += op(A) op(B); op transposes or not. Column-major, as cuBLASLt has it: element (i, j) of a
// matrix lies at i + j * ld. op(A) is [rows, inner], op(B) [inner, columns], D [rows, columns], all of at least 1. A
// and B are of one type, fp32 or bf16; D is fp32 or of that type.
struct MatrixProduct {
  enum class Epilogue {
    kNone,
    kBias,      // D(i, j) += bias[i]
    kBiasGelu,  // aux = op(A) op(B) + bias; D = gelu(aux)
    kGeluGrad,  // D = op(A) op(B) * gelu'(aux)
    kSumB,      // sums[j] = sum over k of op(B)(k, j), beside the product
  };
  int64_t rows = 0, columns = 0, inner = 0;
  bool transpose_a = false, transpose_b = false;
  ConstElements a;
  int64_t lda = 0;
  ConstElements b;
  int64_t ldb = 0;
  Elements d;
  int64_t ldd = 0;
  bool accumulate = false;
  Epilogue epilogue = Epilogue::kNone;
  const void* bias = nullptr;  // [rows], of D's type
  void* aux = nullptr;         // [rows, columns], of D's type
  int64_t ldaux = 0;
  void* sums = nullptr;  // [columns], of D's type
  // So many products, with kNone and kBias only; strides in elements from one's operands to the next's. All use one B.
  int64_t batch = 1;
  int64_t a_stride = 0, bias_stride = 0, d_stride = 0;
};

// What is known of one shape. Owned by GemmPlans, at a fixed address.
struct GemmPlan {
  virtual ~GemmPlan() = default;

  bool possible = false;  // cuBLASLt has an algorithm
  int offered = 0;        // how many it named, at most those that are looked at
  // Whether an epilogue is worth having where it was not timed: a bias always; GELU on Hopper only, since elsewhere it
  // has been measured slower than a pass of its own; sums never, since they leave few algorithms to choose from.
  bool good_untimed = false;
  double microseconds = 0;           // of the chosen algorithm; 0: not timed
  double in_parts_microseconds = 0;  // of the caller's own way to the same, where it was timed; 0: not
  bool tried_in_parts = false;       // the caller has tried to time its own way

  // Whether to Run it, rather than the product without its epilogue and then the rest.
  bool best() const {
    if (microseconds == 0 || in_parts_microseconds == 0) return possible && good_untimed;
    return possible && microseconds <= in_parts_microseconds;
  }
};

class GemmPlans {
 public:
  static std::unique_ptr<GemmPlans> Make(Device device, const CudaOptions& options);
  virtual ~GemmPlans() = default;

  // The plan for products like this one: equal but for the places of the operands, which decide by their alignment
  // only. Where tuning, and the plan is new, it runs the product many times: D (unless it accumulates), aux and sums
  // are written. Fails a CHECK where cuBLASLt cannot be loaded.
  virtual GemmPlan& Find(const MatrixProduct& product, CudaContext& context) = 0;

  // Issues the product; `plan` is Find's for it. False: cuBLASLt refuses all its algorithms for it after all. Nothing
  // has been issued then, and the plan is no longer possible.
  virtual bool Run(GemmPlan& plan, const MatrixProduct& product, CudaContext& context) = 0;

  // Whether a choice may be timed now.
  virtual bool Tunes(CudaContext& context) const = 0;

  // Where results of trials go that nobody wants: at least `bytes`, 256-byte aligned, the same memory for all trials,
  // one inside another too. Null where the device has not that much left. Not inside a capture.
  virtual void* TrialMemory(int64_t bytes) = 0;

  // One line a shape, with TFLOP/s where it was timed: for benchmarks and logs.
  virtual std::string Table() const = 0;
};

}  // namespace shardit::cuda
