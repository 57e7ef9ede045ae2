#include "trainer/export_diffusers.h"

#include <unistd.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/check.h"
#include "core/base/status_macros.h"
#include "core/tensor/allocator.h"
#include "data/formats/safetensors.h"
#include "model/dit.h"
#include "nlohmann/json.hpp"
#include "trainer/checkpoint_export.h"
#include "trainer/run_config/run_config.h"
#include "trainer/train/state_checkpoint.h"

namespace shardit {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kLibraryVersion[] = "0.30.0";  // the first with a class of its own for DiT

// Tensors of the file, pointing into the model's parameters.
class Renamer {
 public:
  explicit Renamer(const ParameterList& parameters) : parameters_(parameters) {}

  // Rows [first, first + rows) of a parameter; all of it by default.
  void Add(const std::string& name, const std::string& source, int64_t first = 0, int64_t rows = -1) {
    const Parameter* parameter = parameters_.Find(source);
    CHECK(parameter != nullptr) << "[ExportDiffusers] " << source;
    std::vector<int64_t> shape(parameter->shape.begin(), parameter->shape.end());
    const int64_t row = parameter->shape.elements() / shape[0];
    if (rows >= 0) shape[0] = rows;
    tensors_.push_back({{name, SafetensorsType::kF32, std::move(shape)}, parameter->value.data() + first * row});
  }

  void AddLayer(const std::string& name, const std::string& source) {
    Add(absl::StrCat(name, ".weight"), absl::StrCat(source, ".weight"));
    Add(absl::StrCat(name, ".bias"), absl::StrCat(source, ".bias"));
  }

  std::vector<SafetensorsTensor> Take() { return std::move(tensors_); }

 private:
  const ParameterList& parameters_;
  std::vector<SafetensorsTensor> tensors_;
};

void AddBlock(const DitConfig& config, int64_t index, Renamer* out) {
  const std::string from = absl::StrCat("blocks.", index, "."), to = absl::StrCat("transformer_blocks.", index, ".");
  const std::string embedding = absl::StrCat(to, "norm1.emb.");
  out->AddLayer(absl::StrCat(embedding, "timestep_embedder.linear_1"), "t_embedder.mlp.0");
  out->AddLayer(absl::StrCat(embedding, "timestep_embedder.linear_2"), "t_embedder.mlp.2");
  out->Add(absl::StrCat(embedding, "class_embedder.embedding_table.weight"), "y_embedder.embedding_table.weight");
  out->AddLayer(absl::StrCat(to, "norm1.linear"), absl::StrCat(from, "adaLN_modulation.1"));
  const char* const parts[] = {"to_q", "to_k", "to_v"};
  for (int64_t part = 0; part < 3; ++part) {
    for (const char* kind : {".weight", ".bias"}) {
      out->Add(absl::StrCat(to, "attn1.", parts[part], kind), absl::StrCat(from, "attn.qkv", kind), part * config.width,
               config.width);
    }
  }
  out->AddLayer(absl::StrCat(to, "attn1.to_out.0"), absl::StrCat(from, "attn.proj"));
  out->AddLayer(absl::StrCat(to, "ff.net.0.proj"), absl::StrCat(from, "mlp.fc1"));
  out->AddLayer(absl::StrCat(to, "ff.net.2"), absl::StrCat(from, "mlp.fc2"));
}

std::vector<SafetensorsTensor> RenamedTensors(const Dit& model) {
  Renamer out(model.parameters());
  out.AddLayer("pos_embed.proj", "x_embedder.proj");
  for (int64_t i = 0; i < model.config().depth; ++i) AddBlock(model.config(), i, &out);
  out.AddLayer("proj_out_1", "final_layer.adaLN_modulation.1");
  out.AddLayer("proj_out_2", "final_layer.linear");
  return out.Take();
}

Json TransformerConfig(const DitConfig& config) {
  return {{"_class_name", "DiTTransformer2DModel"},
          {"_diffusers_version", kLibraryVersion},
          {"activation_fn", "gelu-approximate"},
          {"attention_bias", true},
          {"attention_head_dim", config.head_dim()},
          {"dropout", 0.0},
          {"in_channels", config.channels},
          {"norm_elementwise_affine", false},
          {"norm_eps", 1e-6},  // the library's default is 1e-5
          {"norm_num_groups", 32},
          {"norm_type", "ada_norm_zero"},
          {"num_attention_heads", config.heads},
          {"num_embeds_ada_norm", config.classes},
          {"num_layers", config.depth},
          {"out_channels", config.out_channels()},
          {"patch_size", config.patch},
          {"sample_size", config.side},
          {"upcast_attention", false}};
}

const char* PredictionType(Prediction prediction) {
  switch (prediction) {
    case Prediction::kEpsilon:
      return "epsilon";
    case Prediction::kX0:
      return "sample";
    case Prediction::kV:
      return "v_prediction";
  }
  return "";
}

// The steps of our own samplers: linspace spacing, x_0 not clipped, the last step to alpha_bar 1.
Json SchedulerConfig(const DiffusionOptions& diffusion) {
  const double scale = 1000.0 / static_cast<double>(diffusion.steps);
  Json config = {{"_class_name", "DDIMScheduler"},
                 {"_diffusers_version", kLibraryVersion},
                 {"beta_end", 0.02 * scale},
                 {"beta_schedule", diffusion.schedule == NoiseSchedule::kLinear ? "linear" : "squaredcos_cap_v2"},
                 {"beta_start", 1e-4 * scale},
                 {"clip_sample", false},
                 {"num_train_timesteps", diffusion.steps},
                 {"prediction_type", PredictionType(diffusion.prediction)},
                 {"set_alpha_to_one", true},
                 {"steps_offset", 0},
                 {"timestep_spacing", "linspace"}};
  return config;
}

Json PipelineIndex() {
  return {{"_class_name", "DiTPipeline"},
          {"_diffusers_version", kLibraryVersion},
          {"scheduler", {"diffusers", "DDIMScheduler"}},
          {"transformer", {"diffusers", "DiTTransformer2DModel"}},
          {"vae", {"diffusers", "AutoencoderKL"}}};
}

absl::Status WriteJson(FileSystem& fs, const std::string& path, const Json& json) {
  return AtomicWriteFile(fs, path, absl::StrCat(json.dump(2), "\n"));
}

absl::Status WriteFolder(FileSystem& fs, const std::string& folder, const ResolvedConfig& config, const Dit& model) {
  const std::string transformer = JoinPath(folder, "transformer"), scheduler = JoinPath(folder, "scheduler");
  RETURN_IF_ERROR(MakeFolders(fs, transformer));
  RETURN_IF_ERROR(MakeFolders(fs, scheduler));
  RETURN_IF_ERROR(WriteSafetensors(fs, JoinPath(transformer, "diffusion_pytorch_model.safetensors"),
                                   RenamedTensors(model), {{"format", "pt"}}));
  RETURN_IF_ERROR(WriteJson(fs, JoinPath(transformer, "config.json"), TransformerConfig(model.config())));
  RETURN_IF_ERROR(
      WriteJson(fs, JoinPath(scheduler, "scheduler_config.json"), SchedulerConfig(config.options.diffusion)));
  return WriteJson(fs, JoinPath(folder, "model_index.json"), PipelineIndex());
}

}  // namespace

absl::Status ExportDiffusers(FileSystem& fs, const CheckpointReader& reader, StateGroup group, const std::string& out) {
  ASSIGN_OR_RETURN(const ResolvedConfig config,
                   ParseRunConfig(reader.state().config_text,
                                  absl::StrCat("configuration in ", Quoted(reader.folder())), ConfigUse::kModel, 1));
  if (config.options.model.conditioning != Conditioning::kAdaLnZero) {
    return absl::InvalidArgumentError(absl::StrCat(
        Quoted(reader.folder()), ": the model's conditioning is ", std::string(Name(config.options.model.conditioning)),
        ", expected ADALN_ZERO: diffusers has no model for the others; use --format dit"));
  }
  if (KindOfPath(out) != PathKind::kMissing) {
    return absl::AlreadyExistsError(absl::StrCat(Quoted(out), " exists; choose another --out"));
  }
  RETURN_IF_ERROR(CheckModelFits(config.options.model, reader, group));
  Allocator allocator(Device::Cpu());
  Dit model(config.options.model);
  model.parameters().Allocate(allocator);
  RETURN_IF_ERROR(LoadGroup(reader, group, model.parameters()));
  const std::string temporary = absl::StrCat(out, ".tmp-", getpid());
  RETURN_IF_ERROR(RemoveTree(fs, temporary));
  absl::Status status = WriteFolder(fs, temporary, config, model);
  if (status.ok()) status = fs.Rename(temporary, out);
  if (!status.ok()) {
    RemoveTree(fs, temporary).IgnoreError();  // the first error is the one to report
    return status;
  }
  return fs.SyncFolder(ParentFolder(out));
}

}  // namespace shardit
