#include "trainer/train/device_update.h"

#include <vector>

#include "trainer/train/optimizer.h"

namespace shardit {
namespace {

// Structs in device memory; made once.
template <class T>
Tensor OnDevice(Allocator& allocator, const std::vector<T>& values) {
  const Tensor bytes = Tensor::Empty(allocator, {static_cast<int64_t>(values.size() * sizeof(T))}, DType::kU8);
  if (!values.empty()) bytes.FromHost(values.data());
  return bytes;
}

template <class T>
int64_t Count(const Tensor& bytes) {
  return bytes.bytes() / static_cast<int64_t>(sizeof(T));
}

template <class T>
Tensor BytesFor(Allocator& allocator) {
  return Tensor::Empty(allocator, {static_cast<int64_t>(sizeof(T))}, DType::kU8);
}

int64_t Begin(Placement placement, const ShardMap::Run& run) {
  return placement == Placement::kFlat ? run.flat_begin : run.shard_begin;
}

// What AddSquares (parallel/data/shard_map.h) adds up.
std::vector<cuda::SquaresRun> SquaresRuns(const TrainState& state) {
  const bool count_uncut = state.sharding().coords.tp == 0;
  std::vector<cuda::SquaresRun> runs;
  for (const ShardMap::Piece& piece : state.owned().pieces()) {
    if (piece.entry->parameter->shard.dim < 0 && !count_uncut) continue;
    runs.push_back({.begin = state.grads_placement() == Placement::kFlat ? piece.flat_begin() : piece.shard_begin,
                    .count = piece.count()});
  }
  return runs;
}

std::vector<cuda::AdamwRun> UpdateRuns(const TrainState& state) {
  std::vector<cuda::AdamwRun> runs;
  for (const ShardMap::Run& run : MergedRuns(state.kept())) {
    runs.push_back({.param = Begin(state.weights_placement(), run),
                    .grad = Begin(state.grads_placement(), run),
                    .moments = run.shard_begin,
                    .compute = Begin(state.compute_placement(), run),
                    .count = run.count});
  }
  return runs;
}

}  // namespace

DeviceUpdate::DeviceUpdate(RankContext& context, const TrainState& state)
    : context_(context),
      state_(state),
      sums_(context.allocator()),
      host_(sizeof(HostSide), /*pinned=*/true),
      inputs_(BytesFor<UpdateInputs>(context.allocator())),
      control_(BytesFor<UpdateControl>(context.allocator())) {
  *host_.as<HostSide>() = {};
  std::vector<cuda::SquaresRun> squares = SquaresRuns(state);
  squares_blocks_ = cuda::PlaceBlocks(squares);
  squares_runs_ = OnDevice(context.allocator(), squares);
  std::vector<cuda::AdamwRun> updates = UpdateRuns(state);
  update_tiles_ = cuda::PlaceTiles(updates);
  update_runs_ = OnDevice(context.allocator(), updates);
}

DeviceUpdate::~DeviceUpdate() { context_.Synchronize(); }

void DeviceUpdate::Begin(const UpdateInputs& inputs) {
  host_.as<HostSide>()->inputs = inputs;
  cuda::CopyAsync(inputs_.raw(), &host_.as<HostSide>()->inputs, sizeof(UpdateInputs), cuda().stream);
}

void DeviceUpdate::Enqueue(Communicator& world) {
  AddSquares();
  // World: the owned parts of the gradients and the images lie all over it.
  sums_.AllReduce(world).Wait();
  auto* control = static_cast<UpdateControl*>(control_.raw());
  cuda::PrepareUpdate(static_cast<const UpdateInputs*>(inputs_.raw()), sums_.limbs(), control, cuda());
  Update();
  cuda::CopyAsync(&host_.as<HostSide>()->control, control, sizeof(UpdateControl), cuda().stream);
}

void DeviceUpdate::AddSquares() {
  cuda::SumOfSquares({.runs = static_cast<const cuda::SquaresRun*>(squares_runs_.raw()),
                      .run_count = Count<cuda::SquaresRun>(squares_runs_),
                      .blocks = squares_blocks_,
                      .values = state_.grads().data(),
                      .limbs = sums_.limbs(kSquaresSum)},
                     cuda());
}

void DeviceUpdate::Update() {
  const auto* control = static_cast<const UpdateControl*>(control_.raw());
  const bool rounds = state_.compute_weights().dtype() == DType::kBF16;
  cuda::AdamwEma({.runs = static_cast<const cuda::AdamwRun*>(update_runs_.raw()),
                  .run_count = Count<cuda::AdamwRun>(update_runs_),
                  .tiles = update_tiles_,
                  .param = state_.weights().data(),
                  .grad = state_.grads().data(),
                  .m = state_.adam_m().data(),
                  .v = state_.adam_v().data(),
                  .ema = state_.ema().data(),
                  .compute = rounds ? state_.compute_weights().data<BFloat16>() : nullptr,
                  .scalars = &control->scalars,
                  .skip = &control->skip},
                 cuda());
}

}  // namespace shardit
