#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/tensor/rng.h"
#include "data/formats/safetensors.h"
#include "model/inception.h"
#include "tests/data/test_files.h"
#include "trainer/extractor/convert_inception.h"
#include "trainer/extractor/extractor_file.h"
#include "trainer/extractor/file_hash.h"
#include "trainer/extractor/image_tensor.h"
#include "trainer/extractor/train_classifier.h"
#include "trainer/run_config/exit_code.h"

namespace shardit {
namespace {

using testing::HasSubstr;

TEST(FileHashTest, IsSha256) {
  const TempFolder folder;
  WriteBytes(folder / "abc", "abc");
  WriteBytes(folder / "none", "");
  WriteBytes(folder / "million", std::string(1000000, 'a'));  // FIPS 180-4's examples
  EXPECT_EQ(*Sha256OfFile(folder / "abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(*Sha256OfFile(folder / "none"), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(*Sha256OfFile(folder / "million"), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  EXPECT_EQ(Sha256OfFile(folder / "missing").status().code(), absl::StatusCode::kNotFound);
}

// A classifier with drawn weights and its file.
class ExtractorFileTest : public testing::Test {
 protected:
  ExtractorFileTest() : context_(2), classifier_({.channels = 3, .height = 8, .width = 4, .classes = 3}) {
    classifier_.parameters().Allocate(context_.allocator());
    classifier_.parameters().Initialize(5);
    path_ = folder_ / "x.safetensors";
    CHECK(WriteClassifier(PosixFileSystem(), path_, classifier_, {{"train.seed", "5"}}).ok());
  }

  std::string Refusal() {
    const auto extractor = LoadExtractor(path_, context_, ResizeMode::kBilinear);
    return extractor.ok() ? "accepted" : std::string(extractor.status().message());
  }

  // Writes the file again with other metadata or tensors.
  void Rewrite(const std::map<std::string, std::string>& changes, const std::string& tensor = "", float value = 0,
               const std::vector<int64_t>& shape = {}) {
    const auto file = SafetensorsReader::Open(path_);
    std::map<std::string, std::string> metadata = file->metadata();
    for (const auto& [key, text] : changes) metadata[key] = text;
    std::vector<std::vector<float>> values;
    std::vector<SafetensorsTensor> tensors;
    for (const SafetensorsEntry& entry : file->entries()) {
      if (entry.name == tensor && shape == std::vector<int64_t>{-1}) continue;
      values.emplace_back(static_cast<size_t>(entry.elements()));
      ASSERT_TRUE(file->ReadAsFloat(entry, 0, entry.elements(), values.back().data()).ok());
      tensors.push_back({.spec = {.name = entry.name, .shape = entry.shape}, .data = values.back().data()});
      if (entry.name != tensor) continue;
      values.back()[0] = value;
      if (!shape.empty()) tensors.back().spec.shape = shape;
    }
    ASSERT_TRUE(WriteSafetensors(PosixFileSystem(), path_, std::move(tensors), metadata).ok());
  }

  TempFolder folder_;
  RankContext context_;
  Classifier classifier_;
  std::string path_;
};

TEST_F(ExtractorFileTest, ComesBackAsItWas) {
  const auto extractor = LoadExtractor(path_, context_, ResizeMode::kBilinear);
  ASSERT_TRUE(extractor.ok()) << extractor.status();
  const ExtractorInfo& info = (*extractor)->info();
  EXPECT_EQ(info.architecture, "classifier");
  EXPECT_EQ(info.weights_sha256, *Sha256OfFile(path_));
  EXPECT_EQ(info.source_sha256, "");
  EXPECT_EQ(info.resize, "none (8 x 4), to [-1, 1]");
  EXPECT_EQ(info.feature_dim, 128);
  EXPECT_EQ(info.spatial_dim, 2 * 1 * 7);
  EXPECT_EQ(info.classes, 3);
  EXPECT_FALSE(info.is_fid);
  EXPECT_EQ((*extractor)->FlopsPerImage(), classifier_.FlopsPerImage());

  std::vector<uint8_t> pixels(2 * 8 * 4 * 3);
  for (size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<uint8_t>(i * 7);
  const Tensor x = Tensor::Empty(context_.allocator(), {2, 8, 4, 3});
  for (size_t i = 0; i < pixels.size(); ++i) x.data()[i] = static_cast<float>(pixels[i]) / 127.5f - 1.0f;
  Tape tape(context_, Tape::Mode::kInference);
  const Classifier::Output expected = classifier_.Forward(tape, Var(x));
  FeatureBatch batch;
  ASSERT_TRUE((*extractor)->Extract(context_, pixels, {2, 8, 4, 3}, &batch).ok());
  EXPECT_EQ(batch.features, ToHostVector(expected.features.value()));
  EXPECT_EQ(batch.logits, ToHostVector(expected.logits.value()));
  ASSERT_EQ(batch.spatial.size(), 2u * 14);
  const Tensor map = expected.map_NHWC.value();
  for (size_t i = 0; i < batch.spatial.size(); ++i) {
    EXPECT_EQ(batch.spatial[i], map.data()[i / 7 * static_cast<size_t>(map.dim(3)) + i % 7]) << i;
  }
}

TEST_F(ExtractorFileTest, HoldsWeightsInTheOrderOfPyTorch) {
  const auto file = SafetensorsReader::Open(path_);
  const SafetensorsEntry* entry = file->Find("conv0.weight");
  EXPECT_EQ(entry->shape, (std::vector<int64_t>{16, 3, 3, 3}));
  std::vector<float> stored(static_cast<size_t>(entry->elements()));
  ASSERT_TRUE(file->ReadAsFloat(*entry, 0, entry->elements(), stored.data()).ok());
  const float* weight = classifier_.parameters().Find("conv0.weight")->value.data();
  // Output channel 2, input channel 1, row 0, column 2.
  EXPECT_EQ(stored[((2 * 3 + 1) * 3 + 0) * 3 + 2], weight[((2 * 3 + 0) * 3 + 2) * 3 + 1]);
}

TEST_F(ExtractorFileTest, TakesGreyForColourAndNothingElse) {
  const auto extractor = LoadExtractor(path_, context_, ResizeMode::kBilinear);
  std::vector<uint8_t> grey(8 * 4), colour(8 * 4 * 3);
  for (size_t i = 0; i < colour.size(); ++i) colour[i] = grey[i / 3] = static_cast<uint8_t>(i / 3 * 5);
  FeatureBatch from_grey, from_colour;
  ASSERT_TRUE((*extractor)->Extract(context_, grey, {1, 8, 4, 1}, &from_grey).ok());
  ASSERT_TRUE((*extractor)->Extract(context_, colour, {1, 8, 4, 3}, &from_colour).ok());
  EXPECT_EQ(from_grey.features, from_colour.features);
  const absl::Status refused = (*extractor)->Extract(context_, grey, {1, 4, 8, 1}, &from_grey);
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("1 images of 4 x 8 x 1, expected the size it was trained on"));
}

TEST_F(ExtractorFileTest, NamesWhatIsWrong) {
  EXPECT_EQ(Refusal(), "accepted");
  const std::string whole = ReadBytes(path_);
  const auto refusal_of = [&](const std::map<std::string, std::string>& changes, const std::string& tensor = "",
                              float value = 0, const std::vector<int64_t>& shape = {}) {
    WriteBytes(path_, whole);
    Rewrite(changes, tensor, value, shape);
    return Refusal();
  };
  EXPECT_THAT(refusal_of({{"format", "pt"}}), HasSubstr("its format is 'pt', expected 'shardit.extractor.1'"));
  EXPECT_THAT(refusal_of({{"architecture", "vgg"}}), HasSubstr("its architecture is 'vgg'"));
  EXPECT_THAT(refusal_of({{"architecture", "inception-v3-fid"}}), HasSubstr("Conv2d_1a_3x3.conv.weight"));
  EXPECT_THAT(refusal_of({{"config.classes", "ten"}}), HasSubstr("config.classes is 'ten'"));
  EXPECT_THAT(refusal_of({{"config.height", "6"}}), HasSubstr("image side 6"));
  EXPECT_THAT(refusal_of({{"config.classes", "4"}}), HasSubstr("'head.weight' has shape [3, 128, 1, 1], expected [4,"));
  EXPECT_THAT(refusal_of({}, "head.bias", NAN), HasSubstr("tensor 'head.bias' holds nan"));
  EXPECT_THAT(refusal_of({}, "head.bias", 0, {-1}), HasSubstr("head.bias"));
  EXPECT_THAT(refusal_of({}, "head.bias", 0, {3, 1, 1, 1, 1, 1, 1}), HasSubstr("has shape [3, 1, 1, 1, 1, 1, 1]"));
  WriteBytes(path_, whole.substr(0, whole.size() - 1));
  EXPECT_THAT(Refusal(), HasSubstr("x.safetensors"));
}

// Two classes that differ in which half of the image is bright.
void WriteHalves(const std::string& path, int64_t count, uint64_t seed) {
  auto writer = LatentFileWriter::Create({.path = path, .count = count, .shape = {1, 8, 8}, .classes = 2});
  ASSERT_TRUE(writer.ok()) << writer.status();
  std::vector<float> image(64);
  for (int64_t i = 0; i < count; ++i) {
    FillUniform({.seed = seed, .purpose = RngPurpose::kTest, .stream = static_cast<uint64_t>(i)}, 0, 64, image.data());
    const int32_t label = static_cast<int32_t>(i % 2);
    for (int64_t e = 0; e < 64; ++e) {
      image[static_cast<size_t>(e)] += (e % 8 < 4) == (label == 0) ? -0.2f : -0.8f;
    }
    ASSERT_TRUE((*writer)->Append(image.data(), &label, 1).ok());
  }
  ASSERT_TRUE((*writer)->Commit().ok());
}

class TrainClassifierTest : public testing::Test {
 protected:
  void SetUp() override {
    WriteHalves(folder_ / "train.h5", 250, 1);
    WriteHalves(folder_ / "test.h5", 100, 2);
    training_ = {.data = folder_ / "train.h5",
                 .validation = folder_ / "test.h5",
                 .out = folder_ / "x.safetensors",
                 .epochs = 4,
                 .batch = 25,
                 .first_channels = 4};
  }

  absl::StatusOr<ClassifierReport> Train(int threads) {
    RankContext context(threads);
    return TrainClassifier(context, training_);
  }

  TempFolder folder_;
  ClassifierTraining training_;
};

TEST_F(TrainClassifierTest, LearnsAndSaysHowWell) {
  const auto report = Train(2);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->steps, 40);
  EXPECT_EQ(report->images, 250);
  ASSERT_TRUE(report->accuracy.has_value());
  EXPECT_GT(*report->accuracy, 0.95);
  EXPECT_LT(report->loss, 0.3);
  RankContext context(1);
  const auto summary = DescribeExtractor(training_.out, context);
  ASSERT_TRUE(summary.ok()) << summary.status();
  EXPECT_EQ(summary->info.weights_sha256, report->sha256);
  EXPECT_EQ(summary->parameters, report->parameters);
  EXPECT_EQ(summary->info.classes, 2);
  EXPECT_EQ(summary->metadata.at("train.epochs"), "4");
  EXPECT_EQ(std::stod(summary->metadata.at("validation.accuracy")), *report->accuracy);
  EXPECT_EQ(std::stod(summary->metadata.at("train.loss")), report->loss);
  EXPECT_EQ(summary->metadata.at("train.fingerprint").size(), 16u);
  EXPECT_NE(summary->metadata.at("train.fingerprint"), summary->metadata.at("validation.fingerprint"));
}

TEST_F(TrainClassifierTest, DependsOnTheSeedAndNotOnTheThreads) {
  training_.epochs = 1;
  const std::string hash = Train(1)->sha256;
  EXPECT_EQ(Train(3)->sha256, hash);
  training_.seed = 1;
  EXPECT_NE(Train(1)->sha256, hash);
}

TEST_F(TrainClassifierTest, RefusesWhatMakesNoSense) {
  ClassifierTraining good = training_;
  training_.epochs = 0;
  EXPECT_EQ(ExitCodeOf(Train(1).status()), ExitCode::kUsage);
  training_ = good;
  training_.learning_rate = NAN;
  EXPECT_EQ(ExitCodeOf(Train(1).status()), ExitCode::kUsage);
  training_ = good;
  training_.data = folder_ / "missing.h5";
  EXPECT_EQ(ExitCodeOf(Train(1).status()), ExitCode::kBadData);
  training_ = good;
  WriteTestFile(TestInfo(folder_ / "latents.h5", 10, {4, 8, 8}));
  training_.data = folder_ / "latents.h5";
  EXPECT_THAT(std::string(Train(1).status().message()), HasSubstr("channels 4, expected 1 (grey) or 3 (RGB)"));
  training_ = good;
  WriteTestFile(TestInfo(folder_ / "wide.h5", 2, {1, 8, 16}));
  training_.validation = folder_ / "wide.h5";
  EXPECT_THAT(std::string(Train(1).status().message()), HasSubstr("images of 1 x 8 x 16, expected 1 x 8 x 8"));
  EXPECT_EQ(KindOfPath(training_.out), PathKind::kMissing);
}

// A file of torch.save in its older form, whose tensors all begin at the start of one storage of `elements` floats.
class PthWriter {
 public:
  explicit PthWriter(int64_t elements) : elements_(elements) {}

  void Add(const std::string& name, const Shape& shape) {
    items_ += Text(name) + "ctorch._utils\n_rebuild_tensor_v2\n((" + Text("storage") + "ctorch\nFloatStorage\n" +
              Text("0") + Text("cpu") + Number(elements_) + "NtQ" + Number(0) + Tuple(shape) +
              Tuple(shape.DenseStrides()) + "\x89NtR";
  }

  // Values from the number up, in steps of 2^-20.
  void Write(const std::string& path, float first) const {
    std::string bytes = Program("\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19") + Program(Number(1001)) +
                        Program("}" + Text("little_endian") + "\x88s") + Program("}(" + items_ + "u") +
                        Program("]" + Text("0") + "a");
    bytes.append(reinterpret_cast<const char*>(&elements_), sizeof(elements_));
    std::vector<float> values(static_cast<size_t>(elements_));
    for (size_t i = 0; i < values.size(); ++i) values[i] = first + static_cast<float>(i % 4096) * 0x1p-20f;
    bytes.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
    WriteBytes(path, bytes);
  }

 private:
  static std::string Number(int64_t value) {
    return "\x8a\x08" + std::string(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  static std::string Text(const std::string& text) {
    const uint32_t bytes = static_cast<uint32_t>(text.size());
    return "X" + std::string(reinterpret_cast<const char*>(&bytes), sizeof(bytes)) + text;
  }
  static std::string Tuple(const Shape& shape) {
    std::string items;
    for (const int64_t dim : shape) items += Number(dim);
    return "(" + items + "t";
  }
  static std::string Program(const std::string& operations) { return "\x80\x02" + operations + "."; }

  const int64_t elements_;
  std::string items_;
};

constexpr int64_t kLargestTensor = InceptionV3::kClasses * InceptionV3::kFeatures;

// The tensors of the FID variant, but for `without`.
PthWriter FidWeights(const std::string& without = "") {
  PthWriter writer(kLargestTensor);
  const InceptionV3 network;
  for (const auto& parameter : network.parameters().all()) {
    if (parameter->name != without) writer.Add(parameter->name, FileShape(parameter->shape));
  }
  return writer;
}

TEST(ConvertInceptionTest, MakesAnExtractor) {
  const TempFolder folder;
  PthWriter writer = FidWeights();
  writer.Add("fc.bias", {1008});  // left out, as is the next
  writer.Add("Conv2d_1a_3x3.bn.num_batches_tracked", {});
  writer.Write(folder / "x.pth", 0);
  const auto converted = ConvertInception(folder / "x.pth", folder / "x.safetensors");
  ASSERT_TRUE(converted.ok()) << converted.status();
  EXPECT_EQ(converted->tensors, 94 * 5 + 1);
  EXPECT_EQ(converted->source_sha256, *Sha256OfFile(folder / "x.pth"));
  EXPECT_EQ(converted->sha256, *Sha256OfFile(folder / "x.safetensors"));
  EXPECT_FALSE(converted->is_fid);

  RankContext context(2);
  const auto extractor = LoadExtractor(folder / "x.safetensors", context, ResizeMode::kBilinear);
  ASSERT_TRUE(extractor.ok()) << extractor.status();
  EXPECT_EQ((*extractor)->info().source_sha256, converted->source_sha256);
  EXPECT_FALSE((*extractor)->info().is_fid);
  EXPECT_EQ((*extractor)->info().spatial_dim, 2023);
  FeatureBatch grey, colour;
  const std::vector<uint8_t> one(75 * 80, 200), three(75 * 80 * 3, 200);
  ASSERT_TRUE((*extractor)->Extract(context, one, {1, 75, 80, 1}, &grey).ok());
  ASSERT_TRUE((*extractor)->Extract(context, three, {1, 75, 80, 3}, &colour).ok());
  EXPECT_EQ(grey.features, colour.features);
  EXPECT_EQ(grey.features.size(), 2048u);
  EXPECT_EQ(grey.spatial.size(), 2023u);
  EXPECT_EQ(grey.logits.size(), 1008u);
  EXPECT_FALSE((*extractor)->Extract(context, three, {3, 75, 40, 2}, &grey).ok());
}

TEST(ConvertInceptionTest, KnowsThePublishedWeightsByTheirHash) {
  const TempFolder folder;
  InceptionV3 network;
  RankContext context(1);
  network.parameters().Allocate(context.allocator());
  for (const auto& parameter : network.parameters().all()) parameter->value.Zero();
  for (const auto& [source, is_fid] : {std::pair("6726825d00", true), std::pair("6726825e00", false)}) {
    ASSERT_TRUE(
        WriteInception(PosixFileSystem(), folder / "x.safetensors", network.parameters(), {{kSourceKey, source}}).ok());
    const auto extractor = LoadExtractor(folder / "x.safetensors", context, ResizeMode::kBilinearTf1);
    ASSERT_TRUE(extractor.ok()) << extractor.status();
    EXPECT_EQ((*extractor)->info().is_fid, is_fid);
    EXPECT_EQ((*extractor)->info().resize, "bilinear 299 x 299, corners as in TensorFlow 1, to [-1, 1)");
  }
}

TEST(ConvertInceptionTest, RefusesOtherNetworks) {
  const TempFolder folder;
  const auto refusal = [&](const PthWriter& writer, float first = 0) {
    writer.Write(folder / "x.pth", first);
    const auto converted = ConvertInception(folder / "x.pth", folder / "x.safetensors");
    EXPECT_EQ(KindOfPath(folder / "x.safetensors"), PathKind::kMissing);
    return converted.ok() ? "accepted" : std::string(converted.status().message());
  };
  PthWriter other(6);
  other.Add("layer.weight", {2, 3});
  EXPECT_THAT(refusal(other), HasSubstr("has no tensor 'Conv2d_1a_3x3.conv.weight'"));
  PthWriter torchvision = FidWeights();
  torchvision.Add("AuxLogits.conv0.conv.weight", {128, 768, 1, 1});
  EXPECT_THAT(refusal(torchvision), HasSubstr("'AuxLogits.conv0.conv.weight' is of another network"));
  PthWriter fewer = FidWeights("fc.weight");
  EXPECT_THAT(refusal(fewer), HasSubstr("has no tensor 'fc.weight'"));
  fewer.Add("fc.weight", {1000, 2048});
  EXPECT_THAT(refusal(fewer), HasSubstr("'fc.weight' has shape [1000, 2048], expected [1008, 2048]"));
  EXPECT_THAT(refusal(FidWeights(), -1), HasSubstr("running_var' holds -1"));
}

}  // namespace
}  // namespace shardit
