#include "weights/gguf_import.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/number_formats.h"
#include "engine/trace.h"
#include "formats/tensor_table.h"
#include "model/transformer.h"
#include "support/errors.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"
#include "weights/gguf_test_files.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

double relative_rms(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double error = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    error += std::pow(double{a[i]} - b[i], 2);
    size += double{b[i]} * b[i];
  }
  return std::sqrt(error / size);
}

std::vector<float> logits(const std::string& directory) {
  const auto model = open_model(directory, ComputeMode::fp32);
  ThreadTeam team(2);
  for (TracedTensor& tensor : trace_forward(*model, {1, 5, 9, 2, 7, 7, 3, 11, 4}, {}, team)) {
    if (tensor.name == "logits") return std::move(tensor.values);
  }
  return {};
}

nlohmann::json json_file(const fs::path& path) {
  std::ifstream file(path);
  return nlohmann::json::parse(file);
}

/// The tiny checkpoint, exported with its MTP layer.
std::string exported(const TemporaryDirectory& directory, GgmlType type, bool mtp = true) {
  const std::string out = directory.file("x.gguf");
  export_gguf(tiny_checkpoint(false), {out, type, mtp, 0});
  return out;
}

TEST(GgufImport, ThereAndBackIsTheSameCheckpoint) {
  for (const GgmlType type : {GgmlType::f32, GgmlType::bf16}) {
    const TemporaryDirectory directory;
    const std::string out = directory.file("out");
    std::vector<std::string> notes;
    import_gguf(exported(directory, type), {out}, &notes);
    EXPECT_TRUE(notes.empty());
    const fs::path from_path(tiny_checkpoint(false));
    const Checkpoint from(from_path.string()), to(out);
    for (const TensorSpec& spec : tensor_table(from.config())) {
      SCOPED_TRACE(spec.name);
      const TensorView before = from.tensor(spec.name), after = to.tensor(spec.name);
      EXPECT_EQ(after.dtype, before.dtype);
      ASSERT_EQ(after.shape, before.shape);
      EXPECT_EQ(std::memcmp(after.data, before.data, before.bytes()), 0);
    }
    EXPECT_EQ(json_file(fs::path(out) / "config.json"), json_file(from_path / "config.json"));
    EXPECT_EQ(json_file(fs::path(out) / "tokenizer.json"), json_file(from_path / "tokenizer.json"));
    EXPECT_EQ(json_file(fs::path(out) / "tokenizer_config.json"), json_file(from_path / "tokenizer_config.json"));
    EXPECT_EQ(read_tokenizer_config(out).chat_format, ChatFormat::deepseek_v3);
  }
}

TEST(GgufImport, Float32KeepsWhatBf16Rounds) {
  const TemporaryDirectory directory;
  GgufCopy copy(exported(directory, GgmlType::f32));
  const float value = 1.0f + 0x1p-20f;
  std::memcpy(copy.data["blk.0.ffn_up.weight"].data(), &value, 4);
  copy.write(directory.file("y.gguf"));
  import_gguf(directory.file("y.gguf"), {directory.file("bf16")});
  import_gguf(directory.file("y.gguf"), {directory.file("f32"), true});
  EXPECT_EQ(values_of(Checkpoint(directory.file("bf16")), "model.layers.0.mlp.up_proj.weight")[0], 1.0f);
  EXPECT_EQ(values_of(Checkpoint(directory.file("f32")), "model.layers.0.mlp.up_proj.weight")[0], value);
  EXPECT_EQ(logits(directory.file("bf16")).size(), logits(directory.file("f32")).size());
}

TEST(GgufImport, QuantisedWeightsAndTheirLogitsAreClose) {
  const std::vector<float> expected = logits(tiny_checkpoint(false));
  const struct {
    GgmlType type;
    double weights, logits;
  } cases[] = {{GgmlType::f16, 0.002, 0.01},
               {GgmlType::q8_0, 0.008, 0.05},
               {GgmlType::q6_k, 0.02, 0.1},
               {GgmlType::q4_0, 0.1, 0.6},
               {GgmlType::q4_k, 0.1, 0.6}};
  for (const auto& one : cases) {
    SCOPED_TRACE(ggml_type_name(one.type));
    const TemporaryDirectory directory;
    import_gguf(exported(directory, one.type, false), {directory.file("out")});
    const Checkpoint from(tiny_checkpoint(false)), to(directory.file("out"));
    EXPECT_EQ(to.config().num_nextn_predict_layers, 0);
    for (const TensorSpec& spec : tensor_table(to.config())) {
      const double error = relative_rms(values_of(to, spec.name), values_of(from, spec.name));
      EXPECT_LE(error, one.weights) << spec.name;
    }
    EXPECT_LT(relative_rms(logits(directory.file("out")), expected), one.logits);
  }
}

TEST(GgufImport, OtherFormsOfTheSameTensors) {
  const TemporaryDirectory directory;
  const std::string path = exported(directory, GgmlType::bf16);
  import_gguf(path, {directory.file("expected")});
  const auto expected = files_of(directory.file("expected"));

  // The whole kv_b_proj with the lengths of a head, as in old files; gate and up of the experts in one tensor.
  const Checkpoint from(tiny_checkpoint(false));
  GgufCopy copy(path);
  for (int layer = 0; layer < 4; ++layer) {
    const std::string at = fmt::format("blk.{}.", layer);
    copy.remove_tensor(at + "attn_v_b.weight");
    GgufTensor& kv_b = copy.tensor(at + "attn_k_b.weight");
    kv_b.name = at + "attn_kv_b.weight";
    kv_b.shape = {4 * 64, 64};
    const TensorView view = from.tensor(fmt::format("model.layers.{}.self_attn.kv_b_proj.weight", layer));
    copy.data[kv_b.name] = {reinterpret_cast<const char*>(view.data), view.bytes()};
    if (layer == 0) continue;
    GgufTensor& fused = copy.tensor(at + "ffn_gate_exps.weight");
    const std::string gate = copy.data[at + "ffn_gate_exps.weight"], up = copy.data[at + "ffn_up_exps.weight"];
    fused.name = at + "ffn_gate_up_exps.weight";
    fused.shape[1] *= 2;
    std::string& both = copy.data[fused.name];
    for (size_t expert = 0, bytes = gate.size() / 16; expert < 16; ++expert) {
      both += gate.substr(expert * bytes, bytes) + up.substr(expert * bytes, bytes);
    }
    copy.remove_tensor(at + "ffn_up_exps.weight");
  }
  copy.remove_key("deepseek2.attention.key_length_mla");
  copy.remove_key("deepseek2.attention.value_length_mla");
  copy.value("deepseek2.attention.key_length") = GgufValue::of_u32(48);
  copy.value("deepseek2.attention.value_length") = GgufValue::of_u32(32);
  copy.write(directory.file("y.gguf"));
  import_gguf(directory.file("y.gguf"), {directory.file("out")});
  EXPECT_EQ(files_of(directory.file("out")), expected);

  // Blocks counted with the MTP layer, its tensors left out.
  GgufCopy trunk(exported(TemporaryDirectory(), GgmlType::bf16, false));
  trunk.value("deepseek2.block_count") = GgufValue::of_u32(4);
  trunk.value("deepseek2.nextn_predict_layers") = GgufValue::of_u32(1);
  trunk.write(directory.file("trunk.gguf"));
  import_gguf(directory.file("trunk.gguf"), {directory.file("trunk")});
  EXPECT_EQ(Checkpoint(directory.file("trunk")).config().num_hidden_layers, 3);
  EXPECT_EQ(Checkpoint(directory.file("trunk")).config().num_nextn_predict_layers, 0);
}

TEST(GgufImport, ConfigsOfTheFamily) {
  const auto there_and_back = [](const ModelConfig& config) {
    const TemporaryDirectory directory;
    SynthOptions synth;
    synth.config = config;
    synth.out = directory.file("model");
    write_random_checkpoint(synth);
    export_gguf(synth.out, {directory.file("x.gguf"), GgmlType::bf16, config.num_nextn_predict_layers > 0, 0});
    import_gguf(directory.file("x.gguf"), {directory.file("out")});
    EXPECT_EQ(json_file(directory.file("out") + "/config.json"), json_file(directory.file("model") + "/config.json"));
  };
  ModelConfig config = *model_preset("tiny");
  config.yarn = YarnConfig{40, 1024, 32, 1, 0.707, 0.707};
  config.rms_norm_eps = 1e-5;
  config.routed_scaling_factor = 2.446;
  there_and_back(config);

  config = *model_preset("tiny");
  config.model_type = "deepseek_v2";
  config.q_lora_rank.reset();
  config.scoring_func = ScoringFunc::softmax;
  config.topk_method = TopkMethod::group_limited_greedy;
  config.norm_topk_prob = false;
  config.num_nextn_predict_layers = 0;
  config.tie_word_embeddings = true;
  there_and_back(config);
  config.topk_method = TopkMethod::greedy;
  config.n_group = config.topk_group = 1;
  there_and_back(config);
}

TEST(GgufImport, TokensWithMergesAndOtherSplits) {
  const TemporaryDirectory directory;
  GgufCopy copy(exported(directory, GgmlType::bf16));
  auto& tokens = std::get<std::vector<std::string>>(copy.value("tokenizer.ggml.tokens").value);
  auto& types = std::get<std::vector<int64_t>>(copy.value("tokenizer.ggml.token_type").value);
  tokens[300] = "he";
  tokens[301] = "Ġhe";
  tokens[302] = "<tool>";
  types[300] = types[301] = 1;
  types[302] = 3;
  copy.value("tokenizer.ggml.merges") = GgufValue::of_strings({"h e", "Ġ he"});
  copy.write(directory.file("y.gguf"));
  import_gguf(directory.file("y.gguf"), {directory.file("out")});
  auto tokenizer = Tokenizer::load(directory.file("out"));
  EXPECT_EQ(tokenizer->encode("he he").front(), 300);
  EXPECT_EQ(tokenizer->encode("he he").back(), 301);
  EXPECT_EQ(tokenizer->encode("<tool>"), std::vector<int32_t>{302});
  EXPECT_TRUE(tokenizer->is_special(302));

  copy.value("tokenizer.ggml.pre") = GgufValue::of_string("gpt-2");
  copy.write(directory.file("z.gguf"));
  import_gguf(directory.file("z.gguf"), {directory.file("gpt2")});
  EXPECT_EQ(Tokenizer::load(directory.file("gpt2"))->encode(" he"), std::vector<int32_t>{301});
  // And such a tokenizer goes out by its name.
  export_gguf(directory.file("gpt2"), {directory.file("again.gguf"), GgmlType::bf16, false, 0});
  EXPECT_EQ(std::get<std::string>(GgufFile(directory.file("again.gguf")).find("tokenizer.ggml.pre")->value), "gpt-2");

  std::vector<std::string> notes;
  copy.value("tokenizer.ggml.pre") = GgufValue::of_string("kimi-k2");
  copy.write(directory.file("k.gguf"));
  import_gguf(directory.file("k.gguf"), {directory.file("kimi")}, &notes);
  ASSERT_EQ(notes.size(), 1u);
  EXPECT_NE(notes[0].find("kimi-k2"), std::string::npos);
  EXPECT_FALSE(fs::exists(directory.file("kimi") + "/tokenizer.json"));
}

TEST(GgufImport, NotesWhatTheFileDoesNotSay) {
  const TemporaryDirectory directory;
  GgufCopy copy(exported(directory, GgmlType::bf16));
  copy.remove_key("deepseek2.expert_group_count");
  copy.remove_key("deepseek2.expert_group_used_count");
  copy.remove_key("tokenizer.chat_template");
  copy.write(directory.file("y.gguf"));
  std::vector<std::string> notes;
  import_gguf(directory.file("y.gguf"), {directory.file("out")}, &notes);
  ASSERT_EQ(notes.size(), 2u);
  EXPECT_NE(notes[0].find("groups of experts: none"), std::string::npos) << notes[0];
  EXPECT_NE(notes[1].find("no chat template"), std::string::npos) << notes[1];
  EXPECT_EQ(Checkpoint(directory.file("out")).config().n_group, 1);
}

TEST(GgufImport, RefusesByName) {
  const TemporaryDirectory directory;
  const std::string path = exported(directory, GgmlType::bf16);
  int count = 0;
  const auto refuse = [&](const std::function<void(GgufCopy&)>& change, const std::string& part) {
    GgufCopy copy(path);
    change(copy);
    const std::string changed = directory.file(fmt::format("{}.gguf", count++));
    copy.write(changed);
    FATHOM_EXPECT_ERROR(import_gguf(changed, {directory.file("out")}), ErrorKind::bad_input, changed, part);
    EXPECT_FALSE(fs::exists(directory.file("out")));
  };
  const auto set = [&](const std::string& key, const GgufValue& value, const std::string& part) {
    refuse([&](GgufCopy& copy) { copy.value(key) = value; }, part);
  };
  set("general.architecture", GgufValue::of_string("llama"), "expected deepseek2, found llama");
  set("deepseek2.block_count", GgufValue::of_string("3"), "expected a whole number");
  set("deepseek2.block_count", GgufValue::of_i32(-1), "expected a whole number");
  set("deepseek2.block_count", GgufValue::of_u32(0xffffffff), "num_hidden_layers");
  set("deepseek2.block_count", GgufValue::of_u32(3), "no place in a model");
  set("deepseek2.block_count", GgufValue::of_u32(5), "blk.");
  set("deepseek2.nextn_predict_layers", GgufValue::of_u32(4), "nextn_predict_layers");
  set("deepseek2.embedding_length", GgufValue::of_u32(64), "token_embd.weight: expected the shape");
  set("deepseek2.attention.key_length_mla", GgufValue::of_u32(16), "more than rope.dimension_count");
  set("deepseek2.attention.layer_norm_rms_epsilon", GgufValue::of_f32(std::nanf("")), "finite");
  set("deepseek2.attention.temperature_scale", GgufValue::of_f32(0.1f), "temperature");
  set("deepseek2.rope.scaling.type", GgufValue::of_string("longrope"), "expected none or yarn");
  set("deepseek2.rope.scaling.factor", GgufValue::of_f32(4), "without rope.scaling.type");
  set("deepseek2.expert_gating_func", GgufValue::of_u32(3), "expected 1 or 2");
  set("deepseek2.expert_weights_norm", GgufValue::of_u32(1), "true or false");
  set("tokenizer.ggml.tokens", GgufValue::of_string("x"), "list of texts");
  set("tokenizer.ggml.tokens", GgufValue::of_strings(std::vector<std::string>(513, "x")), "at most 512 tokens");
  set("tokenizer.ggml.tokens", GgufValue::of_strings(std::vector<std::string>(512, "x")), "occurs twice");
  set("tokenizer.ggml.token_type", GgufValue::of_i32s({1}), "a list of 512 whole numbers");
  refuse(
      [](GgufCopy& copy) { std::get<std::vector<std::string>>(copy.value("tokenizer.ggml.tokens").value)[9] = "\xff"; },
      "tokens[9]: expected text in UTF-8");
  refuse([](GgufCopy& copy) { copy.remove_key("deepseek2.rope.dimension_count"); }, "rope.dimension_count is missing");
  refuse([](GgufCopy& copy) { copy.remove_tensor("blk.2.attn_v_b.weight"); }, "blk.2.attn_v_b.weight is missing");
  refuse([](GgufCopy& copy) { copy.remove_tensor("token_embd.weight"); }, "token_embd.weight is missing");
  refuse([](GgufCopy& copy) { copy.remove_tensor("blk.1.ffn_down_exps.weight"); }, "ffn_down_exps.weight is missing");
  refuse(
      [](GgufCopy& copy) {
        copy.data["blk.1.attn_q.bias"] = copy.data["blk.1.attn_norm.weight"];
        copy.tensor("blk.1.attn_norm.weight").name = "blk.1.attn_q.bias";
      },
      "blk.1.attn_q.bias has no place");
}

}  // namespace
}  // namespace fathom
