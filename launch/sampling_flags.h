// Options of the commands that draw samples from a model: how to draw them, and where to compute.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "absl/status/status.h"
#include "trainer/sample.h"

namespace shardit {

class SamplingFlags {
 public:
  // Declares --config, --steps, --sampler, --eta, --cfg-scale, --cfg-channels, --seed, --classes, --weights, --threads,
  // --device and --precision. Some are parsed straight into `request`, which outlives the command line.
  void Add(CLI::App* command, SampleRequest* request);

  // After parsing: the others, into the same request. Exit code 64.
  absl::Status Apply(SampleRequest* request) const;

 private:
  std::string sampler_ = "ddpm";
  std::string classes_ = "all";
  std::string weights_ = "ema";
  std::string device_ = "auto";
  std::string precision_ = "fp32";
};

}  // namespace shardit
