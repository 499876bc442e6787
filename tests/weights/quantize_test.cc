// Checkpoints in integers: what is written, what it opens as, and what is refused.
#include "weights/quantize.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/number_formats.h"
#include "engine/trace.h"
#include "formats/inspect.h"
#include "formats/packed_matrix.h"
#include "support/errors.h"
#include "support/golden.h"
#include "train/parameters.h"
#include "weights/cast.h"
#include "weights/model_parallel.h"
#include "weights/tiny_checkpoints.h"
#include "weights/verify.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

struct Quantize {
  Quantize(const std::string& directory, const QuantizeOptions& wanted)
      : options(wanted), checkpoint(directory), reader(checkpoint), plan(plan_quantize(checkpoint, reader, options)) {}
  RewriteResult run(const std::function<void(uint64_t, uint64_t)>& on_progress = {}) {
    ThreadTeam team(2);
    return rewrite_checkpoint(plan.rewrite, team, on_progress);
  }

  QuantizeOptions options;
  Checkpoint checkpoint;
  TensorReader reader;
  QuantizePlan plan;
};

QuantizeOptions options(const IntegerFormat& format, const std::string& out,
                        ScaleChoice scales = ScaleChoice::nearest) {
  QuantizeOptions made;
  made.format = format;
  made.scales = scales;
  made.out = out;
  return made;
}

/// A tiny checkpoint in integers of 4 bits; made once.
const std::string& quantized(bool zero_point = false) {
  static const TemporaryDirectory directory;
  static const auto make = [](bool with_zeros) {
    const std::string out = directory.file(with_zeros ? "zeros" : "symmetric");
    Quantize(tiny_checkpoint(true), options({4, 32, with_zeros}, out, ScaleChoice::search)).run();
    return out;
  };
  static const std::string symmetric = make(false);
  static const std::string zeros = make(true);
  return zero_point ? zeros : symmetric;
}

std::unique_ptr<LoadedModel> open_as(const std::string& directory, const WeightOptions& weights,
                                     std::optional<ComputeMode> compute = std::nullopt) {
  ThreadTeam team(2);
  OpenOptions open;
  open.weights = weights;
  open.compute = compute;
  return open_model(directory, open, team);
}

std::vector<float> logits_of(const LoadedModel& model, const char* what) {
  ThreadTeam team(2);
  TraceOptions trace;
  trace.mtp = true;
  for (TracedTensor& tensor : trace_forward(model, {1, 5, 9, 2, 7, 7, 3, 11, 4}, trace, team)) {
    if (tensor.name == what) return std::move(tensor.values);
  }
  return {};
}

// The strongest test of all: packing, scales, zero points, roles, the order of rows and columns, the head's own format,
// the config and the loader are right, or the bits differ.
TEST(Quantize, OpensAsTheSourceDoesWithIntegersMadeOnLoad) {
  int compared = 0;
  for (const char* name : {"bf16-tiny", "fp8-tiny", "noqlora"}) {
    const std::string source = golden_dir(name);
    if (source.empty()) continue;
    for (const WeightOptions& held : {WeightOptions{WeightStorage::int8}, WeightOptions{WeightStorage::int8, 32, true},
                                      WeightOptions{WeightStorage::int4}, WeightOptions{WeightStorage::int4, 128},
                                      WeightOptions{WeightStorage::int4, 32, true}}) {
      SCOPED_TRACE(testing::Message() << name << " " << weight_storage_name(held.storage) << " " << held.group);
      const TemporaryDirectory files;
      Quantize(source, options(projection_format(held), files.file("out"))).run();
      const auto expected = open_as(source, held);
      const auto found = open_as(files.file("out"), {});
      EXPECT_EQ(found->compute, ComputeMode::int8);
      EXPECT_EQ(found->held.storage, WeightStorage::memory);
      for (const char* what : {"logits", "mtp.logits"}) {
        const std::vector<float> a = logits_of(*expected, what);
        const std::vector<float> b = logits_of(*found, what);
        ASSERT_EQ(a.size(), b.size());
        if (a.empty()) continue;
        ++compared;
        EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)), 0) << what;
      }
    }
  }
  if (compared == 0) GTEST_SKIP() << "the reference results are not here";
}

// Against its own cast to BF16, whose weights are off by 0.4 % at most: logits differ by about as much as activations
// in BF16 and integers of 8 bits make them.
TEST(Quantize, EveryComputeModeButW8a8ReadsIt) {
  for (const bool zero_point : {false, true}) {
    const TemporaryDirectory files;
    const Checkpoint from(quantized(zero_point));
    const TensorReader reader(from);
    ThreadTeam team(2);
    rewrite_checkpoint(plan_cast(from, reader, {CastTo::bf16, false, files.file("cast")}), team);
    const std::vector<float> expected = logits_of(*open_as(files.file("cast"), {}, ComputeMode::fp32), "logits");
    for (const ComputeMode compute : {ComputeMode::fp32, ComputeMode::bf16, ComputeMode::int8}) {
      const std::vector<float> found = logits_of(*open_as(quantized(zero_point), {}, compute), "logits");
      ASSERT_EQ(found.size(), expected.size());
      double error = 0;
      double size = 0;
      for (size_t i = 0; i < found.size(); ++i) {
        error += std::pow(static_cast<double>(found[i] - expected[i]), 2);
        size += std::pow(static_cast<double>(expected[i]), 2);
      }
      EXPECT_LT(std::sqrt(error / size), 0.08) << compute_mode_name(compute);
      EXPECT_GT(std::sqrt(error / size), 1e-5) << compute_mode_name(compute);
    }
  }
}

TEST(Quantize, WhatItCannotBeOpenedAsIsRefused) {
  const std::string& directory = quantized();
  FATHOM_EXPECT_ERROR(open_as(directory, {WeightStorage::int8}), ErrorKind::bad_input, "integers", "--weights int8");
  WeightOptions store;
  store.experts_in_memory = 1 << 20;
  FATHOM_EXPECT_ERROR(open_as(directory, store), ErrorKind::bad_input, "--experts-in-memory");
  FATHOM_EXPECT_ERROR(open_as(directory, {}, ComputeMode::w8a8), ErrorKind::bad_input, "w8a8", "integers");
  const Checkpoint checkpoint(directory);
  const TensorReader reader(checkpoint);
  FATHOM_EXPECT_ERROR(load_parameters(checkpoint), ErrorKind::bad_input, "cannot be trained");
  FATHOM_EXPECT_ERROR(plan_split(checkpoint, reader, {}), ErrorKind::bad_input, "split the checkpoint");
  FATHOM_EXPECT_ERROR(plan_cast(checkpoint, reader, {CastTo::fp8, false, "out"}), ErrorKind::bad_input, "twice");
  FATHOM_EXPECT_ERROR(plan_quantize(checkpoint, reader, {}), ErrorKind::bad_input, "already");
}

TEST(Quantize, TheConfigSaysWhatIsWritten) {
  std::ifstream file(quantized(true) + "/config.json");
  const auto config = nlohmann::json::parse(file).at("quantization_config");
  EXPECT_EQ(config.at("quant_method"), "compressed-tensors");
  EXPECT_EQ(config.at("format"), "pack-quantized");
  EXPECT_EQ(config.at("config_groups").size(), 2u);
  const auto& head = config.at("config_groups").at("group_0");
  EXPECT_EQ(head.at("targets").at(0), "lm_head");
  EXPECT_EQ(head.at("weights").at("num_bits"), 8);
  EXPECT_EQ(head.at("weights").at("group_size"), 128);
  const auto& body = config.at("config_groups").at("group_1");
  EXPECT_EQ(body.at("targets"), nlohmann::json::array({"Linear"}));
  EXPECT_EQ(body.at("weights").at("num_bits"), 4);
  EXPECT_EQ(body.at("weights").at("symmetric"), false);
  EXPECT_NE(config.at("ignore").dump().find("kv_b_proj"), std::string::npos);

  const Checkpoint out(quantized(true));
  const TensorPlace words = out.place("model.layers.1.mlp.experts.3.down_proj.weight_packed");
  EXPECT_EQ(words.entry->dtype, DType::i32);
  EXPECT_EQ(words.entry->shape, (Shape{128, 8}));  // [128, 64] in 4 bits
  EXPECT_EQ(out.place("model.layers.1.mlp.experts.3.down_proj.weight_scale").entry->shape, (Shape{128, 2}));
  EXPECT_EQ(out.place("model.layers.1.mlp.experts.3.down_proj.weight_zero_point").entry->shape, (Shape{16, 2}));
  EXPECT_EQ(out.place("model.layers.1.mlp.experts.3.down_proj.weight_shape").entry->dtype, DType::i64);
  EXPECT_EQ(out.tensor("model.layers.1.self_attn.kv_b_proj.weight").dtype, DType::bf16);
  EXPECT_TRUE(out.has("model.layers.1.mlp.gate.weight"));
  // Other libraries view the bytes of a file as numbers where they lie.
  for (const auto& shard : out.files()) {
    for (const SafetensorsEntry& entry : shard->entries()) {
      EXPECT_EQ(entry.begin % dtype_bytes(entry.dtype), 0u) << entry.name;
    }
  }
}

TEST(Quantize, HeadsAsAsked) {
  for (const HeadFormat head : {HeadFormat::keep, HeadFormat::same}) {
    const TemporaryDirectory files;
    QuantizeOptions asked = options({4, 32, false}, files.file("out"));
    asked.head = head;
    Quantize(tiny_checkpoint(false), asked).run();
    const auto model = open_as(asked.out, {});
    EXPECT_EQ(model->weights.lm_head.bits, head == HeadFormat::keep ? 0 : 4);
    EXPECT_EQ(model->weights.layers[0].attention.o_proj.bits, 4);
    EXPECT_EQ(model->config.integers->groups.size(), 1u);
    EXPECT_TRUE(find_checkpoint_problems(*model->checkpoint).fatal.empty());
  }
}

TEST(Quantize, CastToBf16IsScaleTimesCode) {
  for (const bool zero_point : {false, true}) {
    const TemporaryDirectory files;
    const Checkpoint from(quantized(zero_point));
    const TensorReader reader(from);
    ThreadTeam team(2);
    rewrite_checkpoint(plan_cast(from, reader, {CastTo::bf16, false, files.file("out")}), team);
    const Checkpoint to(files.file("out"));
    EXPECT_FALSE(to.config().integers);
    EXPECT_TRUE(find_checkpoint_problems(to).fatal.empty());
    EXPECT_TRUE(find_checkpoint_problems(to).notes.empty());
    const std::string name = "model.layers.1.mlp.experts.3.gate_proj.weight";
    const TensorView words = from.tensor(name + "_packed");
    const TensorView scales = from.tensor(name + "_scale");
    const TensorView cast = to.tensor(name);
    ASSERT_EQ(cast.dtype, DType::bf16);
    ASSERT_EQ(cast.shape, (Shape{64, 128}));
    for (int64_t r = 0; r < 64; ++r) {
      for (int64_t k = 0; k < 128; ++k) {
        const auto byte = static_cast<uint8_t>(words.data[r * 64 + k / 2]);
        const int code = k % 2 == 0 ? byte & 15 : byte >> 4;
        int zero = 8;
        if (zero_point) {
          uint32_t word;
          std::memcpy(&word, from.tensor(name + "_zero_point").data + (r / 8 * 4 + k / 32) * 4, 4);
          zero = static_cast<int>(word >> (r % 8 * 4) & 15);
        }
        uint16_t scale;
        std::memcpy(&scale, scales.data + (r * 4 + k / 32) * 2, 2);
        uint16_t bits;
        std::memcpy(&bits, cast.data + (r * 128 + k) * 2, 2);
        ASSERT_EQ(bits, f32_to_bf16(bf16_to_f32(scale) * static_cast<float>(code - zero))) << r << ", " << k;
      }
    }
  }
}

TEST(Quantize, GoesOnWhereItWasStoppedAndSaysWhatItDoesNotKnow) {
  const TemporaryDirectory directory;
  Quantize(tiny_checkpoint(true), options({4, 128, true}, directory.file("whole"))).run();
  const auto whole = files_of(directory.file("whole"));
  const QuantizeOptions asked = options({4, 128, true}, directory.file("out"));
  Quantize stopped(tiny_checkpoint(true), asked);
  ASSERT_GT(stopped.plan.rewrite.shards.size(), 1u);
  const uint64_t first = stopped.plan.rewrite.shards[0].bytes();
  EXPECT_THROW(stopped.run([&](uint64_t done, uint64_t) {
    if (done > first) throw std::runtime_error("stopped");
  }),
               std::runtime_error);
  FATHOM_EXPECT_ERROR(Quantize(tiny_checkpoint(true), options({4, 32, true}, asked.out)).run(), ErrorKind::bad_input,
                      "left over from another command");
  Quantize again(tiny_checkpoint(true), asked);
  EXPECT_EQ(again.run().bytes_kept, first);
  EXPECT_EQ(files_of(asked.out), whole);
  size_t known = 0;
  for (const auto& tensor : again.plan.tensors) known += tensor->error() ? 1 : 0;
  EXPECT_GT(known, 0u);
  EXPECT_LT(known, again.plan.tensors.size());
}

TEST(Quantize, VerifyKnowsItAndMeasuresAgainstTheSource) {
  for (const bool zero_point : {false, true}) {
    const Checkpoint checkpoint(quantized(zero_point));
    const Checkpoint source(tiny_checkpoint(true));
    ThreadTeam team(2);
    const VerifyReport report = verify_checkpoint(checkpoint, &source, team);
    EXPECT_EQ(report.problem_count(), 0);
    int measured = 0;
    for (const TensorReport& tensor : report.tensors) {
      for (const std::string& problem : tensor.problems) ADD_FAILURE() << tensor.name << ": " << problem;
      if (!tensor.name.ends_with(".weight_packed")) continue;
      ++measured;
      ASSERT_TRUE(tensor.difference) << tensor.name;
      const bool is_head = tensor.name.find("head") != std::string::npos;  // has 8 bits
      EXPECT_FALSE(tensor.difference->same_bytes);
      EXPECT_GT(tensor.difference->relative, is_head ? 0.001 : 0.03) << tensor.name;
      EXPECT_LT(tensor.difference->relative, 0.12) << tensor.name;
    }
    EXPECT_GT(measured, 100);
    // And from the other side.
    EXPECT_EQ(verify_checkpoint(source, &checkpoint, team).problem_count(), 0);
    EXPECT_TRUE(find_checkpoint_problems(checkpoint).fatal.empty());
    EXPECT_TRUE(find_checkpoint_problems(checkpoint).notes.empty());
  }
}

TEST(Quantize, NumbersThatAreNotFiniteAreRefusedByName) {
  const TemporaryDirectory directory;
  fs::copy(tiny_checkpoint(false), directory.file("in"));
  const std::string name = "model.layers.1.self_attn.o_proj.weight";
  {
    const Checkpoint checkpoint(directory.file("in"));
    const TensorPlace place = checkpoint.place(name);
    std::fstream file(place.file->path(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(place.entry->begin + 100));
    file << "\x80\x7f";  // ∞
  }
  FATHOM_EXPECT_ERROR(Quantize(directory.file("in"), options({8, 128, false}, directory.file("out"))).run(),
                      ErrorKind::bad_input, name, "not finite");
  EXPECT_FALSE(fs::exists(directory.file("out")));
}

// Columns that the text never lights up may be wrong; those that it does may not.
TEST(Quantize, CalibrationKnowsWhichColumnsMatter) {
  const auto model = open_as(tiny_checkpoint(false), {});
  ThreadTeam team(2);
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < 200; ++i) tokens.push_back(i * 7 % 500);
  const Calibration calibration = calibrate(*model, tokens, 64, 0, team);
  EXPECT_EQ(calibration.tokens, 200);
  EXPECT_GT(calibration.experts, calibration.rare_experts);
  for (const TensorSpec& spec : tensor_table(model->config)) {
    if (!may_be_packed(spec) || model->config.is_mtp_layer(spec.layer)) continue;
    const auto found = calibration.mean_squares.find(spec.name);
    ASSERT_NE(found, calibration.mean_squares.end()) << spec.name;
    ASSERT_EQ(static_cast<int64_t>(found->second.size()), spec.shape[1]) << spec.name;
    double sum = 0;
    for (const float square : found->second) sum += static_cast<double>(square);
    EXPECT_GT(sum, 0) << spec.name;
  }
  // A norm with gains near 1 comes before these: their mean squares have a mean near 1.
  const std::vector<float>& normed = calibration.mean_squares.at("model.layers.0.self_attn.q_a_proj.weight");
  double mean = 0;
  for (const float square : normed) mean += static_cast<double>(square) / static_cast<double>(normed.size());
  EXPECT_NEAR(mean, 1, 0.1);

  const TemporaryDirectory files;
  QuantizeOptions asked = options({4, 128, false}, files.file("out"), ScaleChoice::search);
  asked.calibration = &calibration;
  Quantize quantize(tiny_checkpoint(false), asked);
  quantize.run();
  for (const auto& tensor : quantize.plan.tensors) {
    ASSERT_TRUE(tensor->error());
    EXPECT_LE(tensor->error()->weighted, tensor->error()->nearest_weighted) << tensor->name;
  }
}

// Gate and up half meet one operand: half of them in integers would read it as what it is not.
TEST(Quantize, HalvesOfAFeedForwardInDifferentFormatsAreRefused) {
  const TemporaryDirectory directory;
  fs::copy(quantized(), directory.file("mixed"));
  const std::string gate = "model.layers.0.mlp.gate_proj.weight";
  std::vector<uint16_t> values(384 * 128);
  fs::remove(directory.file("mixed") + "/model.safetensors.index.json");
  const Shape shape = {384, 128};
  write_safetensors(directory.file("mixed") + "/model-more.safetensors",
                    {{gate, tensor_view(DType::bf16, shape, reinterpret_cast<const std::byte*>(values.data()))}});
  FATHOM_EXPECT_ERROR(open_as(directory.file("mixed"), {}), ErrorKind::bad_input, "layers.0.mlp.gate_proj and up_proj",
                      "different formats");
}

/// A copy of the checkpoint in integers in which a header or bytes are others.
class Damaged {
 public:
  explicit Damaged(bool zero_point = false) : zero_point_(zero_point) {}

  /// Replaces in the headers of all files; both texts have the same length.
  const std::string& header(const std::string& from, const std::string& to) {
    EXPECT_EQ(from.size(), to.size());
    copy();
    int replaced = 0;
    for (const auto& entry : fs::directory_iterator(path_)) {
      if (!entry.path().filename().string().ends_with(".safetensors")) continue;
      std::string bytes = files_of(path_).at(entry.path().filename().string());
      for (size_t at = 0; (at = bytes.find(from, at)) != std::string::npos; at += to.size()) {
        bytes.replace(at, from.size(), to);
        ++replaced;
      }
      std::ofstream(entry.path(), std::ios::binary) << bytes;
    }
    fs::remove(path_ + "/model.safetensors.index.json");
    EXPECT_GT(replaced, 0) << from;
    return path_;
  }

  const std::string& bytes(const std::string& name, const std::string& bytes) {
    copy();
    const Checkpoint checkpoint(path_);
    const TensorPlace place = checkpoint.place(name);
    std::fstream file(place.file->path(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(place.entry->begin));
    file << bytes;
    return path_;
  }

  const std::string& config(const std::string& pointer, const nlohmann::json& value) {
    copy();
    nlohmann::json json = nlohmann::json::parse(files_of(path_).at("config.json"));
    json[nlohmann::json::json_pointer("/quantization_config" + pointer)] = value;
    std::ofstream(path_ + "/config.json") << json.dump();
    return path_;
  }

 private:
  void copy() {
    path_ = directory_.file("copy");
    fs::remove_all(path_);
    fs::copy(quantized(zero_point_), path_);
  }

  bool zero_point_;
  TemporaryDirectory directory_;
  std::string path_;
};

TEST(Quantize, BrokenPartsAreASentence) {
  const std::string name = "model.layers.1.self_attn.o_proj.weight";
  const auto expect = [&](const std::string& directory, std::initializer_list<std::string> parts) {
    expect_error([&] { open_as(directory, {}); }, ErrorKind::bad_input, parts);
    // Whoever asks for problems gets them as such.
    const CheckpointProblems problems = find_checkpoint_problems(Checkpoint(directory));
    EXPECT_FALSE(problems.fatal.empty());
  };
  Damaged damaged;
  expect(damaged.header(name + "_scale\"", name + "_scalf\""), {name + "_scale", "missing"});
  expect(damaged.header(name + "_shape\"", name + "_shapf\""), {name + "_shape", "missing"});
  expect(damaged.header(name + "_packed\"", name + "_pakked\""), {name, "missing"});
  expect(damaged.header("\"" + name + "_packed\":{\"dtype\":\"I32\"", "\"" + name + "_packed\":{\"dtype\":\"U32\""),
         {name + "_packed", "I32", "U32"});
  expect(damaged.header("\"" + name + "_scale\":{\"dtype\":\"BF16\"", "\"" + name + "_scale\":{\"dtype\": \"F16\""),
         {name + "_scale", "BF16", "F16"});
  expect(damaged.bytes(name + "_shape", std::string("\x7f\0\0\0\0\0\0\0", 8)), {name, "fit none of the groups"});
  expect(damaged.bytes(name + "_shape",
                       std::string("\xff\xff\xff\xff\xff\xff\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x7f", 16)),
         {name, "fit none of the groups"});
  expect(damaged.bytes(name + "_shape", std::string("\x80\0\0\0\0\0\0\0\x7f\0\0\0\0\0\0\0", 16)),
         {name, "expected the shape [128, 128]", "[128, 127]"});
  expect(damaged.config("/config_groups/group_1/weights/symmetric", false), {"fit none of the groups"});
  expect(damaged.config("/config_groups/group_1/weights/group_size", 128), {"fit none of the groups"});
  Damaged with_zeros(true);
  expect(with_zeros.header(name + "_zero_point\"", name + "_zero_pount\""), {name, "no zero points", "fit none"});

  FATHOM_EXPECT_ERROR(open_as(damaged.bytes(name + "_scale", "\xc0\x7f"), {}), ErrorKind::bad_input, name + "_scale",
                      "found nan");
  FATHOM_EXPECT_ERROR(open_as(damaged.bytes(name + "_scale", "\x80\xbf"), {}), ErrorKind::bad_input, name + "_scale",
                      "found -1");
  ThreadTeam team(2);
  EXPECT_EQ(verify_checkpoint(Checkpoint(damaged.bytes(name + "_scale", "\x80\xbf")), nullptr, team).problem_count(),
            1);
  EXPECT_GE(verify_checkpoint(Checkpoint(damaged.bytes(name + "_scale", "\xc0\x7f")), nullptr, team).problem_count(),
            1);
}

TEST(Quantize, ConfigsThatSayMoreThanItComputesAreRefused) {
  struct Bad {
    std::string pointer;
    nlohmann::json value;
    std::vector<std::string> parts;
  };
  const std::string weights = "/config_groups/group_1/weights";
  const std::vector<Bad> all = {
      {"/format", "int-quantized", {"quantization_config.format", "pack-quantized", "int-quantized"}},
      {"/format", nullptr, {"quantization_config.format"}},
      {"/quantization_status", "frozen", {"quantization_status", "frozen"}},
      {"/config_groups", nullptr, {"config_groups"}},
      {"/config_groups", nlohmann::json::object(), {"config_groups", "{}"}},
      {"/config_groups/group_1", 1, {"config_groups.group_1", "object"}},
      {"/config_groups/group_1/targets", "Linear", {"group_1.targets", "list of names"}},
      {"/config_groups/group_1/input_activations", {{"num_bits", 8}}, {"input_activations", "null"}},
      {"/config_groups/group_1/output_activations", {{"num_bits", 8}}, {"output_activations"}},
      {weights, nullptr, {"group_1.weights"}},
      {weights + "/num_bits", 3, {"num_bits", "4 or 8", "3"}},
      {weights + "/num_bits", "4", {"num_bits"}},
      {weights + "/type", "float", {"type", "int", "float"}},
      {weights + "/strategy", "channel", {"strategy", "group", "channel"}},
      {weights + "/group_size", 64, {"group_size", "32 or 128", "64"}},
      {weights + "/group_size", nullptr, {"group_size"}},
      {weights + "/symmetric", "yes", {"symmetric"}},
      {weights + "/dynamic", true, {"dynamic", "false"}},
      {weights + "/actorder", "group", {"actorder", "order"}},
      {weights + "/block_structure", "128x128", {"block_structure"}},
      {"/kv_cache_scheme", {{"num_bits", 8}}, {"kv_cache_scheme"}},
      {"/sparsity_config", {{"format", "sparse-24"}}, {"sparsity_config"}},
      {"/transform_config", {{"config_groups", 1}}, {"transform_config"}},
      {"/ignore", 5, {"ignore"}},
  };
  Damaged damaged;
  for (const Bad& bad : all) {
    SCOPED_TRACE(bad.pointer);
    const std::string& directory = damaged.config(bad.pointer, bad.value);
    try {
      read_model_config(directory);
      ADD_FAILURE() << "expected an error";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::bad_input);
      for (const std::string& part : bad.parts) {
        EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << part << " in " << error.what();
      }
    }
  }
  // And what it does not need to say.
  const ModelConfig config = read_model_config(damaged.config("/sparsity_config", nlohmann::json::object()));
  ASSERT_TRUE(config.integers);
  EXPECT_EQ(config.integers->groups.size(), 2u);
  EXPECT_EQ(model_config_json(parse_model_config(model_config_json(config), "again")), model_config_json(config));
}

}  // namespace
}  // namespace fathom
