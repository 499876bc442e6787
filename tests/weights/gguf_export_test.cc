#include "weights/gguf_export.h"

#include <gtest/gtest.h>

#include <cstring>

#include "base/number_formats.h"
#include "formats/tensor_table.h"
#include "formats/tokenizer_json.h"
#include "support/errors.h"
#include "weights/gguf_test_files.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

GgufExportOptions options(const std::string& out, GgmlType type = GgmlType::bf16, bool mtp = false) {
  return {out, type, mtp, 0};
}

int64_t whole(const GgufFile& file, const std::string& key) {
  return std::get<int64_t>(file.find(key)->value);
}
double number(const GgufFile& file, const std::string& key) {
  return std::get<double>(file.find(key)->value);
}
std::string text(const GgufFile& file, const std::string& key) {
  return std::get<std::string>(file.find(key)->value);
}

std::vector<float> values_of(const std::string& path, const std::string& name) {
  const GgufModel model(path);
  const GgufTensor* tensor = model.find(name);
  if (tensor == nullptr) throw std::runtime_error("no tensor " + name);
  std::vector<float> values(static_cast<size_t>(element_count(tensor->shape)));
  model.read(*tensor, 0, tensor->rows(), values.data());
  return values;
}

TEST(GgufExport, KeysOfTheModelAndItsTokenizer) {
  const TemporaryDirectory directory;
  SynthOptions synth;
  synth.config = *model_preset("tiny");
  synth.config.yarn = YarnConfig{40, 2048, 32, 1, 1, 1};
  synth.config.rope_theta = 50000;
  synth.out = directory.file("model");
  write_random_checkpoint(synth);
  const std::string out = directory.file("x.gguf");
  std::vector<std::string> notes;
  const GgufExportResult result = export_gguf(synth.out, options(out), &notes);
  const GgufFile file(out);
  EXPECT_EQ(file.bytes(), result.bytes);
  EXPECT_EQ(std::ssize(file.header().tensors), result.tensors);
  ASSERT_EQ(notes.size(), 1u);
  EXPECT_NE(notes[0].find("MTP layer is left out"), std::string::npos);

  EXPECT_EQ(text(file, "general.architecture"), "deepseek2");
  EXPECT_EQ(text(file, "general.name"), "model");
  EXPECT_EQ(whole(file, "general.file_type"), 32);
  EXPECT_EQ(whole(file, "general.quantization_version"), 2);
  const std::map<std::string, int64_t> expected = {
      {"block_count", 3},
      {"context_length", 4096},
      {"embedding_length", 128},
      {"feed_forward_length", 384},
      {"attention.head_count", 4},
      {"attention.head_count_kv", 1},
      {"attention.q_lora_rank", 64},
      {"attention.kv_lora_rank", 64},
      {"attention.key_length", 64 + 16},
      {"attention.value_length", 64},
      {"attention.key_length_mla", 32 + 16},
      {"attention.value_length_mla", 32},
      {"rope.dimension_count", 16},
      {"rope.scaling.original_context_length", 2048},
      {"leading_dense_block_count", 1},
      {"vocab_size", 512},
      {"expert_feed_forward_length", 64},
      {"expert_count", 16},
      {"expert_used_count", 4},
      {"expert_shared_count", 1},
      {"expert_group_count", 4},
      {"expert_group_used_count", 2},
      {"expert_gating_func", 2},
  };
  for (const auto& [key, value] : expected) {
    ASSERT_NE(file.find("deepseek2." + key), nullptr) << key;
    EXPECT_EQ(file.find("deepseek2." + key)->type, GgufType::u32) << key;
    EXPECT_EQ(whole(file, "deepseek2." + key), value) << key;
  }
  EXPECT_EQ(number(file, "deepseek2.attention.layer_norm_rms_epsilon"), 1e-6f);
  EXPECT_EQ(number(file, "deepseek2.rope.freq_base"), 50000);
  EXPECT_EQ(text(file, "deepseek2.rope.scaling.type"), "yarn");
  EXPECT_EQ(number(file, "deepseek2.rope.scaling.factor"), 40);
  EXPECT_EQ(number(file, "deepseek2.rope.scaling.yarn_log_multiplier"), 0.1f);
  EXPECT_EQ(number(file, "deepseek2.expert_weights_scale"), 2.5);
  EXPECT_EQ(file.find("deepseek2.expert_weights_norm")->type, GgufType::boolean);
  EXPECT_EQ(whole(file, "deepseek2.expert_weights_norm"), 1);
  EXPECT_EQ(file.find("deepseek2.nextn_predict_layers"), nullptr);

  EXPECT_EQ(text(file, "tokenizer.ggml.model"), "gpt2");
  EXPECT_EQ(text(file, "tokenizer.ggml.pre"), "deepseek-v3");
  const auto& tokens = std::get<std::vector<std::string>>(file.find("tokenizer.ggml.tokens")->value);
  const auto& types = std::get<std::vector<int64_t>>(file.find("tokenizer.ggml.token_type")->value);
  ASSERT_EQ(tokens.size(), 512u);
  ASSERT_EQ(types.size(), 512u);
  EXPECT_EQ(tokens[0], bos_token_text);
  EXPECT_EQ(types[0], 3);
  EXPECT_EQ(types[10], 1);
  EXPECT_EQ(tokens[259 + 3], "<｜User｜>");
  EXPECT_EQ(types[259 + 3], 3);
  EXPECT_EQ(tokens[259 + 15], "<think>");
  EXPECT_EQ(types[259 + 15], 4);
  EXPECT_EQ(tokens[511], "[PAD511]");
  EXPECT_EQ(types[511], 5);
  EXPECT_EQ(whole(file, "tokenizer.ggml.bos_token_id"), 0);
  EXPECT_EQ(whole(file, "tokenizer.ggml.eos_token_id"), 1);
  EXPECT_EQ(whole(file, "tokenizer.ggml.padding_token_id"), 1);
  EXPECT_EQ(whole(file, "tokenizer.ggml.add_bos_token"), 1);
  EXPECT_EQ(whole(file, "tokenizer.ggml.add_eos_token"), 0);
  EXPECT_EQ(text(file, "tokenizer.chat_template"), deepseek_v3_chat_template);
}

TEST(GgufExport, TensorsHaveTheirNamesShapesAndValues) {
  const TemporaryDirectory directory;
  const std::string out = directory.file("x.gguf");
  export_gguf(tiny_checkpoint(false), options(out));
  const GgufFile file(out);
  const Checkpoint from(tiny_checkpoint(false));
  const std::map<std::string, std::pair<std::string, GgmlType>> plain = {
      {"token_embd.weight", {"model.embed_tokens.weight", GgmlType::bf16}},
      {"output_norm.weight", {"model.norm.weight", GgmlType::f32}},
      {"output.weight", {"lm_head.weight", GgmlType::bf16}},
      {"blk.0.attn_norm.weight", {"model.layers.0.input_layernorm.weight", GgmlType::f32}},
      {"blk.1.attn_q_a.weight", {"model.layers.1.self_attn.q_a_proj.weight", GgmlType::bf16}},
      {"blk.1.attn_q_a_norm.weight", {"model.layers.1.self_attn.q_a_layernorm.weight", GgmlType::f32}},
      {"blk.1.attn_q_b.weight", {"model.layers.1.self_attn.q_b_proj.weight", GgmlType::bf16}},
      {"blk.1.attn_kv_a_mqa.weight", {"model.layers.1.self_attn.kv_a_proj_with_mqa.weight", GgmlType::bf16}},
      {"blk.1.attn_kv_a_norm.weight", {"model.layers.1.self_attn.kv_a_layernorm.weight", GgmlType::f32}},
      {"blk.1.attn_output.weight", {"model.layers.1.self_attn.o_proj.weight", GgmlType::bf16}},
      {"blk.2.ffn_norm.weight", {"model.layers.2.post_attention_layernorm.weight", GgmlType::f32}},
      {"blk.0.ffn_gate.weight", {"model.layers.0.mlp.gate_proj.weight", GgmlType::bf16}},
      {"blk.0.ffn_up.weight", {"model.layers.0.mlp.up_proj.weight", GgmlType::bf16}},
      {"blk.0.ffn_down.weight", {"model.layers.0.mlp.down_proj.weight", GgmlType::bf16}},
      {"blk.2.ffn_gate_inp.weight", {"model.layers.2.mlp.gate.weight", GgmlType::f32}},
      {"blk.2.exp_probs_b.bias", {"model.layers.2.mlp.gate.e_score_correction_bias", GgmlType::f32}},
      {"blk.2.ffn_gate_shexp.weight", {"model.layers.2.mlp.shared_experts.gate_proj.weight", GgmlType::bf16}},
      {"blk.2.ffn_up_shexp.weight", {"model.layers.2.mlp.shared_experts.up_proj.weight", GgmlType::bf16}},
      {"blk.2.ffn_down_shexp.weight", {"model.layers.2.mlp.shared_experts.down_proj.weight", GgmlType::bf16}},
  };
  for (const auto& [name, what] : plain) {
    SCOPED_TRACE(name);
    ASSERT_NE(file.tensor(name), nullptr);
    EXPECT_EQ(file.tensor(name)->type, what.second);
    EXPECT_EQ(file.tensor(name)->shape, from.tensor(what.first).shape);
    EXPECT_EQ(values_of(out, name), values_of(from, what.first));
  }
  // Experts one behind the other.
  for (const auto& [name, projection] : {std::pair{"gate", "gate_proj"}, {"up", "up_proj"}, {"down", "down_proj"}}) {
    std::vector<float> all;
    for (int expert = 0; expert < 16; ++expert) {
      const auto one = values_of(from, fmt::format("model.layers.2.mlp.experts.{}.{}.weight", expert, projection));
      all.insert(all.end(), one.begin(), one.end());
    }
    const std::string stacked = fmt::format("blk.2.ffn_{}_exps.weight", name);
    EXPECT_EQ(values_of(out, stacked), all) << name;
    EXPECT_EQ(file.tensor(stacked)->shape.size(), 3u);
  }
  // 4 heads with 32 rows of keys and 32 of values, over a rank of 64.
  const std::vector<float> kv_b = values_of(from, "model.layers.1.self_attn.kv_b_proj.weight");
  const std::vector<float> k_b = values_of(out, "blk.1.attn_k_b.weight");
  const std::vector<float> v_b = values_of(out, "blk.1.attn_v_b.weight");
  EXPECT_EQ(file.tensor("blk.1.attn_k_b.weight")->shape, (Shape{4, 64, 32}));
  EXPECT_EQ(file.tensor("blk.1.attn_v_b.weight")->shape, (Shape{4, 32, 64}));
  EXPECT_EQ(file.tensor("blk.1.attn_kv_b.weight"), nullptr);
  for (size_t head = 0; head < 4; ++head) {
    for (size_t row = 0; row < 32; ++row) {
      for (size_t c = 0; c < 64; ++c) {
        ASSERT_EQ(k_b[(head * 64 + c) * 32 + row], kv_b[(head * 64 + row) * 64 + c]);
        ASSERT_EQ(v_b[(head * 32 + row) * 64 + c], kv_b[(head * 64 + 32 + row) * 64 + c]);
      }
    }
  }
  // Three layers, the first dense: 3 outside, 10 + 3 of a dense layer, 10 + 8 of each other. The MTP layer is not
  // there.
  EXPECT_EQ(file.header().tensors.size(), 3u + 13 + 2 * 18);
  EXPECT_EQ(file.tensor("blk.3.attn_norm.weight"), nullptr);
  EXPECT_FALSE(fs::exists(out + ".partial"));
}

TEST(GgufExport, MtpOnRequest) {
  const TemporaryDirectory directory;
  const std::string out = directory.file("x.gguf");
  export_gguf(tiny_checkpoint(false), options(out, GgmlType::q8_0, true));
  const GgufFile file(out);
  EXPECT_EQ(whole(file, "deepseek2.block_count"), 4);
  EXPECT_EQ(whole(file, "deepseek2.nextn_predict_layers"), 1);
  for (const char* name : {"nextn.eh_proj", "nextn.enorm", "nextn.hnorm", "nextn.embed_tokens",
                           "nextn.shared_head_norm", "nextn.shared_head_head", "ffn_down_exps", "attn_k_b"}) {
    EXPECT_NE(file.tensor(fmt::format("blk.3.{}.weight", name)), nullptr) << name;
  }
  const std::string none = directory.file("none");
  SynthOptions synth;
  synth.config = *model_preset("tiny");
  synth.config.num_nextn_predict_layers = 0;
  synth.out = none;
  write_random_checkpoint(synth);
  FATHOM_EXPECT_ERROR(export_gguf(none, options(directory.file("y.gguf"), GgmlType::f32, true)), ErrorKind::bad_input,
                      "--mtp", "no MTP layer");
}

TEST(GgufExport, Fp8IsItsCast) {
  const TemporaryDirectory directory;
  const std::string out = directory.file("x.gguf");
  export_gguf(tiny_checkpoint(true), options(out));
  const Checkpoint from(tiny_checkpoint(true));
  for (const auto& [theirs, ours] :
       {std::pair<std::string, std::string>{"blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight"},
        {"blk.0.ffn_up.weight", "model.layers.0.mlp.up_proj.weight"}}) {
    const std::vector<float> values = values_of(out, theirs);
    const TensorView codes = from.tensor(ours), scales = from.tensor(ours + "_scale_inv");
    ASSERT_EQ(codes.dtype, DType::f8_e4m3);
    const int64_t cols = codes.shape[1];
    for (int64_t i = 0; i < codes.elements(); ++i) {
      float scale;
      std::memcpy(&scale, scales.data + 4 * (i / cols / 128 * scales.shape[1] + i % cols / 128), 4);
      const auto code = static_cast<uint8_t>(codes.data[i]);
      ASSERT_EQ(values[static_cast<size_t>(i)], round_to_bf16(e4m3_to_f32(code) * scale)) << i;
    }
  }
}

TEST(GgufExport, TypesFallBackWhereRowsAreNotWholeBlocks) {
  const TemporaryDirectory directory;
  const std::string out = directory.file("x.gguf");
  std::vector<std::string> notes;
  SynthOptions synth;
  synth.config = *model_preset("tiny");
  synth.config.hidden_size = 256;
  synth.config.qk_nope_head_dim = 24;
  synth.config.v_head_dim = 64;
  synth.out = directory.file("model");
  write_random_checkpoint(synth);
  export_gguf(synth.out, options(out, GgmlType::q4_k), &notes);
  const GgufFile file(out);
  EXPECT_EQ(whole(file, "general.file_type"), 14);
  EXPECT_EQ(file.tensor("token_embd.weight")->type, GgmlType::q4_k);
  EXPECT_EQ(file.tensor("output.weight")->type, GgmlType::q6_k);
  EXPECT_EQ(file.tensor("blk.1.attn_output.weight")->type, GgmlType::q4_k);
  EXPECT_EQ(file.tensor("blk.1.ffn_gate_exps.weight")->type, GgmlType::q4_k);
  EXPECT_EQ(file.tensor("blk.1.ffn_down_exps.weight")->type, GgmlType::q5_0);  // rows of 64
  EXPECT_EQ(file.tensor("blk.1.attn_k_b.weight")->type, GgmlType::bf16);       // rows of 24
  EXPECT_EQ(file.tensor("blk.1.ffn_gate_inp.weight")->type, GgmlType::f32);
  std::string all;
  for (const std::string& note : notes) all += note + "\n";
  for (const char* part :
       {"rows of 24 values, not whole blocks of q4_k: bf16", "rows of 64 values, not whole blocks of q4_k: q5_0"}) {
    EXPECT_NE(all.find(part), std::string::npos) << all;
  }
}

TEST(GgufExport, SplitFilesHoldWhatOneWould) {
  const TemporaryDirectory directory;
  export_gguf(tiny_checkpoint(false), options(directory.file("x.gguf")));
  GgufExportOptions split = options(directory.file("y.gguf"));
  split.split_bytes = 300'000;
  export_gguf(tiny_checkpoint(false), split);
  std::vector<std::string> parts;
  for (const auto& entry : fs::directory_iterator(directory.path())) {
    if (entry.path().filename().string().starts_with("y-")) parts.push_back(entry.path().string());
  }
  std::sort(parts.begin(), parts.end());
  ASSERT_GT(parts.size(), 2u);
  EXPECT_EQ(parts[0], directory.file(fmt::format("y-00001-of-{:05}.gguf", parts.size())));
  EXPECT_FALSE(fs::exists(directory.file("y.gguf")));
  for (size_t i = 0; i < parts.size(); ++i) {
    const GgufFile file(parts[i]);
    EXPECT_EQ(whole(file, "split.no"), static_cast<int64_t>(i));
    EXPECT_EQ(whole(file, "split.count"), std::ssize(parts));
    EXPECT_EQ(file.find("split.count")->type, GgufType::u16);
    EXPECT_EQ(whole(file, "split.tensors.count"), 3 + 13 + 2 * 18);
    EXPECT_EQ(file.find("general.architecture") != nullptr, i == 0);
  }
  import_gguf(parts[1], {directory.file("from-parts")});
  import_gguf(directory.file("x.gguf"), {directory.file("from-one")});
  EXPECT_EQ(files_of(directory.file("from-parts")), files_of(directory.file("from-one")));

  fs::rename(parts[1], directory.file("kept"));
  FATHOM_EXPECT_ERROR(GgufModel{parts[0]}, ErrorKind::bad_input, parts[1], "no such file");
  fs::copy_file(parts[0], parts[1]);
  FATHOM_EXPECT_ERROR(GgufModel{parts[0]}, ErrorKind::bad_input, "expected file 2");
  FATHOM_EXPECT_ERROR(GgufModel{directory.file("kept")}, ErrorKind::bad_input, "split files need their names");
}

/// An export of the tiny checkpoint whose progress is recorded every few KB, so that there are places to stop at.
struct RecordedExport {
  RecordedExport(const std::string& out, uint64_t split_bytes, GgmlType type = GgmlType::q4_0)
      : checkpoint(tiny_checkpoint(false)), reader(checkpoint) {
    GgufExportOptions wanted = options(out, type);
    wanted.split_bytes = split_bytes;
    plan = plan_gguf_export(checkpoint, reader, wanted);
    plan.record_bytes = 20'000;
  }
  GgufExportResult run(const std::function<void(uint64_t, uint64_t)>& on_progress = {}) {
    return write_gguf(plan, team, on_progress);
  }
  /// Ends the run once so many bytes are written and checked.
  void stop_at(uint64_t bytes) {
    EXPECT_THROW(run([bytes](uint64_t done, uint64_t) {
                   if (done >= bytes) throw std::runtime_error("stopped");
                 }),
                 std::runtime_error);
  }
  std::vector<std::string> contents() const {
    std::vector<std::string> result;
    for (const auto& file : plan.files) {
      std::ifstream in(file.path, std::ios::binary);
      result.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
    }
    return result;
  }

  Checkpoint checkpoint;
  TensorReader reader;
  GgufExportPlan plan;
  ThreadTeam team{2};
};

void damage(const std::string& path, std::streamoff from_end) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  ASSERT_TRUE(file) << path;
  file.seekg(-from_end, std::ios::end);
  const int byte = file.get();
  file.seekp(-from_end, std::ios::end);
  file.put(static_cast<char>(byte ^ 0x55));
}

TEST(GgufExport, GoesOnWhereItWasStopped) {
  for (const uint64_t split : {0, 100'000}) {
    SCOPED_TRACE(split);
    const TemporaryDirectory directory;
    RecordedExport whole(directory.file("x.gguf"), split);
    const GgufExportResult expected = whole.run();
    EXPECT_EQ(expected.bytes_kept, 0u);
    EXPECT_FALSE(fs::exists(directory.file("x.gguf.partial")));
    const auto bytes = whole.contents();
    ASSERT_GT(expected.bytes, 200'000u);
    const auto stopped_at = [&](const std::string& name, const std::vector<double>& shares) {
      SCOPED_TRACE(name);
      fs::create_directory(directory.file(name));
      const std::string out = directory.file(name) + "/x.gguf";
      RecordedExport again(out, split);
      for (const double share : shares) {
        again.stop_at(static_cast<uint64_t>(share * static_cast<double>(expected.bytes)));
        for (const auto& file : again.plan.files) EXPECT_FALSE(fs::exists(file.path)) << file.path;
      }
      const GgufExportResult rest = again.run();
      EXPECT_EQ(rest.bytes, expected.bytes);
      EXPECT_EQ(again.contents(), bytes);
      EXPECT_FALSE(fs::exists(out + ".partial"));
      return rest.bytes_kept;
    };
    const uint64_t early = stopped_at("early", {0.2}), late = stopped_at("late", {0.7});
    EXPECT_GT(early, 0u);
    EXPECT_LT(early, late);
    EXPECT_LT(late, expected.bytes);
    EXPECT_GT(stopped_at("often", {0.1, 0.3, 0.5, 0.7}), early);
    EXPECT_EQ(stopped_at("while it reads", {1.3}), expected.bytes);
    EXPECT_EQ(stopped_at("all over", {0.4, 1.1, 1.9}), expected.bytes);
  }
}

TEST(GgufExport, KeepsWhatIsRecordedAndNoMore) {
  const TemporaryDirectory directory;
  RecordedExport whole(directory.file("whole.gguf"), 0);
  const uint64_t bytes = whole.run().bytes;
  RecordedExport again(directory.file("x.gguf"), 0);
  const std::string growing = directory.file("x.gguf.partial") + "/x.gguf.partial";
  again.stop_at(bytes / 2);
  const uint64_t recorded = fs::file_size(growing);
  ASSERT_GT(recorded, bytes / 4);
  // As a killed run leaves it: bytes behind what it recorded, of which nobody knows whether they are whole.
  std::ofstream(growing, std::ios::binary | std::ios::app) << std::string(30'000, 'x');
  again.stop_at(bytes / 2);
  // As a machine that lost its power: less than was recorded. The segments that are there are kept.
  fs::resize_file(growing, recorded - 1);
  const GgufExportResult result = again.run();
  EXPECT_LT(result.bytes_kept, recorded);
  EXPECT_GT(result.bytes_kept, recorded / 4);
  EXPECT_EQ(again.contents(), whole.contents());

  // A file that disappeared is written anew.
  RecordedExport third(directory.file("y.gguf"), 0);
  third.stop_at(bytes / 2);
  fs::remove(directory.file("y.gguf.partial") + "/y.gguf.partial");
  EXPECT_EQ(third.run().bytes_kept, 0u);
  EXPECT_EQ(third.contents(), whole.contents());
}

TEST(GgufExport, FindsAFileThatIsNotWhatWasWritten) {
  const TemporaryDirectory directory;
  RecordedExport whole(directory.file("whole.gguf"), 0);
  const uint64_t bytes = whole.run().bytes;
  // Changed between two runs, in what the second keeps.
  RecordedExport one(directory.file("x.gguf"), 0);
  one.stop_at(bytes / 2);
  damage(directory.file("x.gguf.partial") + "/x.gguf.partial", 100);
  FATHOM_EXPECT_ERROR(one.run(), ErrorKind::failure, "x.gguf.partial/x.gguf", "repeat the command");
  EXPECT_FALSE(fs::exists(directory.file("x.gguf")));
  const uint64_t kept = one.run().bytes_kept;
  EXPECT_GT(kept, 0u);  // what stands before the damage
  EXPECT_LT(kept, bytes / 2 + 40'000);
  EXPECT_EQ(one.contents(), whole.contents());

  // The last of several files, damaged while the first is read again.
  RecordedExport parts(directory.file("y.gguf"), 100'000);
  const std::string last = fs::path(parts.plan.files.back().path).filename().string();
  bool damaged = false;
  FATHOM_EXPECT_ERROR(parts.run([&](uint64_t, uint64_t) {
    const std::string path = directory.file("y.gguf.partial") + "/" + last;
    if (damaged || !fs::exists(path)) return;
    damaged = true;
    damage(path, 40);
  }),
                      ErrorKind::failure, last, "does not hold what was written");
  EXPECT_TRUE(damaged);
  for (const auto& file : parts.plan.files) EXPECT_FALSE(fs::exists(file.path));
  // Bytes behind its end are found, too.
  std::ofstream(directory.file("y.gguf.partial") + "/" + fs::path(parts.plan.files[0].path).filename().string(),
                std::ios::binary | std::ios::app)
      << "x";
  EXPECT_GT(parts.run().bytes_kept, 0u);
  RecordedExport expected(directory.file("z.gguf"), 100'000);
  expected.run();
  EXPECT_EQ(parts.contents(), expected.contents());
}

TEST(GgufExport, RefusesWhatIsNotItsOwn) {
  const TemporaryDirectory directory;
  const std::string out = directory.file("x.gguf");
  RecordedExport one(out, 0);
  std::string refused;
  EXPECT_THROW(one.run([&](uint64_t done, uint64_t) {
    if (done < 100'000) return;
    try {
      RecordedExport(out, 0).run();
    } catch (const Error& error) {
      refused = error.what();
    }
    throw std::runtime_error("stopped");
  }),
               std::runtime_error);
  EXPECT_NE(refused.find("another run is writing this directory"), std::string::npos) << refused;
  FATHOM_EXPECT_ERROR(RecordedExport(out, 0, GgmlType::q8_0).run(), ErrorKind::bad_input, "x.gguf.partial",
                      "left over from another command");
  const std::string state = out + ".partial/rewrite.json";
  std::string text;
  {
    std::ifstream file(state);
    text.assign(std::istreambuf_iterator<char>(file), {});
  }
  const size_t place = text.find("\"end\"");
  ASSERT_NE(place, std::string::npos);
  std::ofstream(state) << text.substr(0, place) << "\"and\"" << text.substr(place + 5);
  FATHOM_EXPECT_ERROR(one.run(), ErrorKind::bad_input, "rewrite.json", "remove");
  std::ofstream(state) << text;
  EXPECT_GT(one.run().bytes_kept, 0u);
  FATHOM_EXPECT_ERROR(one.run(), ErrorKind::bad_input, "found one");
  EXPECT_FALSE(fs::exists(out + ".partial"));
}

TEST(GgufExport, GoesOnWhenSomeFilesHaveTheirNames) {
  const TemporaryDirectory directory;
  RecordedExport parts(directory.file("x.gguf"), 100'000);
  ASSERT_GT(parts.plan.files.size(), 2u);
  // What is in the way from the start is found before anything is written.
  fs::create_directories(parts.plan.files[1].path + "/in the way");
  FATHOM_EXPECT_ERROR(parts.run(), ErrorKind::bad_input, "found one");
  fs::remove_all(parts.plan.files[1].path);
  EXPECT_FALSE(fs::exists(directory.file("x.gguf.partial")));
  // A directory in the place of the second file's name: the first gets its own before the run fails.
  const std::string blocked = parts.plan.files[1].path;
  uint64_t total = 0;
  FATHOM_EXPECT_ERROR(parts.run([&](uint64_t done, uint64_t of) {
    total = of;
    if (done == of) fs::create_directories(blocked + "/in the way");
  }),
                      ErrorKind::failure, "cannot get its name");
  EXPECT_TRUE(fs::exists(parts.plan.files[0].path));
  fs::remove_all(blocked);
  EXPECT_EQ(parts.run().bytes_kept, total / 2);
  RecordedExport expected(directory.file("y.gguf"), 100'000);
  expected.run();
  EXPECT_EQ(parts.contents(), expected.contents());
  EXPECT_FALSE(fs::exists(directory.file("x.gguf.partial")));
}

TEST(GgufExport, NamesAValueThatCannotBeWritten) {
  const TemporaryDirectory directory;
  RecordedExport one(directory.file("x.gguf"), 0);
  GgufOutputTensor& tensor = one.plan.files[0].tensors[5];
  const auto make = tensor.make;
  tensor.make = [make](int64_t first, int64_t count, float* to) {
    make(first, count, to);
    to[3] = std::numeric_limits<float>::quiet_NaN();
  };
  FATHOM_EXPECT_ERROR(one.run(), ErrorKind::bad_input, tensor.name, "nan at [0, 3]");
  EXPECT_FALSE(fs::exists(directory.file("x.gguf")));
  tensor.make = make;
  EXPECT_GT(one.run().bytes_kept, 0u);
}

TEST(GgufExport, SaysWhatGgufCannotHold) {
  const TemporaryDirectory directory;
  const auto refuse = [&](const char* name, const ModelConfig& config, const std::string& part) {
    SynthOptions synth;
    synth.config = config;
    synth.out = directory.file(name);
    write_random_checkpoint(synth);
    FATHOM_EXPECT_ERROR(export_gguf(synth.out, options(directory.file("x.gguf"))), ErrorKind::bad_input, part);
  };
  ModelConfig config = *model_preset("tiny");
  config.moe_layer_freq = 2;
  refuse("freq", config, "moe_layer_freq");
  config = *model_preset("tiny");
  config.yarn = YarnConfig{4, 1024, 32, 1, 1, 0.5};
  refuse("mscale", config, "rope_scaling.mscale");
}

}  // namespace
}  // namespace fathom
