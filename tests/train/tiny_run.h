#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "data/pack.h"
#include "data/story.h"
#include "formats/tokenizer_json.h"
#include "support/golden.h"
#include "text/bpe_trainer.h"
#include "text/chat_template.h"

namespace fathom {

/// A tokenizer of 320 tokens and shards of a few stories in sequences of 48, made once in a process.
struct TinyData {
  TemporaryDirectory directory;
  std::string tokenizer = directory.file("tokenizer");
  std::string shards = directory.file("shards");

  static void write(const std::string& path, const std::string& text) { std::ofstream(path) << text; }

  TinyData() {
    Random random(1);
    BpeTrainer trainer;
    std::string corpus;
    for (int i = 0; i < 60; ++i) {
      const std::string story = make_story(random).text;
      trainer.add_text(story, "test");
      corpus += nlohmann::json{{"text", story}}.dump() + "\n";
    }
    make_tokenizer(trainer, 320, tokenizer);
    write(directory.file("corpus.jsonl"), corpus);
    pack(tokenizer, shards, 48, 0.1);
  }

  void make_tokenizer(BpeTrainer& trainer, int64_t tokens, const std::string& out) const {
    std::filesystem::create_directories(out);
    write(out + "/tokenizer.json",
          trained_tokenizer_json(trainer.train(trainable_tokens(tokens)), control_tokens_for(tokens)).dump());
    write(out + "/tokenizer_config.json",
          tokenizer_config_json(eos_token_text, 4096, deepseek_v31_chat_template).dump());
  }

  void pack(const std::string& with, const std::string& out, int64_t length, double validation,
            uint64_t seed = 0) const {
    PackOptions options;
    options.tokenizer_directory = with;
    options.files = {directory.file("corpus.jsonl")};
    options.out = out;
    options.sequence_length = length;
    options.validation = validation;
    options.seed = seed;
    pack_corpus(options);
  }
};

inline const TinyData& tiny_data() {
  static const TinyData data;
  return data;
}

/// All of V3 in 40,000 parameters.
inline nlohmann::json tiny_model() {
  return {{"model_type", "deepseek_v3"},
          {"vocab_size", 320},
          {"hidden_size", 32},
          {"intermediate_size", 64},
          {"moe_intermediate_size", 16},
          {"num_hidden_layers", 2},
          {"num_nextn_predict_layers", 1},
          {"num_attention_heads", 2},
          {"q_lora_rank", 24},
          {"kv_lora_rank", 16},
          {"qk_nope_head_dim", 8},
          {"qk_rope_head_dim", 8},
          {"v_head_dim", 8},
          {"n_routed_experts", 4},
          {"n_shared_experts", 1},
          {"num_experts_per_tok", 2},
          {"n_group", 2},
          {"topk_group", 2},
          {"topk_method", "noaux_tc"},
          {"scoring_func", "sigmoid"},
          {"norm_topk_prob", true},
          {"routed_scaling_factor", 2.5},
          {"first_k_dense_replace", 1},
          {"moe_layer_freq", 1},
          {"rms_norm_eps", 1e-6},
          {"rope_theta", 10000.0},
          {"max_position_embeddings", 64},
          {"tie_word_embeddings", false},
          {"bos_token_id", 0},
          {"eos_token_id", 1},
          {"hidden_act", "silu"},
          {"attention_bias", false}};
}

/// 24 steps, of 2 sequences at first and of 4 at last, and every schedule in motion.
inline nlohmann::json tiny_recipe() {
  return {{"model", tiny_model()},
          {"data", tiny_data().shards},
          {"tokenizer", tiny_data().tokenizer},
          {"seed", 7},
          {"initial_deviation", 0.05},
          {"tokens", 48 * 86},
          {"micro_batch_sequences", 2},
          {"batch_sequences", 4},
          {"first_batch_sequences", 2},
          {"batch_ramp_until", 0.2},
          {"learning_rate", 0.01},
          {"warmup_steps", 4},
          {"constant_until", 0.5},
          {"cosine_until", 0.8},
          {"last_from", 0.9},
          {"bias_update_until", 0.7},
          {"mtp_loss_weight_until", 0.6},
          {"ema_decay", 0.9},
          {"validate_every", 10},
          {"validation_sequences", 5},
          {"checkpoint_every", 5}};
}

/// Every file below a directory and what it holds.
inline std::map<std::string, std::string> files_below(const std::string& directory) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
    if (!entry.is_regular_file()) continue;
    std::ifstream in(entry.path(), std::ios::binary);
    std::stringstream text;
    text << in.rdbuf();
    files[std::filesystem::relative(entry.path(), directory).string()] = text.str();
  }
  return files;
}

/// Fails naming the files that differ; says nothing of their contents, which may be long.
inline void expect_same_files(const std::string& a, const std::string& b) {
  const auto in_a = files_below(a);
  const auto in_b = files_below(b);
  EXPECT_FALSE(in_a.empty()) << a;
  for (const auto& [name, text] : in_a) EXPECT_TRUE(in_b.contains(name) && in_b.at(name) == text) << name;
  for (const auto& [name, text] : in_b) EXPECT_TRUE(in_a.contains(name)) << name;
}

/// The lines of RUN/log.jsonl without what the clock decides.
inline std::vector<nlohmann::json> log_lines(const std::string& run) {
  std::vector<nlohmann::json> lines;
  std::ifstream in(run + "/log.jsonl");
  for (std::string line; std::getline(in, line);) {
    lines.push_back(nlohmann::json::parse(line));
    for (const char* timed : {"seconds", "tokens_per_second", "fraction_of_peak"}) lines.back().erase(timed);
  }
  return lines;
}

/// Names the first line that differs.
inline void expect_same_log(const std::string& run_a, const std::string& run_b) {
  const auto a = log_lines(run_a);
  const auto b = log_lines(run_b);
  EXPECT_EQ(a.size(), b.size());
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) ASSERT_EQ(a[i], b[i]) << "line " << i + 1;
}

/// Names in RUN/checkpoints, hidden ones too.
inline std::vector<std::string> checkpoint_names(const std::string& run) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(run + "/checkpoints")) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace fathom
