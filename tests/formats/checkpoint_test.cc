#include "formats/checkpoint.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "formats/inspect.h"
#include "formats/tensor_table.h"
#include "support/errors.h"
#include "support/golden.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kIndex = "model.safetensors.index.json";

void write_file(const std::string& path, const std::string& text) {
  OutputFile file(path);
  file.write(text);
  file.commit();
}

/// A copy of the tests' own reference checkpoint, to be broken.
class BrokenCheckpoint : public testing::Test {
 protected:
  void SetUp() override {
    const std::string golden = golden_dir("bf16-tiny");
    ASSERT_FALSE(golden.empty());
    for (const auto& entry : fs::directory_iterator(golden)) {
      if (!entry.path().filename().string().starts_with("expected")) {
        fs::copy_file(entry.path(), directory.file(entry.path().filename().string()));
      }
    }
    index = json::parse(read_file(directory.file(kIndex), 1 << 20));
  }
  void write_index() { write_file(directory.file(kIndex), index.dump()); }
  /// Writes a shard again with tensors changed by `edit` (name, view), which returns false to drop one.
  template <typename Edit>
  void rewrite(const std::string& shard, Edit&& edit) {
    const std::string path = directory.file(shard);
    {
      const SafetensorsFile file(path);
      std::vector<std::pair<std::string, TensorView>> tensors;
      for (const SafetensorsEntry& entry : file.entries()) {
        std::string name = entry.name;
        TensorView view = file.view(entry);
        if (edit(name, view)) tensors.emplace_back(name, view);
      }
      write_safetensors(path + ".new", tensors);
    }
    fs::rename(path + ".new", path);
  }

  TemporaryDirectory directory;
  json index;
};

TEST_F(BrokenCheckpoint, OpensWhenWhole) {
  const Checkpoint checkpoint(directory.path());
  EXPECT_EQ(checkpoint.files().size(), 3u);
  EXPECT_TRUE(checkpoint.has("model.norm.weight"));
  EXPECT_EQ(checkpoint.tensor("model.norm.weight").shape, Shape{128});
  EXPECT_EQ(checkpoint.index_total_size(), 2594624u);
  FATHOM_EXPECT_ERROR(checkpoint.tensor("model.none"), ErrorKind::bad_input, directory.path(), "model.none");
  EXPECT_TRUE(check_checkpoint(checkpoint).empty());
}

TEST_F(BrokenCheckpoint, WithoutIndexTakesAllShards) {
  fs::remove(directory.file(kIndex));
  const Checkpoint checkpoint(directory.path());
  EXPECT_EQ(checkpoint.files().size(), 3u);
  EXPECT_FALSE(checkpoint.index_total_size());
  EXPECT_TRUE(check_checkpoint(checkpoint).empty());
}

TEST_F(BrokenCheckpoint, MissingParts) {
  FATHOM_EXPECT_ERROR(Checkpoint{directory.file("none")}, ErrorKind::bad_input, directory.file("none"), "nothing");
  FATHOM_EXPECT_ERROR(Checkpoint{directory.file("config.json")}, ErrorKind::bad_input, "a file");
  fs::remove(directory.file("model-00002-of-00003.safetensors"));
  FATHOM_EXPECT_ERROR(Checkpoint{directory.path()}, ErrorKind::bad_input, directory.path(),
                      "model-00002-of-00003.safetensors");
  const InspectReport report = inspect(directory.path());
  ASSERT_EQ(report.problems.fatal.size(), 1u);
  EXPECT_GT(report.parameters.main, 0);

  fs::remove(directory.file("config.json"));
  FATHOM_EXPECT_ERROR(Checkpoint{directory.path()}, ErrorKind::bad_input, "config.json");
}

TEST_F(BrokenCheckpoint, NoWeights) {
  for (const char* name : {kIndex, "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
                           "model-00003-of-00003.safetensors"}) {
    fs::remove(directory.file(name));
  }
  FATHOM_EXPECT_ERROR(Checkpoint{directory.path()}, ErrorKind::bad_input, directory.path(), "no weights");
  const InspectReport report = inspect(directory.path());
  EXPECT_FALSE(report.has_weights);
  EXPECT_TRUE(report.problems.fatal.empty());
}

TEST_F(BrokenCheckpoint, BrokenIndexes) {
  const std::string path = directory.file(kIndex);
  write_file(path, "{\"weight_map\": {");
  FATHOM_EXPECT_ERROR(Checkpoint{directory.path()}, ErrorKind::bad_input, path);
  write_file(path, "[]");
  FATHOM_EXPECT_ERROR(Checkpoint{directory.path()}, ErrorKind::bad_input, path, "weight_map");
  write_file(path, "{\"weight_map\": {}}");
  FATHOM_EXPECT_ERROR(Checkpoint{directory.path()}, ErrorKind::bad_input, path, "empty");
  write_file(path, "{\"weight_map\": {\"a\": 1}}");
  FATHOM_EXPECT_ERROR(Checkpoint{directory.path()}, ErrorKind::bad_input, path, "\"a\"");
  for (const char* name : {"../x.safetensors", "/etc/passwd", "..", ".", "", "sub/x.safetensors"}) {
    index["weight_map"]["model.norm.weight"] = name;
    write_index();
    FATHOM_EXPECT_ERROR(Checkpoint{directory.path()}, ErrorKind::bad_input, path, "model.norm.weight");
  }
  index["weight_map"]["model.norm.weight"] = "model-00001-of-00003.safetensors";
  write_index();
  FATHOM_EXPECT_ERROR(Checkpoint{directory.path()}, ErrorKind::bad_input, path, "model.norm.weight",
                      "model-00001-of-00003.safetensors");
}

TEST_F(BrokenCheckpoint, ATensorInTwoFiles) {
  rewrite("model-00001-of-00003.safetensors", [](std::string& name, TensorView&) {
    if (name == "model.embed_tokens.weight") name = "lm_head.weight";
    return true;
  });
  FATHOM_EXPECT_ERROR(Checkpoint{directory.path()}, ErrorKind::bad_input, "lm_head.weight", "two files");
}

TEST_F(BrokenCheckpoint, ATruncatedShard) {
  const std::string path = directory.file("model-00003-of-00003.safetensors");
  fs::resize_file(path, fs::file_size(path) - 1);
  FATHOM_EXPECT_ERROR(Checkpoint{directory.path()}, ErrorKind::bad_input, path, "truncated");
}

TEST_F(BrokenCheckpoint, FindsWrongAndMissingTensors) {
  fs::remove(directory.file(kIndex));
  static const uint8_t zeros[64 * 1024] = {};
  rewrite("model-00002-of-00003.safetensors", [](std::string& name, TensorView& view) {
    if (name == "model.norm.weight") return false;
    if (name == "model.layers.1.input_layernorm.weight") view.shape = {2, 64};
    if (name == "model.layers.2.mlp.gate.weight") view = tensor_view(DType::i16, view.shape, zeros);
    if (name == "model.layers.2.self_attn.o_proj.weight") view = tensor_view(DType::f8_e4m3, view.shape, zeros);
    if (name == "model.layers.2.mlp.experts.3.up_proj.weight") name = "model.layers.2.mlp.experts.99.up_proj.weight";
    return true;
  });
  write_safetensors(directory.file("other.safetensors"), {});
  const CheckpointProblems problems = find_checkpoint_problems(Checkpoint(directory.path()));
  const auto has = [](const std::vector<std::string>& list, std::initializer_list<const char*> parts) {
    return std::any_of(list.begin(), list.end(), [&](const std::string& sentence) {
      return std::all_of(parts.begin(), parts.end(),
                         [&](const char* part) { return sentence.find(part) != std::string::npos; });
    });
  };
  EXPECT_EQ(problems.fatal.size(), 5u);
  EXPECT_TRUE(has(problems.fatal, {"model.norm.weight", "missing"}));
  EXPECT_TRUE(has(problems.fatal, {"experts.3.up_proj", "missing"}));
  EXPECT_TRUE(has(problems.fatal, {"layers.1.input_layernorm", "[128]", "[2, 64]"}));
  EXPECT_TRUE(has(problems.fatal, {"layers.2.mlp.gate.weight", "I16"}));
  EXPECT_TRUE(has(problems.fatal, {"layers.2.self_attn.o_proj", "quantization_config"}));
  EXPECT_EQ(problems.notes.size(), 2u);
  EXPECT_TRUE(has(problems.notes, {"experts.99.up_proj"}));
  EXPECT_TRUE(has(problems.notes, {"other.safetensors"}));
  EXPECT_EQ(check_checkpoint(Checkpoint(directory.path())).front(), problems.fatal.front());
  EXPECT_NE(inspect_text(inspect(directory.path())).find("cannot be used"), std::string::npos);
}

TEST_F(BrokenCheckpoint, ManyMissingTensorsAreCounted) {
  fs::remove(directory.file(kIndex));
  fs::remove(directory.file("model-00001-of-00003.safetensors"));
  const CheckpointProblems problems = find_checkpoint_problems(Checkpoint(directory.path()));
  EXPECT_EQ(problems.fatal.size(), 11u);
  EXPECT_NE(problems.fatal.back().find("more tensors are missing"), std::string::npos);
}

TEST_F(BrokenCheckpoint, AMissingMtpLayerIsOneSentence) {
  fs::remove(directory.file(kIndex));
  for (const char* shard : {"model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors"}) {
    rewrite(shard, [](std::string& name, TensorView&) { return !name.starts_with("model.layers.3."); });
  }
  const CheckpointProblems problems = find_checkpoint_problems(Checkpoint(directory.path()));
  ASSERT_EQ(problems.fatal.size(), 1u);
  EXPECT_NE(problems.fatal[0].find("num_nextn_predict_layers"), std::string::npos);
}

TEST_F(BrokenCheckpoint, TheMtpCopiesMayBeLeftOut) {
  fs::remove(directory.file(kIndex));
  rewrite("model-00003-of-00003.safetensors", [](std::string& name, TensorView&) {
    return name != "model.layers.3.embed_tokens.weight" && name != "model.layers.3.shared_head.head.weight";
  });
  EXPECT_TRUE(check_checkpoint(Checkpoint(directory.path())).empty());
}

TEST_F(BrokenCheckpoint, TotalSizeOfTheIndex) {
  index["metadata"]["total_size"] = 5;
  write_index();
  CheckpointProblems problems = find_checkpoint_problems(Checkpoint(directory.path()));
  ASSERT_EQ(problems.notes.size(), 1u);
  EXPECT_NE(problems.notes[0].find("total_size 5"), std::string::npos);
  EXPECT_TRUE(problems.fatal.empty());

  // The index of DeepSeek-V3 counts whole files.
  uint64_t files = 0;
  const Checkpoint checkpoint(directory.path());
  for (const auto& file : checkpoint.files()) files += file->bytes();
  index["metadata"]["total_size"] = files;
  write_index();
  problems = find_checkpoint_problems(Checkpoint(directory.path()));
  EXPECT_TRUE(problems.notes.empty());
}

// The scales of FP8 weights: missing, or of the wrong shape or type.
TEST(Fp8Checkpoint, FindsWrongScales) {
  TemporaryDirectory directory;
  ModelConfig config = *model_preset("tiny");
  config.fp8 = Fp8Config{};
  write_file(directory.file("config.json"), model_config_json(config).dump());
  static const uint8_t zeros[1 << 18] = {};
  std::vector<std::pair<std::string, TensorView>> tensors;
  for (const StoredTensor& tensor : stored_tensors(config)) {
    TensorView view = tensor_view(tensor.dtype, tensor.shape, zeros);
    if (tensor.name == "model.layers.0.self_attn.q_a_proj.weight_scale_inv") continue;
    if (tensor.name == "model.layers.0.self_attn.o_proj.weight_scale_inv") view.shape = {1, 3};
    if (tensor.name == "model.layers.0.mlp.up_proj.weight_scale_inv") view.dtype = DType::i32;
    tensors.emplace_back(tensor.name, view);
  }
  write_safetensors(directory.file("model.safetensors"), tensors);
  const std::vector<std::string> problems = check_checkpoint(Checkpoint(directory.path()));
  ASSERT_EQ(problems.size(), 3u);
  EXPECT_NE(problems[0].find("q_a_proj.weight_scale_inv\" is missing"), std::string::npos) << problems[0];
  EXPECT_NE(problems[1].find("expected the shape [1, 1], found [1, 3]"), std::string::npos) << problems[1];
  EXPECT_NE(problems[2].find("expected F32, BF16, F16 or F8_E8M0, found I32"), std::string::npos) << problems[2];
}

class ReferenceCheckpoints : public testing::TestWithParam<const char*> {};

TEST_P(ReferenceCheckpoints, HoldExactlyTheTable) {
  FATHOM_GOLDEN_OR_SKIP(directory, GetParam());
  const Checkpoint checkpoint(directory);
  std::set<std::string> found, expected;
  for (const auto& file : checkpoint.files()) {
    for (const SafetensorsEntry& entry : file->entries()) found.insert(entry.name);
  }
  const std::vector<TensorSpec> table = tensor_table(checkpoint.config());
  for (const StoredTensor& tensor : stored_tensors(checkpoint.config())) {
    const TensorSpec& spec = table[tensor.row];
    if (spec.optional && !checkpoint.has(tensor.name)) continue;
    expected.insert(tensor.name);
    ASSERT_TRUE(checkpoint.has(tensor.name)) << tensor.name;
    const TensorView view = checkpoint.tensor(tensor.name);
    EXPECT_EQ(view.shape, tensor.shape) << tensor.name;
    EXPECT_EQ(view.dtype, tensor.dtype) << tensor.name;
  }
  EXPECT_EQ(found, expected);
  EXPECT_TRUE(find_checkpoint_problems(checkpoint).fatal.empty());
}

INSTANTIATE_TEST_SUITE_P(Golden, ReferenceCheckpoints,
                         testing::Values("bf16-tiny", "fp8-tiny", "noqlora", "v2-softmax", "v2-grouped", "long-yarn",
                                         "train-tiny"));

}  // namespace
}  // namespace fathom
