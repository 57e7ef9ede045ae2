// Figures of the machine that the program runs on, measured in under a second: products, memory, messages between
// threads. What else runs on the machine meanwhile shows in them.
#pragma once

#include "trainer/plan/cluster_figures.h"

namespace shardit {

// Devices are this machine's cores, its one node.
ClusterFigures MeasureMachine();

}  // namespace shardit
