#include "trainer/run_config/run_config.h"

#include <fstream>
#include <string>

#include "configs/run_config.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/temp_folder.h"
#include "trainer/run_config/exit_code.h"
#include "trainer/run_config/field_tree.h"
#include "trainer/run_config/text_scan.h"

namespace shardit {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr char kMinimal[] = "model { size: \"DiT-S/8\" } data { path: \"x.h5\" }";

absl::StatusOr<ResolvedConfig> Resolve(const std::string& text, int64_t world = 1) {
  return ParseRunConfig(text, "run.textproto", ConfigUse::kTrain, world);
}

// The error of a configuration: one line, exit code 64.
std::string ErrorOf(const absl::StatusOr<ResolvedConfig>& resolved) {
  EXPECT_FALSE(resolved.ok());
  if (resolved.ok()) return "";
  EXPECT_EQ(ExitCodeOf(resolved.status()), ExitCode::kUsage);
  const std::string message(resolved.status().message());
  EXPECT_THAT(message, Not(HasSubstr("\n")));
  return message;
}

std::string WriteTemporary(const std::string& name, const std::string& text) {
  static const TempFolder base;
  const std::string path = base / name;
  std::ofstream(path, std::ios::binary) << text;
  return path;
}

TEST(RunConfig, DefaultsOfTheSchemaAreDefaultsOfTheStructs) {
  const auto resolved = Resolve(kMinimal);
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  const RunOptions& o = resolved->options;
  const RunOptions defaults;
  EXPECT_EQ(o.model.channels, defaults.model.channels);
  EXPECT_EQ(o.model.side, defaults.model.side);
  EXPECT_EQ(o.model.classes, defaults.model.classes);
  EXPECT_EQ(o.model.learn_sigma, defaults.model.learn_sigma);
  EXPECT_EQ(o.model.class_dropout, defaults.model.class_dropout);
  EXPECT_EQ(o.model.conditioning, defaults.model.conditioning);
  EXPECT_EQ(o.data.flip, defaults.data.flip);
  EXPECT_EQ(o.data.in_memory, defaults.data.in_memory);
  EXPECT_EQ(o.data.prefetch_batches, defaults.data.prefetch_batches);
  EXPECT_EQ(o.optimizer.learning_rate, defaults.optimizer.learning_rate);
  EXPECT_EQ(o.optimizer.beta1, defaults.optimizer.beta1);
  EXPECT_EQ(o.optimizer.beta2, defaults.optimizer.beta2);
  EXPECT_EQ(o.optimizer.epsilon, defaults.optimizer.epsilon);
  EXPECT_EQ(o.optimizer.weight_decay, defaults.optimizer.weight_decay);
  EXPECT_EQ(o.optimizer.clip_norm, defaults.optimizer.clip_norm);
  EXPECT_EQ(o.optimizer.warmup_steps, defaults.optimizer.warmup_steps);
  EXPECT_EQ(o.optimizer.schedule, defaults.optimizer.schedule);
  EXPECT_EQ(o.optimizer.final_fraction, defaults.optimizer.final_fraction);
  EXPECT_EQ(o.ema.decay, defaults.ema.decay);
  EXPECT_EQ(o.ema.warmup, defaults.ema.warmup);
  EXPECT_EQ(o.parallel.schedule, defaults.parallel.schedule);
  EXPECT_EQ(o.parallel.bucket_mib, defaults.parallel.bucket_mib);
  EXPECT_EQ(o.parallel.recompute, defaults.parallel.recompute);
  EXPECT_EQ(o.train.steps, defaults.train.steps);
  EXPECT_EQ(o.train.global_batch, defaults.train.global_batch);
  EXPECT_EQ(o.train.seed, defaults.train.seed);
  EXPECT_EQ(o.train.virtual_shards, defaults.train.virtual_shards);
  EXPECT_EQ(o.train.check_finite, defaults.train.check_finite);
  EXPECT_EQ(o.checkpoint.every_steps, defaults.checkpoint.every_steps);
  EXPECT_EQ(o.checkpoint.keep_last, defaults.checkpoint.keep_last);
  EXPECT_EQ(o.checkpoint.keep_every, defaults.checkpoint.keep_every);
  EXPECT_EQ(o.checkpoint.async, defaults.checkpoint.async);
  EXPECT_EQ(o.log.every_steps, defaults.log.every_steps);
  EXPECT_EQ(o.log.sample_every, defaults.log.sample_every);
  EXPECT_EQ(o.log.sample_per_class, defaults.log.sample_per_class);
  EXPECT_EQ(o.log.sample_steps, defaults.log.sample_steps);
  EXPECT_EQ(o.log.sample_cfg_scale, defaults.log.sample_cfg_scale);
  EXPECT_EQ(o.log.tensorboard, defaults.log.tensorboard);
  EXPECT_EQ(o.log.sample_ids, defaults.log.sample_ids);
}

TEST(RunConfig, ResolvedTextReadsBackToItself) {
  const auto once = Resolve(kMinimal, 2);
  ASSERT_TRUE(once.ok()) << once.status();
  const auto twice = Resolve(once->text, 2);
  ASSERT_TRUE(twice.ok()) << twice.status();
  EXPECT_EQ(once->text, twice->text);
  EXPECT_EQ(once->hash, twice->hash);
  EXPECT_EQ(twice->options.model.depth, 12);
  EXPECT_EQ(twice->options.parallel.dp, 2);
  EXPECT_EQ(twice->options.train.micro_batch, 128);
}

TEST(RunConfig, FilesMergeFromLeftToRightAndSetsComeLast) {
  const std::string a = WriteTemporary("a.textproto", "model { size: \"DiT-S/8\" channels: 1 } train { steps: 5 }");
  const std::string b = WriteTemporary("b.textproto", "model { side: 64 } train { steps: 7 } data { path: \"d.h5\" }");
  const auto resolved = LoadRunConfig({.files = {a, b},
                                       .sets = {"train.seed=3", "model.conditioning=IN_CONTEXT", "data.flip=false",
                                                "optimizer.learning_rate=2.5e-3", "data.path=other.h5"}},
                                      ConfigUse::kTrain, 1);
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_EQ(resolved->options.model.channels, 1);
  EXPECT_EQ(resolved->options.model.side, 64);
  EXPECT_EQ(resolved->options.train.steps, 7);
  EXPECT_EQ(resolved->options.train.seed, 3u);
  EXPECT_EQ(resolved->options.model.conditioning, Conditioning::kInContext);
  EXPECT_FALSE(resolved->options.data.flip);
  EXPECT_EQ(resolved->options.optimizer.learning_rate, 2.5e-3);
  EXPECT_EQ(resolved->options.data.path, "other.h5");
}

TEST(RunConfig, ErrorsNamePlaceAndRemedy) {
  const struct {
    std::string text, expected;
  } cases[] = {
      {"train {\n  stepz: 5 }", "run.textproto:2:3: unknown field train.stepz; did you mean train.steps?"},
      {"train { learning_rate: 5 }", "did you mean optimizer.learning_rate?"},
      {"trian { steps: 5 }", "unknown field trian; did you mean train?"},
      {"model { banana_republic: 5 }", "unknown field model.banana_republic; expected one of size, depth"},
      {"train { steps: \"ten\" }", "run.textproto:1:16: train.steps: expected an integer"},
      {"train { steps: 1.5 }", "train.steps: expected an integer"},
      {"train { precision: FP16 }", "train.precision: expected one of FP32, TF32, BF16"},
      {"data { flip: 7 }", "data.flip: expected true or false"},
      {"data { path: 7 }", "data.path: expected a quoted string"},
      {"train { steps: 1 steps: 2 }", "train.steps"},
      {"train: 5", "train: expected a section"},
      {"train { steps: 5", "run.textproto:1:17"},
      {"log { sample_steps: 1 }", "log.sample_steps: expected 2 to 100000, got 1"},
      {"train { steps: 0 }", "train.steps: expected 1 to 1000000000000, got 0"},
      {"train { steps: 99999999999999999999 }", "train.steps"},
      {"optimizer { learning_rate: 0 }", "optimizer.learning_rate: expected above 0 to 100, got 0"},
      {"optimizer { learning_rate: nan }", "optimizer.learning_rate: expected above 0 to 100, got nan"},
      {"optimizer { beta1: 1 }", "optimizer.beta1: expected 0 to below 1, got 1"},
      {"model { class_dropout: -0.1 }", "model.class_dropout: expected 0 to 1, got -0.1"},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.text);
    EXPECT_THAT(ErrorOf(Resolve(c.text)), HasSubstr(c.expected));
  }
}

TEST(RunConfig, CrossChecksAreMadeBeforeTraining) {
  const struct {
    std::string text;
    int64_t world;
    std::string expected;
  } cases[] = {
      {"data { path: \"x\" }", 1, "model: expected size"},
      {"data { path: \"x\" } model { depth: 2 width: 8 heads: 2 }", 1, "missing: patch"},
      {"data { path: \"x\" } model { size: \"DiT-S/3\" }", 1, "DiT-S/"},
      {"data { path: \"x\" } model { size: \"DiT-S/2\" patch: 4 }", 1, "model.patch: expected 2 for model.size"},
      {"data { path: \"x\" } model { depth: 2 width: 8 heads: 3 patch: 2 }", 1, "model.heads"},
      {"model { size: \"DiT-S/2\" }", 1, "data.path"},
      {std::string(kMinimal) + "parallel { dp: 3 }", 2, "3 x 1 x 1 = 3 ranks, got 2"},
      {std::string(kMinimal) + "train { global_batch: 10 }", 4,
       "train.global_batch: expected a multiple of parallel.dp 4"},
      {std::string(kMinimal) + "train { global_batch: 12 micro_batch: 4 }", 2, "2 x 4 = 8, got 12"},
      {std::string(kMinimal) + "train { virtual_shards: 6 }", 1, "train.virtual_shards: expected a power of two"},
      {std::string(kMinimal) + "parallel { virtual_stages: 2 }", 1, "parallel.virtual_stages"},
      {std::string(kMinimal) + "log { sample_every: 5 sample_steps: 2000 }", 1, "log.sample_steps"},
      {std::string(kMinimal) + "parallel { tp: 4 }", 4,
       "parallel.tp: expected a divisor of model.heads 6 (1, 2, 3, 6)"},
      {std::string(kMinimal) + "parallel { pp: 13 }", 13, "at most model.depth 12, got 13 x 1"},
      {std::string(kMinimal) + "parallel { pp: 5 schedule: INTERLEAVED virtual_stages: 3 }", 5, "got 5 x 3"},
      {std::string(kMinimal) + "parallel { pp: 2 tp: 3 }", 8, "tp 3 x pp 2 does not divide the 8 ranks"},
      {"data { path: \"x.h5\" } model { depth: 2 width: 24 heads: 6 patch: 16 } "
       "parallel { tp: 6 sequence_parallel: true }",
       6, "at least one token a rank of the tensor axis, got 4 tokens for tp 6"},
      {std::string(kMinimal) + "train { precision: BF16 device: CPU }", 1, "train.precision: BF16 needs a GPU"},
      {std::string(kMinimal) + "train { deterministic: true global_batch: 24 }", 3,
       "power of two of at most train.virtual_shards 8"},
      {std::string(kMinimal) + "train { deterministic: true } "
                               "parallel { pp: 2 schedule: ZERO_BUBBLE_H1 recompute: FULL }",
       2, "expected another schedule, or recompute NONE or SELECTIVE"},
      {std::string(kMinimal) + "train { deterministic: true global_batch: 12 }", 1,
       "multiple of train.virtual_shards 8, got 12"},
      {std::string(kMinimal) + "train { deterministic: true micro_batch: 16 }", 1,
       "global_batch / virtual_shards = 32"},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.text);
    EXPECT_THAT(ErrorOf(Resolve(c.text, c.world)), HasSubstr(c.expected));
  }
}

TEST(RunConfig, MicroBatchIsChosenWhereItIsZero) {
  const auto micro_batch = [](const std::string& more, int64_t world) {
    return Resolve(std::string(kMinimal) + more, world)->options.train.micro_batch;
  };
  EXPECT_EQ(micro_batch("", 4), 64);                                              // the rank's batch
  EXPECT_EQ(micro_batch("parallel { pp: 4 }", 4), 16);                            // sixteen of them for four stages
  EXPECT_EQ(micro_batch("parallel { pp: 4 } train { global_batch: 90 }", 4), 5);  // the largest divisor below
  EXPECT_EQ(micro_batch("train { deterministic: true }", 2), 32);                 // a virtual shard
}

TEST(RunConfig, SetsAreTypedAndNamed) {
  const struct {
    std::string set, expected;
  } cases[] = {
      {"train.stepz=1", "--set train.stepz=1: unknown field train.stepz; did you mean train.steps?"},
      {"train.steps=ten", "train.steps: expected an integer, got \"ten\""},
      {"train.steps=", "train.steps: expected an integer"},
      {"train.steps=0", "train.steps: expected 1 to"},
      {"data.flip=1", "data.flip: expected true or false, got \"1\""},
      {"train.device=GPU", "train.device: expected one of AUTO, CPU, CUDA, got \"GPU\""},
      {"optimizer.epsilon=inf", "optimizer.epsilon: expected above 0 to 1, got inf"},
      {"train=5", "expected section.field=value"},
      {"train.steps.more=5", "expected section.field=value"},
      {"train.steps", "expected section.field=value"},
      {".=1", "unknown field"},
      {"train.\x1b[31m=1", "\\x1b"},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.set);
    EXPECT_THAT(ErrorOf(LoadRunConfig({.files = {}, .sets = {c.set}}, ConfigUse::kTrain, 1)), HasSubstr(c.expected));
  }
}

TEST(RunConfig, HostileTextIsRefusedInBoundedSpace) {
  EXPECT_THAT(ErrorOf(Resolve(std::string(1 << 20, '{'))), HasSubstr("nested deeper than 64"));
  std::string sections;
  for (int i = 0; i < 1 << 18; ++i) sections += "model{";
  ErrorOf(Resolve(sections));
  EXPECT_THAT(ErrorOf(Resolve("model:" + std::string(1 << 20, '['))), HasSubstr("nested deeper than 64"));
  EXPECT_THAT(ErrorOf(Resolve(std::string(kMaxConfigBytes + 1, ' '))), HasSubstr("expected at most 8388608 bytes"));
  const std::string long_name(1 << 20, 'a');
  EXPECT_LT(ErrorOf(Resolve(long_name + ": 1")).size(), 400u);
  ErrorOf(Resolve(std::string("train { steps: \0 }", 18)));
  ErrorOf(Resolve("\xff\xfe\x00garbage"));
  EXPECT_THAT(ErrorOf(LoadRunConfig({.files = {"/no/such.textproto"}, .sets = {}}, ConfigUse::kTrain, 1)),
              HasSubstr("/no/such"));
}

// The rule that every number has a range, and every such default lies inside its own.
TEST(RunConfig, EveryNumberHasARange) {
  config::RunConfig defaults;
  FillDefaults(&defaults);
  EXPECT_TRUE(CheckRanges(defaults).ok()) << CheckRanges(defaults);
  for (const ConfigField& field : ConfigFields(*defaults.GetDescriptor())) {
    const auto type = field.field->cpp_type();
    using google::protobuf::FieldDescriptor;
    if (type == FieldDescriptor::CPPTYPE_ENUM || type == FieldDescriptor::CPPTYPE_BOOL) continue;
    ASSERT_TRUE(field.field->options().HasExtension(config::range)) << field.path;
    const config::Range& range = field.field->options().GetExtension(config::range);
    EXPECT_TRUE(range.has_max()) << field.path;
    EXPECT_TRUE(range.has_min() || type == FieldDescriptor::CPPTYPE_STRING) << field.path;
  }
}

TEST(RunConfig, ResumeRulesSortTheDifferences) {
  const auto saved = Resolve(std::string(kMinimal) + "train { steps: 10 }", 1);
  const auto same_data = Resolve(std::string(kMinimal) +
                                     "train { steps: 20 micro_batch: 64 } optimizer { beta1: 0.8 }"
                                     "parallel { bucket_mib: 1 } log { every_steps: 1 }",
                                 2);
  ASSERT_TRUE(saved.ok() && same_data.ok());
  auto diff = DiffRunConfigs(saved->text, same_data->text);
  ASSERT_TRUE(diff.ok()) << diff.status();
  EXPECT_THAT(diff->frozen, IsEmpty());
  EXPECT_THAT(diff->reported, ElementsAre("optimizer.beta1: 0.9 -> 0.8"));
  EXPECT_EQ(diff->free.size(), 5u);
  EXPECT_TRUE(CheckResumable(*diff).ok());
  EXPECT_EQ(saved->hash, same_data->hash);

  for (const std::string change :
       {"model.channels=3", "diffusion.steps=500", "data.path=y.h5", "train.seed=1", "train.global_batch=128"}) {
    const std::string file = WriteTemporary("c.textproto", kMinimal);
    const auto changed = LoadRunConfig({.files = {file}, .sets = {change}}, ConfigUse::kTrain, 1);
    ASSERT_TRUE(changed.ok()) << changed.status();
    diff = DiffRunConfigs(saved->text, changed->text);
    ASSERT_TRUE(diff.ok());
    EXPECT_EQ(diff->frozen.size(), 1u) << change;
    EXPECT_EQ(ExitCodeOf(CheckResumable(*diff)), ExitCode::kUsage);
    EXPECT_NE(saved->hash, changed->hash) << change;
  }
}

TEST(RunConfig, ASizeAndItsNumbersAreTheSameModel) {
  const auto named = Resolve(kMinimal);
  const auto numbers = Resolve("model { depth: 12 width: 384 heads: 6 patch: 8 } data { path: \"x.h5\" }");
  ASSERT_TRUE(named.ok() && numbers.ok());
  EXPECT_EQ(named->hash, numbers->hash);
  EXPECT_THAT(DiffRunConfigs(named->text, numbers->text)->frozen, IsEmpty());
}

TEST(RunConfig, ModelTextHoldsOnlyTheModel) {
  const auto resolved = Resolve(std::string(kMinimal) + "diffusion { prediction: V }");
  ASSERT_TRUE(resolved.ok());
  const auto text = ModelConfigText(resolved->text);
  ASSERT_TRUE(text.ok());
  EXPECT_THAT(*text, Not(HasSubstr("optimizer")));
  const auto model = ParseRunConfig(*text, "metadata", ConfigUse::kModel, 1);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ(model->options.model, resolved->options.model);
}

TEST(ExitCode, TheCodeNearestToTheCauseWins) {
  const absl::Status inner = WithExitCode(absl::InvalidArgumentError("x"), ExitCode::kUsage);
  EXPECT_EQ(ExitCodeOf(WithExitCode(inner, ExitCode::kIo)), ExitCode::kUsage);
  EXPECT_EQ(ExitCodeOf(absl::InvalidArgumentError("x")), ExitCode::kBadData);
  EXPECT_EQ(ExitCodeOf(absl::OkStatus()), ExitCode::kOk);
  EXPECT_EQ(ExitCodeOf(absl::InternalError("x")), ExitCode::kInternal);
}

}  // namespace
}  // namespace shardit
