#include "parallel/pipeline/executor.h"

#include <algorithm>
#include <deque>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <tuple>
#include <utility>

#include "core/base/check.h"

namespace shardit {
namespace {

// What crosses boundaries forward is activations; what crosses them backward, their gradients.
enum Direction { kActivations = 0, kGradients = 1 };
constexpr Direction kDirections[] = {kActivations, kGradients};

// The tensors of one boundary and micro-batch under way.
struct Message {
  size_t action = 0;  // that needs it, of a receive
  int part = 0;
  int micro_batch = 0;
  std::vector<Tensor> tensors;
  std::vector<Work> works;  // one a tensor

  bool Done() const {
    return std::all_of(works.begin(), works.end(), [](const Work& work) { return work.Done(); });
  }
};

// The state of one run.
class PipelineRun {
 public:
  PipelineRun(const PipelineSpec& spec, Communicator& pp, RankContext& context, PipelineStage& stage,
              std::span<const PipelineAction> actions)
      : spec_(spec),
        pp_(pp),
        context_(context),
        timeline_(context.timeline()),
        stage_(stage),
        actions_(actions),
        outputs_(spec.parts) {}

  void Run() {
    for (size_t i = 0; i < actions_.size(); ++i) {
      for (const Direction direction : kDirections) RetireSends(direction, std::numeric_limits<int>::max());
      std::vector<Tensor> incoming = TakeIncoming(i);
      PostReceives();
      RunAction(actions_[i], std::move(incoming));
    }
    for (const Direction direction : kDirections) RetireSends(direction, 0);
    CHECK(received_.empty() && local_.empty()) << "[pipeline] messages that no action took";
  }

 private:
  using LocalKey = std::tuple<int, int, Direction>;  // receiving stage, micro-batch

  static Direction DirectionOf(const PipelineAction& action) {
    return action.kind == ActionKind::kForward ? kActivations : kGradients;
  }
  int StageOf(int part) const { return part * spec_.ranks + pp_.rank(); }
  bool NeedsMessage(const PipelineAction& action) const {
    if (action.kind == ActionKind::kWeights) return false;
    return StageOf(action.part) != (DirectionOf(action) == kActivations ? 0 : spec_.stages() - 1);
  }

  // Equal on both sides. Messages of one direction between two ranks are sent and received in the same order (a
  // property of schedules), so that tags which wrap around still match.
  int Tag(int to_stage, int micro_batch, size_t tensor, size_t tensors, Direction direction) const {
    const int64_t message = int64_t{to_stage} * spec_.micro_batches + micro_batch;
    const int64_t index = message * static_cast<int64_t>(tensors) + static_cast<int64_t>(tensor);
    return static_cast<int>((2 * index + direction) % Communicator::kMaxTag);
  }

  std::vector<Tensor> TakeIncoming(size_t i) {
    const PipelineAction& action = actions_[i];
    if (!NeedsMessage(action)) return {};
    const Direction direction = DirectionOf(action);
    if (spec_.ranks == 1) return TakeLocal({StageOf(action.part), action.micro_batch, direction});
    PostReceives();
    CHECK(!received_.empty() && received_.front().action == i) << "[pipeline] action " << i << " has no receive";
    Message message = std::move(received_.front());
    received_.pop_front();
    Wait(message, direction == kActivations ? "wait for activations" : "wait for gradients");
    return std::move(message.tensors);
  }

  std::vector<Tensor> TakeLocal(const LocalKey& key) {
    const auto found = local_.find(key);
    CHECK(found != local_.end()) << "[pipeline] nothing for stage " << std::get<0>(key);
    std::vector<Tensor> tensors = std::move(found->second);
    local_.erase(found);
    return tensors;
  }

  // Posts the next receives in the order of need. A gradient's has to wait for the first forward of its part, which
  // tells its shapes.
  void PostReceives() {
    for (; next_receive_ < actions_.size() && received_.size() < PipelineExecutor::kReceivesAhead; ++next_receive_) {
      const PipelineAction& action = actions_[next_receive_];
      if (spec_.ranks == 1 || !NeedsMessage(action)) continue;
      const bool forward = DirectionOf(action) == kActivations;
      const std::vector<BoundaryTensor> tensors = forward ? stage_.Inputs(action.part) : outputs_[action.part];
      if (tensors.empty()) return;
      received_.push_back(Receive(action, tensors));
    }
  }

  Message Receive(const PipelineAction& action, const std::vector<BoundaryTensor>& tensors) {
    const Direction direction = DirectionOf(action);
    const int peer = (pp_.rank() + (direction == kActivations ? spec_.ranks - 1 : 1)) % spec_.ranks;
    Message message{.action = next_receive_, .part = action.part, .micro_batch = action.micro_batch};
    for (const BoundaryTensor& expected : tensors) {
      const int tag = Tag(StageOf(action.part), action.micro_batch, message.tensors.size(), tensors.size(), direction);
      const DType dtype =
          direction == kActivations ? expected.dtype : stage_.GradType(message.tensors.size(), expected.dtype);
      message.tensors.push_back(Tensor::Empty(context_.allocator(), expected.shape, dtype));
      const Tensor& tensor = message.tensors.back();
      message.works.push_back(pp_.Recv(tensor.ref(), tensor.elements(), peer, tag, {"pipeline boundary"}));
    }
    return message;
  }

  void RunAction(const PipelineAction& action, std::vector<Tensor> incoming) {
    const int part = action.part, micro_batch = action.micro_batch;
    std::vector<Tensor> outgoing;
    switch (action.kind) {
      case ActionKind::kForward: {
        TimedSpan span(timeline_, SpanKind::kForward, "forward", micro_batch, part);
        outgoing = stage_.Forward(part, micro_batch, std::move(incoming));
        break;
      }
      case ActionKind::kBackward:
      case ActionKind::kBackwardInput: {
        TimedSpan span(timeline_, SpanKind::kBackward, "backward", micro_batch, part);
        outgoing = stage_.Backward(part, micro_batch, std::move(incoming), action.kind == ActionKind::kBackwardInput);
        break;
      }
      case ActionKind::kWeights: {
        TimedSpan span(timeline_, SpanKind::kWeights, "weights", micro_batch, part);
        stage_.BackwardWeights(part, micro_batch);
        return;
      }
    }
    HandOn(action, std::move(outgoing));
  }

  void HandOn(const PipelineAction& action, std::vector<Tensor> tensors) {
    const Direction direction = DirectionOf(action);
    const int to_stage = StageOf(action.part) + (direction == kActivations ? 1 : -1);
    const bool crosses = to_stage >= 0 && to_stage < spec_.stages();
    CHECK(crosses != tensors.empty()) << "[pipeline] stage " << StageOf(action.part) << " of " << spec_.stages()
                                      << " returned " << tensors.size() << " tensors";
    if (!crosses) return;
    if (direction == kActivations && outputs_[action.part].empty()) {
      for (const Tensor& tensor : tensors) outputs_[action.part].push_back({tensor.shape(), tensor.dtype()});
    }
    if (direction == kGradients) CheckGradients(action.part, tensors);
    if (spec_.ranks == 1) {
      local_.emplace(LocalKey{to_stage, action.micro_batch, direction}, std::move(tensors));
      return;
    }
    Send(action, to_stage, std::move(tensors));
    RetireSends(direction, PipelineExecutor::kSendsAhead);
  }

  // What the stage before posted receives for: the shapes and types of what entered.
  void CheckGradients(int part, const std::vector<Tensor>& grads) const {
    const std::vector<BoundaryTensor> inputs = stage_.Inputs(part);
    CHECK_EQ(grads.size(), inputs.size()) << "[pipeline] gradients of part " << part;
    for (size_t i = 0; i < grads.size(); ++i) {
      const DType dtype = stage_.GradType(i, inputs[i].dtype);
      CHECK(grads[i].shape() == inputs[i].shape && grads[i].dtype() == dtype)
          << "[pipeline] gradient " << i << " of part " << part << ": " << grads[i].shape() << " "
          << Name(grads[i].dtype()) << ", expected " << inputs[i].shape << " " << Name(dtype);
    }
  }

  void Send(const PipelineAction& action, int to_stage, std::vector<Tensor> tensors) {
    const Direction direction = DirectionOf(action);
    Message message{.part = action.part, .micro_batch = action.micro_batch, .tensors = std::move(tensors)};
    for (size_t i = 0; i < message.tensors.size(); ++i) {
      const Tensor& tensor = message.tensors[i];
      CHECK(tensor.is_dense()) << "[pipeline] tensor " << i << " of a boundary is a strided view";
      const int tag = Tag(to_stage, action.micro_batch, i, message.tensors.size(), direction);
      message.works.push_back(
          pp_.Send(tensor.ref(), tensor.elements(), to_stage % spec_.ranks, tag, {"pipeline boundary"}));
    }
    sent_[direction].push_back(std::move(message));
  }

  // Drops the sends that have left, in order, and waits until at most `most` have not.
  void RetireSends(Direction direction, int most) {
    std::deque<Message>& sent = sent_[direction];
    while (!sent.empty() && (sent.front().Done() || static_cast<int>(sent.size()) > most)) {
      const Message& message = sent.front();
      Wait(message, "wait to send");
      for (size_t i = 0; i < message.works.size(); ++i) {
        if (!message.works[i].timed()) continue;
        timeline_.Add({.kind = SpanKind::kCommunication,
                       .name = direction == kActivations ? "send activations" : "send gradients",
                       .micro_batch = message.micro_batch,
                       .part = message.part,
                       .bytes = message.tensors[i].bytes(),
                       .begin = message.works[i].start(),
                       .end = message.works[i].end()});
      }
      sent.pop_front();
    }
  }

  void Wait(const Message& message, const char* name) {
    if (message.Done()) return;
    std::optional<TimedSpan> span;
    if (!message.works.front().stream_ordered()) {
      span.emplace(timeline_, SpanKind::kWait, name, message.micro_batch, message.part);
    }
    for (const Work& work : message.works) work.Wait();
  }

  const PipelineSpec spec_;
  Communicator& pp_;
  RankContext& context_;
  Timeline& timeline_;
  PipelineStage& stage_;
  const std::span<const PipelineAction> actions_;

  std::vector<std::vector<BoundaryTensor>> outputs_;  // by part; empty before its first forward
  size_t next_receive_ = 0;                           // first action whose receive has not been posted
  std::deque<Message> received_;                      // posted, in the order of need
  std::deque<Message> sent_[2];                       // by direction, in the order of sending
  std::map<LocalKey, std::vector<Tensor>> local_;     // handed on within the rank
};

}  // namespace

PipelineExecutor::PipelineExecutor(const PipelineSpec& spec, Communicator& pp, RankContext& context)
    : spec_(spec), pp_(pp), context_(context), actions_(Schedule(spec, pp.rank())) {
  CHECK_EQ(spec.ranks, pp.size()) << "[pipeline] ranks of the schedule and of the axis";
}

void PipelineExecutor::Run(PipelineStage& stage) {
  CHECK_EQ(stage.parts(), spec_.parts) << "[pipeline] parts of the stage and of the schedule";
  PipelineRun(spec_, pp_, context_, stage, actions_).Run();
}

void PipelineExecutor::RunForward(PipelineStage& stage, int micro_batches) {
  CHECK_EQ(stage.parts(), spec_.parts) << "[pipeline] parts of the stage and of the schedule";
  PipelineSpec spec = spec_;
  spec.micro_batches = micro_batches;
  std::vector<PipelineAction> actions = Schedule(spec, pp_.rank());
  std::erase_if(actions, [](const PipelineAction& action) { return action.kind != ActionKind::kForward; });
  PipelineRun(spec, pp_, context_, stage, actions).Run();
}

}  // namespace shardit
