#include "core/ops/tokens.h"

#include <memory>
#include <utility>

#include "core/cuda/nvtx.h"
#include "core/tensor/copy_rows.h"

namespace shardit {
namespace {

// Tokens [first, first + tokens) of every image.
struct TokenRange {
  int64_t first = 0;
  int64_t tokens = 0;
};

// whole[:, range] = part, or part (+)= whole[:, range]; the side that is not `whole` is [N, D] or [N, tokens, D].
void CopyIn(RankContext& context, const Tensor& part, const Tensor& whole, TokenRange range) {
  const int64_t width = whole.dim(2);
  CopyRows({.source = part.ref(),
            .source_stride = part.stride(0),
            .destination = whole.ref().At(range.first * width),
            .destination_stride = whole.stride(0),
            .rows = whole.dim(0),
            .count = range.tokens * width},
           context);
}

void CopyOut(RankContext& context, const Tensor& whole, TokenRange range, const GradDestination& part) {
  const int64_t width = whole.dim(2);
  CopyRows({.source = whole.ref().At(range.first * width),
            .source_stride = whole.stride(0),
            .destination = part.tensor.ref(),
            .destination_stride = part.tensor.stride(0),
            .accumulate = part.accumulate,
            .rows = whole.dim(0),
            .count = range.tokens * width},
           context);
}

struct JoinKind {
  const char* name;
  bool many_readers;  // every block reads the result: its gradient is gathered in fp32
};
constexpr JoinKind kAppend{"append_tokens", false}, kStack{"stack_tokens", true};

class JoinTokensNode : public Node {
 public:
  JoinTokensNode(JoinKind kind, std::vector<TokenRange> ranges) : Node(1), kind_(kind), ranges_(std::move(ranges)) {}
  const char* name() const override { return kind_.name; }
  DType GradType(int output) const override { return kind_.many_readers ? DType::kF32 : Node::GradType(output); }

  void Backward(RankContext& context) override {
    for (size_t i = 0; i < ranges_.size(); ++i) {
      const int input = static_cast<int>(i);
      if (Needs(input)) CopyOut(context, Grad(), ranges_[i], Destination(context, input));
    }
  }

 private:
  const JoinKind kind_;
  const std::vector<TokenRange> ranges_;
};

class KeepTokensNode : public Node {
 public:
  explicit KeepTokensNode(int64_t keep) : Node(1), keep_(keep) {}
  const char* name() const override { return "keep_tokens"; }

  void Backward(RankContext& context) override {
    const GradDestination dx = Destination(context, 0);
    CHECK(dx.tensor.is_dense()) << "[keep_tokens] gradient strides " << dx.tensor.strides();
    const int64_t width = dx.tensor.dim(2);
    CopyRows({.source = Grad().ref(),
              .source_stride = keep_ * width,
              .destination = dx.tensor.ref(),
              .destination_stride = dx.tensor.stride(0),
              .accumulate = dx.accumulate,
              .rows = dx.tensor.dim(0),
              .count = keep_ * width},
             context);
    if (dx.accumulate) return;
    const int64_t dropped = (dx.tensor.dim(1) - keep_) * width;
    dx.tensor.Reshape({dx.tensor.dim(0), dx.tensor.dim(1) * width}).Narrow(1, keep_ * width, dropped).Zero();
  }

 private:
  const int64_t keep_;
};

// Concatenates along the tokens; parts are [N, D] (one token) or [N, T, D].
Var Join(Tape& tape, JoinKind kind, std::vector<Var> parts) {
  const NvtxRange range("join_tokens");
  std::vector<TokenRange> ranges;
  int64_t tokens = 0;
  const int64_t images = parts[0].dim(0), width = parts[0].dim(-1);
  for (const Var& part : parts) {
    const Tensor& value = part.value();
    const bool rows = value.ndim() == 2 && value.stride(1) == 1;
    CHECK((rows || (value.ndim() == 3 && value.is_dense())) && value.dim(0) == images && value.dim(-1) == width)
        << "[" << kind.name << "] " << value.shape() << " with strides " << value.strides() << " beside "
        << parts[0].shape();
    ranges.push_back({tokens, value.ndim() == 2 ? 1 : value.dim(1)});
    tokens += ranges.back().tokens;
  }
  Tensor whole = Tensor::Empty(tape.allocator(), {images, tokens, width}, parts[0].value().dtype());
  bool records = false;
  for (size_t i = 0; i < parts.size(); ++i) {
    CopyIn(tape.context(), parts[i].value(), whole, ranges[i]);
    records = records || tape.Records({&parts[i]});
  }
  if (!records) return Var(std::move(whole));
  auto node = std::make_unique<JoinTokensNode>(kind, std::move(ranges));
  return tape.Record(std::move(node), std::move(parts), {std::move(whole)}, {})[0];
}

}  // namespace

Var AppendTokens(Tape& tape, const Var& x_NTD, const Var& t_ND, const Var& y_ND) {
  CHECK(x_NTD.value().ndim() == 3 && t_ND.value().ndim() == 2 && y_ND.value().ndim() == 2)
      << "[append_tokens] x " << x_NTD.shape() << ", t " << t_ND.shape() << ", y " << y_ND.shape();
  return Join(tape, kAppend, {x_NTD, t_ND, y_ND});
}

Var StackTokens(Tape& tape, const Var& t_ND, const Var& y_ND) {
  CHECK(t_ND.value().ndim() == 2 && y_ND.value().ndim() == 2)
      << "[stack_tokens] t " << t_ND.shape() << ", y " << y_ND.shape();
  return Join(tape, kStack, {t_ND, y_ND});
}

Var KeepTokens(Tape& tape, const Var& x_NSD, int64_t keep) {
  const NvtxRange range("keep_tokens");
  const Tensor& x = x_NSD.value();
  CHECK(x.ndim() == 3 && x.is_dense() && keep >= 0 && keep <= x.dim(1))
      << "[keep_tokens] x " << x.shape() << ", keep " << keep;
  Tensor kept = Tensor::Empty(tape.allocator(), {x.dim(0), keep, x.dim(2)}, x.dtype());
  CopyRows({.source = x.ref(),
            .source_stride = x.stride(0),
            .destination = kept.ref(),
            .destination_stride = keep * x.dim(2),
            .rows = x.dim(0),
            .count = keep * x.dim(2)},
           tape.context());
  if (!tape.Records({&x_NSD})) return Var(std::move(kept));
  return tape.Record(std::make_unique<KeepTokensNode>(keep), {x_NSD}, {std::move(kept)}, {})[0];
}

}  // namespace shardit
