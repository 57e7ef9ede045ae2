// ReplayedTraffic: keeps the counters of communicators true while a graph repeats their collectives.
//
//   ReplayedTraffic traffic({&gradients, &tensor, ...});
//   traffic.Begin();
//   graph = cuda::Graph::Capture(...);   // counts the step's collectives once, and runs none of them
//   traffic.End();
//   for every step: graph->Launch(...); traffic.AddReplay();
#pragma once

#include <utility>
#include <vector>

#include "core/base/check.h"
#include "parallel/comm/communicator.h"

namespace shardit {

class ReplayedTraffic {
 public:
  // The communicators outlive it.
  explicit ReplayedTraffic(std::vector<Communicator*> comms) : comms_(std::move(comms)) {}

  void Begin() { before_ = Read(); }
  void End() {
    CHECK_EQ(before_.size(), comms_.size()) << "[replayed traffic] Begin comes first";
    recorded_ = Read();
    for (size_t i = 0; i < comms_.size(); ++i) recorded_[i] = recorded_[i].Since(before_[i]);
    unplayed_ = true;
  }
  // The recording itself has counted the first replay.
  void AddReplay() {
    CHECK_EQ(recorded_.size(), comms_.size()) << "[replayed traffic] nothing was recorded";
    if (std::exchange(unplayed_, false)) return;
    for (size_t i = 0; i < comms_.size(); ++i) comms_[i]->AddTraffic(recorded_[i]);
  }

 private:
  std::vector<TrafficCounters> Read() const {
    std::vector<TrafficCounters> counters;
    for (const Communicator* comm : comms_) counters.push_back(comm->counters());
    return counters;
  }

  const std::vector<Communicator*> comms_;
  std::vector<TrafficCounters> before_, recorded_;
  bool unplayed_ = false;
};

}  // namespace shardit
