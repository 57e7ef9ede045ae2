// Shape suffixes: N batch, C channels, H rows, W columns of pixels.
#include "trainer/extractor/train_classifier.h"

#include <spdlog/fmt/fmt.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <numbers>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/file.h"
#include "core/base/log.h"
#include "core/base/math.h"
#include "core/base/status_macros.h"
#include "core/ops/adamw.h"
#include "core/ops/cross_entropy.h"
#include "core/tensor/rng.h"
#include "data/dataset.h"
#include "data/loader.h"
#include "trainer/check_output.h"
#include "trainer/extractor/extractor_file.h"
#include "trainer/extractor/file_hash.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

constexpr int64_t kMostShift = 2;  // pixels, each way
constexpr int64_t kValidationBatch = 256;

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

absl::Status CheckSettings(const ClassifierTraining& training) {
  const auto refuse = [](absl::string_view flag, auto value, absl::string_view expected) {
    return WithExitCode(absl::InvalidArgumentError(absl::StrCat(flag, " ", value, ": expected ", expected)),
                        ExitCode::kUsage);
  };
  if (training.epochs < 1 || training.epochs > 10000) return refuse("--epochs", training.epochs, "1 to 10000");
  if (training.batch < 1 || training.batch > 65536) return refuse("--batch", training.batch, "1 to 65536");
  if (!(training.learning_rate > 0) || training.learning_rate > 1) {
    return refuse("--learning-rate", training.learning_rate, "above 0 and at most 1");
  }
  if (!(training.weight_decay >= 0) || training.weight_decay > 1) {
    return refuse("--weight-decay", training.weight_decay, "0 to 1");
  }
  return absl::OkStatus();
}

absl::StatusOr<ClassifierConfig> ConfigFor(const Dataset& dataset, const ClassifierTraining& training) {
  ClassifierConfig config{.channels = dataset.shape().channels,
                          .height = dataset.shape().height,
                          .width = dataset.shape().width,
                          .classes = dataset.classes(),
                          .first_channels = training.first_channels};
  if (config.classes == 0) {  // the files do not say
    for (int64_t i = 0; i < dataset.size(); ++i)
      config.classes = std::max<int64_t>(config.classes, dataset.label(i) + 1);
  }
  const absl::Status valid = config.Validate();
  if (valid.ok()) return config;
  return absl::InvalidArgumentError(absl::StrCat("data ", Quoted(training.data), ": ", valid.message()));
}

absl::StatusOr<std::shared_ptr<const Dataset>> OpenValidation(const std::string& path, const ClassifierConfig& config) {
  ASSIGN_OR_RETURN(std::shared_ptr<const Dataset> dataset, Dataset::Open({.path = path, .classes = config.classes}));
  const LatentShape& shape = dataset->shape();
  if (shape == LatentShape{config.channels, config.height, config.width}) return dataset;
  return absl::InvalidArgumentError(absl::StrCat("data ", Quoted(path), ": images of ", shape.channels, " x ",
                                                 shape.height, " x ", shape.width, ", expected ", config.channels,
                                                 " x ", config.height, " x ", config.width, " as in training"));
}

// An image [C, H, W] moved by (down, right) pixels, as [H, W, C]; what comes in repeats the edge.
void ShiftToChannelsLast(const float* image_CHW, const ClassifierConfig& config, int64_t down, int64_t right,
                         float* out_HWC) {
  for (int64_t row = 0; row < config.height; ++row) {
    const int64_t from_row = std::clamp<int64_t>(row - down, 0, config.height - 1);
    for (int64_t column = 0; column < config.width; ++column) {
      const int64_t from_column = std::clamp<int64_t>(column - right, 0, config.width - 1);
      for (int64_t c = 0; c < config.channels; ++c) {
        *out_HWC++ = image_CHW[(c * config.height + from_row) * config.width + from_column];
      }
    }
  }
}

// Parameters, their gradients and AdamW's moments, each one flat range.
class ClassifierState {
 public:
  ClassifierState(Classifier& classifier, uint64_t seed) : parameters_(classifier.parameters()) {
    const size_t count = static_cast<size_t>(parameters_.elements());
    for (std::vector<float>* range : {&values_, &grads_, &m_, &v_}) range->resize(count);
    size_t at = 0;
    for (const auto& parameter : parameters_.all()) {
      parameter->value = Tensor::Borrow(values_.data() + at, parameter->shape);
      parameter->grad = Tensor::Borrow(grads_.data() + at, parameter->shape);
      at += static_cast<size_t>(parameter->shape.elements());
    }
    parameters_.Initialize(seed);
  }

  void BeginStep() {
    for (const auto& parameter : parameters_.all()) parameter->grad_written = false;
  }

  // Step `step` counts from 0.
  void Update(RankContext& context, int64_t step, double learning_rate, double weight_decay) {
    AdamwEmaArgs args{.param = values_.data(), .grad = grads_.data(), .m = m_.data(), .v = v_.data()};
    args.count = static_cast<int64_t>(values_.size());
    args.lr = learning_rate;
    args.weight_decay = weight_decay;
    args.bias_correction1 = 1 - std::pow(args.beta1, static_cast<double>(step + 1));
    args.bias_correction2 = 1 - std::pow(args.beta2, static_cast<double>(step + 1));
    cpu::AdamwEma(args, context.cpu());
  }

 private:
  ParameterList& parameters_;
  std::vector<float> values_, grads_, m_, v_;
};

double LearningRate(const ClassifierTraining& training, int64_t step, int64_t steps) {
  const double warm = std::min(1.0, static_cast<double>(step + 1) / std::max(1.0, static_cast<double>(steps) / 20));
  const double progress = static_cast<double>(step) / static_cast<double>(steps);
  return training.learning_rate * warm * 0.5 * (1 + std::cos(std::numbers::pi * progress));
}

// The batch's images, shifted. A position's draws follow the one by which the loader mirrors, in block 0.
Tensor BatchImages(RankContext& context, const Batch& batch, const ClassifierConfig& config, uint64_t seed) {
  const int64_t count = static_cast<int64_t>(batch.y.size()), elements = config.channels * config.height * config.width;
  Tensor x = Tensor::Empty(context.allocator(), {count, config.height, config.width, config.channels});
  for (int64_t i = 0; i < count; ++i) {
    const RngKey key{.seed = seed,
                     .purpose = RngPurpose::kFlip,
                     .stream = static_cast<uint64_t>(batch.positions[static_cast<size_t>(i)])};
    const PhiloxBlock draws = key.Block(1);
    ShiftToChannelsLast(
        batch.x.data() + i * elements, config, int64_t{BoundedFromWord(draws.word[0], 2 * kMostShift + 1)} - kMostShift,
        int64_t{BoundedFromWord(draws.word[1], 2 * kMostShift + 1)} - kMostShift, x.data() + i * elements);
  }
  return x;
}

// Forward and backward of the mean loss; returns the sum of the images' losses.
double LossAndGradients(RankContext& context, const Classifier& classifier, const Tensor& x_NHWC,
                        std::span<const int32_t> labels) {
  const int64_t count = x_NHWC.dim(0);
  Tensor labels_N = Tensor::Empty(context.allocator(), {count}, DType::kI32);
  labels_N.FromHost(labels.data());
  Tape tape(context);
  const Var losses = CrossEntropy(tape, classifier.Forward(tape, Var(x_NHWC)).logits, labels_N);
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += losses.value().data()[i];
  Tensor grad = Tensor::Empty(context.allocator(), {count});
  std::fill_n(grad.data(), count, 1.0f / static_cast<float>(count));
  tape.Backward({{losses, grad}});
  return sum;
}

// The part of the images whose largest logit is their label's.
absl::StatusOr<double> Accuracy(RankContext& context, const Classifier& classifier, const Dataset& dataset) {
  const ClassifierConfig& config = classifier.config();
  const int64_t elements = dataset.shape().elements();
  ASSIGN_OR_RETURN(SampleReader reader, SampleReader::Make(dataset));
  std::vector<float> images(static_cast<size_t>(kValidationBatch * elements));
  std::vector<int32_t> labels(static_cast<size_t>(kValidationBatch));
  int64_t right = 0;
  for (int64_t first = 0; first < dataset.size(); first += kValidationBatch) {
    const int64_t count = std::min(kValidationBatch, dataset.size() - first);
    RETURN_IF_ERROR(ReadRange(dataset, reader, /*seed=*/0, first, count,
                              std::span(images).first(static_cast<size_t>(count * elements)),
                              std::span(labels).first(static_cast<size_t>(count))));
    Tensor x = Tensor::Empty(context.allocator(), {count, config.height, config.width, config.channels});
    for (int64_t i = 0; i < count; ++i) {
      ShiftToChannelsLast(images.data() + i * elements, config, 0, 0, x.data() + i * elements);
    }
    Tape tape(context, Tape::Mode::kInference);
    const Tensor logits = classifier.Forward(tape, Var(x)).logits.value();
    for (int64_t i = 0; i < count; ++i) {
      const float* row = logits.data() + i * config.classes;
      right += std::max_element(row, row + config.classes) - row == labels[static_cast<size_t>(i)];
    }
  }
  return static_cast<double>(right) / static_cast<double>(dataset.size());
}

// All steps of the report. Fills in its last loss and accuracy.
absl::Status RunSteps(RankContext& context, const ClassifierTraining& training,
                      const std::shared_ptr<const Dataset>& dataset, const Dataset* validation,
                      const Classifier& classifier, ClassifierState& state, std::chrono::steady_clock::time_point start,
                      ClassifierReport* report) {
  ASSIGN_OR_RETURN(
      const std::unique_ptr<Loader> loader,
      Loader::Create(dataset, {.seed = training.seed, .global_batch = training.batch, .flip = training.flip}));
  // Steps until an epoch is over; the last of them may begin the next.
  const auto epoch_end = [&](int64_t epoch) { return CeilDiv((epoch + 1) * dataset->size(), training.batch); };
  double loss_sum = 0;
  int64_t epoch = 0, loss_steps = 0;
  for (int64_t step = 0; step < report->steps; ++step) {
    ASSIGN_OR_RETURN(const Batch* batch, loader->Next());
    state.BeginStep();
    loss_sum += LossAndGradients(context, classifier, BatchImages(context, *batch, classifier.config(), training.seed),
                                 batch->y);
    if (!std::isfinite(loss_sum)) {
      return WithExitCode(
          absl::FailedPreconditionError(absl::StrCat("the loss is not finite at step ", step + 1,
                                                     "; try a smaller --learning-rate than ", training.learning_rate)),
          ExitCode::kNumerics);
    }
    state.Update(context, step, LearningRate(training, step, report->steps), training.weight_decay);
    ++loss_steps;
    if (step + 1 < epoch_end(epoch)) continue;
    report->loss = loss_sum / static_cast<double>(loss_steps * training.batch);
    loss_sum = 0, loss_steps = 0, ++epoch;
    if (validation != nullptr) {
      ASSIGN_OR_RETURN(report->accuracy, Accuracy(context, classifier, *validation));
    }
    LOG_INFO("epoch {} of {}: loss {:.4f}{}, {:.0f} s", epoch, training.epochs, report->loss,
             report->accuracy ? fmt::format(", held-out accuracy {:.4f}", *report->accuracy) : "", SecondsSince(start));
  }
  return absl::OkStatus();
}

// Where the weights come from, for the file and for people.
std::map<std::string, std::string> Origin(const ClassifierTraining& training, const ClassifierReport& report,
                                          const Dataset& dataset, const Dataset* validation) {
  const auto fingerprint = [](const Dataset& data) {
    return absl::StrCat(absl::Hex(data.Fingerprint(), absl::kZeroPad16));
  };
  // Numbers in shortest round-trip form.
  std::map<std::string, std::string> origin = {
      {"train.images", absl::StrCat(report.images)},
      {"train.fingerprint", fingerprint(dataset)},
      {"train.epochs", absl::StrCat(training.epochs)},
      {"train.batch", absl::StrCat(training.batch)},
      {"train.learning_rate", fmt::format("{}", training.learning_rate)},
      {"train.weight_decay", fmt::format("{}", training.weight_decay)},
      {"train.flip", training.flip ? "true" : "false"},
      {"train.seed", absl::StrCat(training.seed)},
      {"train.loss", fmt::format("{}", report.loss)},
  };
  if (validation == nullptr) return origin;
  origin["validation.images"] = absl::StrCat(validation->size());
  origin["validation.fingerprint"] = fingerprint(*validation);
  origin["validation.accuracy"] = fmt::format("{}", *report.accuracy);
  return origin;
}

}  // namespace

absl::StatusOr<ClassifierReport> TrainClassifier(RankContext& context, const ClassifierTraining& training) {
  const auto start = std::chrono::steady_clock::now();
  RETURN_IF_ERROR(CheckSettings(training));
  RETURN_IF_ERROR(CheckOutputPath(training.out));
  ASSIGN_OR_RETURN(const std::shared_ptr<const Dataset> dataset, Dataset::Open({.path = training.data}));
  ASSIGN_OR_RETURN(const ClassifierConfig config, ConfigFor(*dataset, training));
  std::shared_ptr<const Dataset> validation;
  if (!training.validation.empty()) {
    ASSIGN_OR_RETURN(validation, OpenValidation(training.validation, config));
  }
  Classifier classifier(config);
  ClassifierReport report{.config = config,
                          .parameters = classifier.parameters().elements(),
                          .images = dataset->size(),
                          .steps = CeilDiv(training.epochs * dataset->size(), training.batch)};
  ClassifierState state(classifier, training.seed);
  RETURN_IF_ERROR(RunSteps(context, training, dataset, validation.get(), classifier, state, start, &report));
  report.seconds = SecondsSince(start);
  RETURN_IF_ERROR(WriteClassifier(PosixFileSystem(), training.out, classifier,
                                  Origin(training, report, *dataset, validation.get())));
  ASSIGN_OR_RETURN(report.sha256, Sha256OfFile(training.out));
  return report;
}

}  // namespace shardit
