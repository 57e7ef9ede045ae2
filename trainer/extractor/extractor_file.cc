#include "trainer/extractor/extractor_file.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/status_macros.h"
#include "data/formats/safetensors.h"
#include "model/inception.h"
#include "trainer/extractor/classifier_extractor.h"
#include "trainer/extractor/file_hash.h"
#include "trainer/extractor/inception_extractor.h"

namespace shardit {
namespace {

constexpr char kFormatKey[] = "format";
constexpr char kFormat[] = "shardit.extractor.1";

// The classifier's configuration in the metadata.
struct ConfigField {
  const char* key;
  int64_t ClassifierConfig::*member;
};
constexpr ConfigField kConfigFields[] = {{"config.channels", &ClassifierConfig::channels},
                                         {"config.height", &ClassifierConfig::height},
                                         {"config.width", &ClassifierConfig::width},
                                         {"config.classes", &ClassifierConfig::classes},
                                         {"config.first_channels", &ClassifierConfig::first_channels},
                                         {"config.feature_dim", &ClassifierConfig::feature_dim}};

absl::Status Bad(const std::string& path, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("extractor ", Quoted(path), ": ", what));
}

std::vector<int64_t> Dims(const Shape& shape) { return {shape.begin(), shape.end()}; }

std::string Field(const SafetensorsReader& file, const std::string& key) {
  const auto found = file.metadata().find(key);
  return found == file.metadata().end() ? "" : found->second;
}

absl::Status CheckFormat(const SafetensorsReader& file) {
  const std::string format = Field(file, kFormatKey);
  if (format == kFormat) return absl::OkStatus();
  return Bad(file.path(), absl::StrCat("its format is '", absl::CHexEscape(format), "', expected '", kFormat,
                                       "'; make one with shardit extractor"));
}

// Every `count` matrix [rows, columns] as [columns, rows].
void TransposeEach(const float* from, int64_t count, int64_t rows, int64_t columns, float* to) {
  for (int64_t n = 0; n < count; ++n, from += rows * columns, to += rows * columns) {
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t column = 0; column < columns; ++column) to[column * rows + row] = from[row * columns + column];
    }
  }
}

// The file holds every parameter in its shape, and nothing else. Before memory is taken for them.
absl::Status CheckShapes(const SafetensorsReader& file, const ParameterList& parameters) {
  for (const auto& parameter : parameters.all()) {
    ASSIGN_OR_RETURN(const SafetensorsEntry* entry, file.Require(parameter->name));
    const std::vector<int64_t> expected = Dims(FileShape(parameter->shape));
    if (entry->shape == expected) continue;
    return Bad(file.path(),
               absl::StrCat("tensor '", parameter->name, "' has shape [", absl::StrJoin(entry->shape, ", "),
                            "], expected [", absl::StrJoin(expected, ", "), "]"));
  }
  if (file.entries().size() == parameters.size()) return absl::OkStatus();
  return Bad(file.path(), absl::StrCat("has ", file.entries().size(), " tensors, expected ", parameters.size()));
}

absl::Status ReadParameters(const SafetensorsReader& file, RankContext& context, ParameterList& parameters) {
  RETURN_IF_ERROR(CheckShapes(file, parameters));
  parameters.Allocate(context.allocator());
  for (const auto& parameter : parameters.all()) {
    const SafetensorsEntry* entry = file.Find(parameter->name);
    std::vector<float> stored(static_cast<size_t>(entry->elements())), values(stored.size());
    RETURN_IF_ERROR(file.ReadAsFloat(*entry, 0, entry->elements(), stored.data()));
    RETURN_IF_ERROR(CheckWeights(file.path(), parameter->name, stored));
    FromFileOrder(stored.data(), parameter->shape, values.data());
    parameter->value.FromHost(values.data());
  }
  return absl::OkStatus();
}

absl::StatusOr<ClassifierConfig> ReadConfig(const SafetensorsReader& file) {
  ClassifierConfig config;
  for (const ConfigField& field : kConfigFields) {
    const std::string text = Field(file, field.key);
    if (!absl::SimpleAtoi(text, &(config.*field.member))) {
      return Bad(file.path(),
                 absl::StrCat("its metadata ", field.key, " is '", absl::CHexEscape(text), "', expected a number"));
    }
  }
  const absl::Status valid = config.Validate();
  if (!valid.ok()) return Bad(file.path(), valid.message());
  return config;
}

absl::Status WriteParameters(FileSystem& fs, const std::string& path, const ParameterList& parameters,
                             const std::map<std::string, std::string>& metadata) {
  std::vector<std::vector<float>> stored;
  std::vector<SafetensorsTensor> tensors;
  for (const auto& parameter : parameters.all()) {
    std::vector<float> values(static_cast<size_t>(parameter->shape.elements()));
    parameter->value.ToHost(values.data());
    stored.emplace_back(values.size());
    ToFileOrder(values.data(), parameter->shape, stored.back().data());
    tensors.push_back(
        {.spec = {.name = parameter->name, .shape = Dims(FileShape(parameter->shape))}, .data = stored.back().data()});
  }
  return WriteSafetensors(fs, path, std::move(tensors), metadata);
}

// An extractor and what only its file's reader needs to know of it.
struct Loaded {
  std::unique_ptr<FeatureExtractor> extractor;
  int64_t parameters = 0;  // elements
  std::map<std::string, std::string> metadata;
};

absl::StatusOr<Loaded> Load(const std::string& path, RankContext& context, ResizeMode resize) {
  ASSIGN_OR_RETURN(const SafetensorsReader file, SafetensorsReader::Open(path));
  RETURN_IF_ERROR(CheckFormat(file));
  ASSIGN_OR_RETURN(const std::string hash, Sha256OfFile(path));
  const std::string architecture = Field(file, kArchitectureKey), source = Field(file, kSourceKey);
  Loaded loaded{.metadata = file.metadata()};
  const auto fill = [&](ParameterList& parameters) {
    loaded.parameters = parameters.elements();
    return ReadParameters(file, context, parameters);
  };
  if (architecture == kInceptionArchitecture) {
    auto network = std::make_unique<InceptionV3>();
    RETURN_IF_ERROR(fill(network->parameters()));
    loaded.extractor = std::make_unique<InceptionExtractor>(std::move(network), hash, source, resize);
    return loaded;
  }
  if (architecture == kClassifierArchitecture) {
    ASSIGN_OR_RETURN(const ClassifierConfig config, ReadConfig(file));
    auto network = std::make_unique<Classifier>(config);
    RETURN_IF_ERROR(fill(network->parameters()));
    loaded.extractor = std::make_unique<ClassifierExtractor>(std::move(network), hash);
    return loaded;
  }
  return Bad(path, absl::StrCat("its architecture is '", absl::CHexEscape(architecture), "', expected '",
                                kInceptionArchitecture, "' or '", kClassifierArchitecture, "'"));
}

}  // namespace

absl::Status CheckWeights(const std::string& path, const std::string& name, std::span<const float> values) {
  const bool is_variance = absl::EndsWith(name, ".running_var");
  for (const float value : values) {
    if (std::isfinite(value) && (!is_variance || value >= 0)) continue;
    return absl::InvalidArgumentError(absl::StrCat("weights ", Quoted(path), ": tensor '", name, "' holds ", value,
                                                   ", expected finite numbers", is_variance ? " of at least 0" : ""));
  }
  return absl::OkStatus();
}

Shape FileShape(const Shape& parameter) {
  if (parameter.ndim() != 4) return parameter;
  return {parameter[0], parameter[3], parameter[1], parameter[2]};
}

void FromFileOrder(const float* file, const Shape& parameter, float* out) {
  if (parameter.ndim() != 4) {
    std::copy_n(file, parameter.elements(), out);
  } else {
    TransposeEach(file, parameter[0], parameter[3], parameter[1] * parameter[2], out);
  }
}

void ToFileOrder(const float* values, const Shape& parameter, float* file) {
  if (parameter.ndim() != 4) {
    std::copy_n(values, parameter.elements(), file);
  } else {
    TransposeEach(values, parameter[0], parameter[1] * parameter[2], parameter[3], file);
  }
}

absl::StatusOr<std::unique_ptr<FeatureExtractor>> LoadExtractor(const std::string& path, RankContext& context,
                                                                ResizeMode resize) {
  ASSIGN_OR_RETURN(Loaded loaded, Load(path, context, resize));
  return std::move(loaded.extractor);
}

absl::StatusOr<ExtractorSummary> DescribeExtractor(const std::string& path, RankContext& context) {
  ASSIGN_OR_RETURN(const Loaded loaded, Load(path, context, ResizeMode::kBilinear));
  return ExtractorSummary{.info = loaded.extractor->info(),
                          .parameters = loaded.parameters,
                          .flops_per_image = loaded.extractor->FlopsPerImage(),
                          .metadata = loaded.metadata};
}

absl::Status WriteInception(FileSystem& fs, const std::string& path, const ParameterList& parameters,
                            std::map<std::string, std::string> metadata) {
  metadata[kFormatKey] = kFormat;
  metadata[kArchitectureKey] = kInceptionArchitecture;
  return WriteParameters(fs, path, parameters, metadata);
}

absl::Status WriteClassifier(FileSystem& fs, const std::string& path, const Classifier& classifier,
                             std::map<std::string, std::string> metadata) {
  metadata[kFormatKey] = kFormat;
  metadata[kArchitectureKey] = kClassifierArchitecture;
  for (const ConfigField& field : kConfigFields) metadata[field.key] = absl::StrCat(classifier.config().*field.member);
  return WriteParameters(fs, path, classifier.parameters(), metadata);
}

}  // namespace shardit
