#include "trainer/export_diffusers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <regex>

#include "core/tensor/allocator.h"
#include "data/formats/safetensors.h"
#include "model/dit.h"
#include "nlohmann/json.hpp"
#include "tests/trainer/checkpoint_store_testing.h"
#include "trainer/run_config/run_config.h"

namespace shardit {
namespace {

using namespace checkpoint_testing;  // NOLINT: test vocabulary
using testing::HasSubstr;

constexpr char kConfig[] = "model { depth: 3 width: 48 heads: 3 patch: 4 channels: 2 side: 8 classes: 5 } ";

// A checkpoint of a small model, every weight drawn, live weights and EMA different.
CheckpointReader SaveModel(const std::string& folder, const std::string& config_text) {
  const auto config = ParseRunConfig(config_text, "test", ConfigUse::kModel, 1);
  EXPECT_TRUE(config.ok()) << config.status();
  const Dit model(config->options.model);
  RankSlices slices;
  for (const StateGroup group : kStateGroups) {
    for (const auto& parameter : model.parameters().all()) {
      const std::vector<int64_t> shape(parameter->shape.begin(), parameter->shape.end());
      slices.Add(7, group, {parameter->name, shape}, WholeBox(shape));
    }
  }
  RunState state = TestState(7);
  state.config_text = config->text;
  CheckpointWriter writer({folder, "run-1", "1", {}, &PosixFileSystem()}, SingleRankExchange());
  EXPECT_TRUE(writer.Prepare().ok());
  EXPECT_TRUE(writer.Save(state, slices.slices).ok());
  return *OpenCheckpointStep(folder, 7);
}

// Where a tensor of the folder comes from: the mapping read backwards, and the first row there.
std::pair<std::string, int64_t> SourceOf(const std::string& name, int64_t width) {
  static const std::pair<const char*, const char*> kRules[] = {
      {"^pos_embed\\.proj\\.", "x_embedder.proj."},
      {"^transformer_blocks\\.\\d+\\.norm1\\.emb\\.timestep_embedder\\.linear_1\\.", "t_embedder.mlp.0."},
      {"^transformer_blocks\\.\\d+\\.norm1\\.emb\\.timestep_embedder\\.linear_2\\.", "t_embedder.mlp.2."},
      {"^transformer_blocks\\.\\d+\\.norm1\\.emb\\.class_embedder\\.", "y_embedder."},
      {"^transformer_blocks\\.(\\d+)\\.norm1\\.linear\\.", "blocks.$1.adaLN_modulation.1."},
      {"^transformer_blocks\\.(\\d+)\\.attn1\\.to_[qkv]\\.", "blocks.$1.attn.qkv."},
      {"^transformer_blocks\\.(\\d+)\\.attn1\\.to_out\\.0\\.", "blocks.$1.attn.proj."},
      {"^transformer_blocks\\.(\\d+)\\.ff\\.net\\.0\\.proj\\.", "blocks.$1.mlp.fc1."},
      {"^transformer_blocks\\.(\\d+)\\.ff\\.net\\.2\\.", "blocks.$1.mlp.fc2."},
      {"^proj_out_1\\.", "final_layer.adaLN_modulation.1."},
      {"^proj_out_2\\.", "final_layer.linear."}};
  const int64_t row = name.find("to_k") != std::string::npos   ? width
                      : name.find("to_v") != std::string::npos ? 2 * width
                                                               : 0;
  for (const auto& [pattern, replacement] : kRules) {
    if (std::regex_search(name, std::regex(pattern))) {
      return {std::regex_replace(name, std::regex(pattern), replacement), row};
    }
  }
  return {"", 0};
}

TEST(ExportDiffusers, EveryTensorIsThereUnderItsName) {
  TempFolder folder;
  const CheckpointReader reader = SaveModel(folder / "checkpoints", kConfig);
  ASSERT_TRUE(ExportDiffusers(PosixFileSystem(), reader, StateGroup::kEma, folder / "out").ok());
  const auto file = SafetensorsReader::Open(folder / "out/transformer/diffusion_pytorch_model.safetensors");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->metadata().at("format"), "pt");
  // Per block: two timestep layers, the label table, the modulation, q, k, v, out and two of the MLP.
  EXPECT_EQ(file->entries().size(), 2u + 3 * (4 + 1 + 2 + 6 + 2 + 4) + 4);
  std::set<std::string> used;
  for (const SafetensorsEntry& entry : file->entries()) {
    const auto [source, row] = SourceOf(entry.name, 48);
    const StoredTensor* stored = reader.Find(StateGroup::kEma, source);
    ASSERT_NE(stored, nullptr) << entry.name << " from " << source;
    used.insert(source);
    std::vector<int64_t> shape = stored->shape;
    if (source.find("qkv") != std::string::npos) shape[0] = 48;
    EXPECT_EQ(entry.shape, shape) << entry.name;
    const int64_t first = row * Volume(WholeBox(stored->shape)) / stored->shape[0];
    std::vector<float> values(static_cast<size_t>(entry.elements()));
    ASSERT_TRUE(file->ReadAsFloat(entry, 0, entry.elements(), values.data()).ok());
    for (size_t i = 0; i < values.size(); ++i) {
      ASSERT_EQ(values[i], TestValue(7, StateGroup::kEma, source, first + static_cast<int64_t>(i))) << entry.name;
    }
  }
  size_t parameters = 0;
  for (const StoredTensor& tensor : reader.manifest().tensors) parameters += tensor.group == StateGroup::kEma;
  EXPECT_EQ(used.size(), parameters);  // none was left out
}

nlohmann::json ReadJson(const std::string& path) {
  return nlohmann::json::parse(ReadWholeFile(path, 1 << 20).value_or("{}"));
}

TEST(ExportDiffusers, ConfigurationsSayWhatTheModelIs) {
  TempFolder folder;
  const CheckpointReader reader = SaveModel(
      folder / "checkpoints", std::string(kConfig) + "diffusion { steps: 500 schedule: COSINE prediction: V }");
  ASSERT_TRUE(ExportDiffusers(PosixFileSystem(), reader, StateGroup::kModel, folder / "out").ok());
  const nlohmann::json index = ReadJson(folder / "out/model_index.json");
  EXPECT_EQ(index["_class_name"], "DiTPipeline");
  EXPECT_EQ(index["transformer"], nlohmann::json({"diffusers", "DiTTransformer2DModel"}));
  const nlohmann::json model = ReadJson(folder / "out/transformer/config.json");
  EXPECT_EQ(model["num_attention_heads"], 3);
  EXPECT_EQ(model["attention_head_dim"], 16);
  EXPECT_EQ(model["num_layers"], 3);
  EXPECT_EQ(model["in_channels"], 2);
  EXPECT_EQ(model["out_channels"], 4);
  EXPECT_EQ(model["sample_size"], 8);
  EXPECT_EQ(model["num_embeds_ada_norm"], 5);
  EXPECT_EQ(model["norm_eps"], 1e-6);
  EXPECT_EQ(model["norm_type"], "ada_norm_zero");
  const nlohmann::json scheduler = ReadJson(folder / "out/scheduler/scheduler_config.json");
  EXPECT_EQ(scheduler["num_train_timesteps"], 500);
  EXPECT_EQ(scheduler["beta_schedule"], "squaredcos_cap_v2");
  EXPECT_EQ(scheduler["prediction_type"], "v_prediction");
  EXPECT_EQ(scheduler["beta_end"], 0.04);
  EXPECT_EQ(scheduler["clip_sample"], false);
}

TEST(ExportDiffusers, RefusesOtherDesignsAndExistingFoldersAndLeavesNothingBehind) {
  TempFolder folder;
  const CheckpointReader other =
      SaveModel(folder / "other",
                "model { depth: 3 width: 48 heads: 3 patch: 4 channels: 2 side: 8 classes: 5 "
                "conditioning: IN_CONTEXT }");
  const absl::Status design = ExportDiffusers(PosixFileSystem(), other, StateGroup::kEma, folder / "out");
  EXPECT_THAT(std::string(design.message()), HasSubstr("IN_CONTEXT, expected ADALN_ZERO"));
  const CheckpointReader reader = SaveModel(folder / "checkpoints", kConfig);
  FaultFileSystem fs;
  fs.bytes_left = 50000;
  EXPECT_EQ(ExportDiffusers(fs, reader, StateGroup::kEma, folder / "out").code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ListFolder(folder.path())->size(), 2u);
  ASSERT_TRUE(ExportDiffusers(PosixFileSystem(), reader, StateGroup::kEma, folder / "out").ok());
  EXPECT_EQ(ExportDiffusers(PosixFileSystem(), reader, StateGroup::kEma, folder / "out").code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(ListFolder(folder.path())->size(), 3u);
}

}  // namespace
}  // namespace shardit
