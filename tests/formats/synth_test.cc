#include "formats/synth.h"

#include <gtest/gtest.h>

#include <cmath>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "base/interrupt.h"
#include "base/number_formats.h"
#include "formats/checkpoint.h"
#include "formats/inspect.h"
#include "formats/tensor_table.h"
#include "support/errors.h"
#include "support/golden.h"
#include "text/tokenizer.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

SynthOptions tiny(const std::string& out) {
  SynthOptions options;
  options.config = *model_preset("tiny");
  options.out = out;
  options.seed = 7;
  return options;
}

double deviation(const std::vector<float>& values) {
  double sum = 0;
  for (float value : values) sum += double{value} * value;
  return std::sqrt(sum / static_cast<double>(values.size()));
}

std::vector<float> bf16_values(const TensorView& view) {
  std::vector<float> values;
  for (int64_t i = 0; i < view.elements(); ++i) values.push_back(bf16_to_f32(view.as<uint16_t>()[i]));
  return values;
}

TEST(Synth, WritesACheckpointThatFits) {
  TemporaryDirectory directory;
  const SynthResult result = write_random_checkpoint(tiny(directory.file("model")));
  EXPECT_TRUE(result.tokenizer);
  EXPECT_EQ(result.shards, 1);
  EXPECT_FALSE(file_exists(directory.file("model.partial")));
  const Checkpoint checkpoint(directory.file("model"));
  EXPECT_TRUE(check_checkpoint(checkpoint).empty());
  EXPECT_EQ(checkpoint.index_total_size(), result.tensor_bytes);

  EXPECT_NEAR(deviation(bf16_values(checkpoint.tensor("model.embed_tokens.weight"))), 1, 0.02);
  EXPECT_NEAR(deviation(bf16_values(checkpoint.tensor("model.layers.0.mlp.down_proj.weight"))), 1 / std::sqrt(384),
              0.002);
  for (float gain : bf16_values(checkpoint.tensor("model.norm.weight"))) EXPECT_NEAR(gain, 1, 0.25);
  const TensorView bias = checkpoint.tensor("model.layers.1.mlp.gate.e_score_correction_bias");
  EXPECT_EQ(bias.dtype, DType::f32);
  EXPECT_NE(bias.as<float>()[0], bias.as<float>()[1]);
}

TEST(Synth, ValuesDependOnTheSeedAndNotOnTheShards) {
  TemporaryDirectory directory;
  for (bool fp8 : {false, true}) {
    const std::string suffix = fp8 ? "-fp8" : "-bf16";
    SynthOptions options = tiny(directory.file("one" + suffix));
    options.fp8 = fp8;
    write_random_checkpoint(options);
    options.out = directory.file("many" + suffix);
    options.shard_bytes = 200'000;
    EXPECT_GT(write_random_checkpoint(options).shards, 5);
    options.out = directory.file("other" + suffix);
    options.seed = 8;
    write_random_checkpoint(options);
    const Checkpoint one(directory.file("one" + suffix)), many(directory.file("many" + suffix)),
        other(directory.file("other" + suffix));
    int64_t same = 0, tensors = 0;
    for (const auto& file : one.files()) {
      for (const SafetensorsEntry& entry : file->entries()) {
        const TensorView a = one.tensor(entry.name), b = many.tensor(entry.name), c = other.tensor(entry.name);
        ASSERT_EQ(a.bytes(), b.bytes());
        EXPECT_EQ(std::memcmp(a.data, b.data, a.bytes()), 0) << entry.name;
        // One scale of four possible ones is the same by chance: look at the weights.
        if (entry.name.ends_with("_scale_inv")) continue;
        ++tensors;
        same += std::memcmp(a.data, c.data, a.bytes()) == 0 ? 1 : 0;
      }
    }
    EXPECT_GT(tensors, 200);
    EXPECT_EQ(same, 0);
  }
}

TEST(Synth, Fp8ValuesAreNormalAndUseManyExponents) {
  TemporaryDirectory directory;
  for (bool ue8m0 : {false, true}) {
    SynthOptions options = tiny(directory.file(ue8m0 ? "ue8m0" : "plain"));
    options.config.hidden_size = 300;  // cut-off blocks
    options.config.fp8 = Fp8Config{64, 32, ue8m0};
    options.fp8 = true;
    write_random_checkpoint(options);
    const Checkpoint checkpoint(options.out);
    EXPECT_TRUE(check_checkpoint(checkpoint).empty());
    EXPECT_EQ(checkpoint.config().fp8->ue8m0, ue8m0);
    const TensorView codes = checkpoint.tensor("model.layers.0.mlp.gate_proj.weight");
    const TensorView scales = checkpoint.tensor("model.layers.0.mlp.gate_proj.weight_scale_inv");
    ASSERT_EQ(codes.shape, (Shape{384, 300}));
    ASSERT_EQ(scales.shape, (Shape{6, 10}));
    std::vector<float> values;
    std::set<int> exponents;
    std::set<float> distinct_scales(scales.as<float>(), scales.as<float>() + scales.elements());
    for (int64_t row = 0; row < 384; ++row) {
      for (int64_t col = 0; col < 300; ++col) {
        const uint8_t code = codes.as<uint8_t>()[row * 300 + col];
        ASSERT_NE(code & 0x7f, 0x7f);
        exponents.insert(code >> 3 & 15);
        values.push_back(e4m3_to_f32(code) * scales.as<float>()[row / 64 * 10 + col / 32]);
      }
    }
    EXPECT_NEAR(deviation(values), 1 / std::sqrt(300), 0.003);
    EXPECT_GE(exponents.size(), 10u);
    EXPECT_GE(distinct_scales.size(), ue8m0 ? 1u : 4u);
    for (float scale : distinct_scales) {
      if (ue8m0) {
        EXPECT_EQ(next_power_of_two(scale), scale);
      }
    }
  }
}

TEST(Synth, RefusesWhatIsInTheWay) {
  TemporaryDirectory directory;
  const SynthOptions options = tiny(directory.file("model"));
  make_directories(directory.file("model"));
  write_random_checkpoint(options);  // an empty directory is fine
  FATHOM_EXPECT_ERROR(write_random_checkpoint(options), ErrorKind::bad_input, directory.file("model"), "empty");
  OutputFile(directory.file("file")).commit();
  FATHOM_EXPECT_ERROR(write_random_checkpoint(tiny(directory.file("file"))), ErrorKind::bad_input, "found a file");
  FATHOM_EXPECT_ERROR(write_random_checkpoint(tiny("")), ErrorKind::bad_input, "--out");
  make_directories(directory.file("left.partial"));
  FATHOM_EXPECT_ERROR(write_random_checkpoint(tiny(directory.file("left"))), ErrorKind::bad_input, "left.partial");

  SynthOptions huge = tiny(directory.file("huge"));
  huge.config = *model_preset("deepseek-v3");
  huge.config.vocab_size = 1 << 24;
  huge.config.hidden_size = 1 << 17;  // 25 TB
  FATHOM_EXPECT_ERROR(write_random_checkpoint(huge), ErrorKind::failure, directory.file("huge"), "GB free");
  EXPECT_FALSE(file_exists(directory.file("huge.partial")));
}

TEST(Synth, AnInterruptLeavesNothing) {
  TemporaryDirectory directory;
  install_interrupt_handler();
  std::raise(SIGINT);
  FATHOM_EXPECT_ERROR(write_random_checkpoint(tiny(directory.file("model"))), ErrorKind::failure, "interrupted");
  clear_interrupt();
  for (int signal : {SIGINT, SIGTERM, SIGPIPE, SIGXFSZ}) std::signal(signal, SIG_DFL);
  EXPECT_TRUE(fs::is_empty(directory.path()));
}

TEST(Synth, TokenizerHasBytesAndControlTokens) {
  TemporaryDirectory directory;
  SynthOptions options = tiny(directory.file("model"));
  options.config.bos_token_id = 5;
  options.config.eos_token_ids = {200, 3};
  write_random_checkpoint(options);
  const auto tokenizer = nlohmann::json::parse(read_file(directory.file("model/tokenizer.json"), 1 << 20));
  std::set<int64_t> ids;
  for (const auto& [token, id] : tokenizer["model"]["vocab"].items()) ids.insert(id.get<int64_t>());
  EXPECT_EQ(ids.size(), 259u);
  EXPECT_EQ(tokenizer["model"]["vocab"]["<｜begin▁of▁sentence｜>"], 5);
  EXPECT_EQ(tokenizer["model"]["vocab"]["<｜end▁of▁sentence｜>"], 200);
  EXPECT_TRUE(tokenizer["model"]["vocab"].contains("Ġ"));
  std::set<std::string> added;
  for (const auto& token : tokenizer["added_tokens"]) {
    added.insert(token["content"].get<std::string>());
    ids.insert(token["id"].get<int64_t>());
  }
  EXPECT_EQ(ids.size(), 276u);
  for (const char* token : {"<｜User｜>", "<｜Assistant｜>", "<think>", "</think>", "<｜tool▁sep｜>"}) {
    EXPECT_TRUE(added.contains(token)) << token;
  }
  const auto config = nlohmann::json::parse(read_file(directory.file("model/tokenizer_config.json"), 1 << 20));
  EXPECT_EQ(config["add_bos_token"], true);
  EXPECT_EQ(config["eos_token"]["content"], "<｜end▁of▁sentence｜>");

  options.config.vocab_size = 275;
  options.config.eos_token_ids = {3};
  options.out = directory.file("small");
  EXPECT_FALSE(write_random_checkpoint(options).tokenizer);
  EXPECT_FALSE(file_exists(directory.file("small/tokenizer.json")));

  // Another model's tokenizer needs room for all its ids.
  options.out = directory.file("copied");
  options.tokenizer_directory = directory.file("model");
  FATHOM_EXPECT_ERROR(write_random_checkpoint(options), ErrorKind::bad_input, directory.file("model/tokenizer.json"),
                      "275");
  options.config.vocab_size = 401;
  EXPECT_TRUE(write_random_checkpoint(options).tokenizer);
  EXPECT_EQ(read_file(directory.file("copied/tokenizer.json"), 1 << 20),
            read_file(directory.file("model/tokenizer.json"), 1 << 20));
}

TEST(Synth, IdsThatTheTokenizerOfBytesLacksBecomeItsOwn) {
  TemporaryDirectory directory;
  SynthOptions options = tiny(directory.file("model"));
  options.config.bos_token_id = options.config.vocab_size - 2;
  options.config.eos_token_ids = {options.config.vocab_size - 1};
  write_random_checkpoint(options);
  const ModelConfig config = read_model_config(directory.file("model"));
  EXPECT_EQ(config.bos_token_id, 0);
  EXPECT_EQ(config.eos_token_ids, std::vector<int64_t>{1});
  const auto tokenizer = Tokenizer::load(directory.file("model/tokenizer.json"));
  EXPECT_EQ(tokenizer->added_token("<｜end▁of▁sentence｜>"), 1);
}

TEST(Synth, TokenizerIsThePublishedOneButForItsVocabulary) {
  FATHOM_GOLDEN_OR_SKIP(golden, "tokenizer");
  TemporaryDirectory directory;
  write_random_checkpoint(tiny(directory.file("model")));
  const auto load = [](const std::string& path) { return nlohmann::json::parse(read_file(path, 64 << 20)); };
  const auto ours = load(directory.file("model/tokenizer.json")), theirs = load(golden + "/tokenizer.json");
  for (const char* part : {"normalizer", "pre_tokenizer", "post_processor", "decoder"}) {
    EXPECT_EQ(ours[part], theirs[part]) << part;
  }
  const auto our_config = load(directory.file("model/tokenizer_config.json"));
  auto their_config = load(golden + "/tokenizer_config.json");
  their_config["model_max_length"] = our_config["model_max_length"];
  EXPECT_EQ(our_config, their_config);
}

}  // namespace
}  // namespace fathom
