#include "evaluate/dataset_loss.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "data/random.h"
#include "evaluate/random_model.h"
#include "formats/safetensors.h"
#include "support/errors.h"

namespace fathom {
namespace {

constexpr int64_t kLength = 530;  // more than one pass, and no multiple of the rows of logits at a time
constexpr int32_t kPad = 2;

/// Two sequences of random tokens; the second ends with padding.
std::vector<std::vector<int32_t>> random_sequences() {
  Random random(9);
  std::vector<std::vector<int32_t>> sequences(2);
  for (auto& sequence : sequences) {
    for (int64_t i = 0; i <= kLength; ++i) sequence.push_back(static_cast<int32_t>(3 + random.below(509)));
  }
  std::fill(sequences[1].end() - 40, sequences[1].end(), kPad);
  return sequences;
}

void write_dataset(const std::string& directory, const std::vector<std::vector<int32_t>>& sequences,
                   int64_t vocab_size) {
  std::vector<int32_t> tokens;
  for (const auto& sequence : sequences) tokens.insert(tokens.end(), sequence.begin(), sequence.end());
  std::filesystem::create_directories(directory);
  const Shape shape = {std::ssize(sequences), kLength + 1};
  write_safetensors(directory + "/validation-00000.safetensors",
                    {{"tokens", tensor_view(DType::i32, shape, tokens.data())}});
  const nlohmann::json shard = {{"file", "validation-00000.safetensors"}, {"sequences", sequences.size()}};
  const nlohmann::json split = {{"padding", 40}, {"shards", {shard}}};
  std::ofstream(directory + "/data.json") << nlohmann::json({{"format", "fathom-tokens"},
                                                             {"version", 1},
                                                             {"sequence_length", kLength},
                                                             {"vocab_size", vocab_size},
                                                             {"tokenizer", "fnv1a64:0000000000000000"},
                                                             {"pad_token_id", kPad},
                                                             {"splits", {{"validation", split}}}});
}

TEST(CrossEntropy, ByHand) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.25f), std::log(0.25f)};
  EXPECT_NEAR(cross_entropy(logits, 0), std::log(2.0), 1e-7);
  EXPECT_NEAR(cross_entropy(logits, 2), std::log(4.0), 1e-7);
  EXPECT_NEAR(cross_entropy(std::vector<float>{10000, 9999}, 1), 1 + std::log1p(std::exp(-1.0)), 1e-9);
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  for (const std::vector<float>& broken :
       {std::vector<float>{nan, 1, 2}, std::vector<float>{1, 2, nan}, std::vector<float>{1, INFINITY, 2}}) {
    EXPECT_TRUE(std::isnan(cross_entropy(broken, 1)));
  }
}

TEST(LossByPosition, IsThePlainSum) {
  const RandomModel random(*model_preset("tiny"), 1);
  const auto sequences = random_sequences();
  write_dataset(random.directory.file("data"), sequences, 512);
  const TokenDataset dataset(random.directory.file("data"), "validation");
  ThreadTeam team(2);
  int64_t seen = 0;
  const std::vector<LossSum> positions =
      loss_by_position(*random.model, dataset, 2, team, [&](int64_t tokens) { seen += tokens; });
  EXPECT_EQ(seen, 2 * kLength);
  ASSERT_EQ(std::ssize(positions), kLength);

  std::vector<LossSum> expected(static_cast<size_t>(kLength));
  for (const auto& sequence : sequences) {
    const std::vector<int32_t> inputs(sequence.begin(), sequence.end() - 1);
    const auto tensors = trace_forward(*random.model, inputs, {}, team);
    const float* logits = traced(tensors, "logits").values.data();
    for (size_t i = 0; i < inputs.size(); ++i, logits += 512) {
      if (sequence[i + 1] == kPad) continue;
      double sum = 0;
      for (int64_t v = 0; v < 512; ++v) sum += std::exp(double{logits[v]});
      expected[i] += {1, std::log(sum) - logits[sequence[i + 1]]};
    }
  }
  LossSum all;
  for (size_t i = 0; i < positions.size(); ++i) {
    EXPECT_EQ(positions[i].tokens, expected[i].tokens) << i;
    EXPECT_NEAR(positions[i].nats, expected[i].nats, 1e-9 * expected[i].nats) << i;
    all += positions[i];
  }
  EXPECT_EQ(all.tokens, 2 * kLength - 40);

  // The first sequence alone; the sum of both is not twice it.
  const std::vector<LossSum> first = loss_by_position(*random.model, dataset, 1, team);
  EXPECT_EQ(by_width(first, kLength)[0].tokens, kLength);
  EXPECT_NE(first[0].nats, positions[0].nats);
  FATHOM_EXPECT_ERROR(loss_by_position(*random.model, dataset, 3, team), ErrorKind::bad_input, "3", "2");
}

TEST(LossByPosition, GoesOnBehindTheModelsPositions) {
  ModelConfig config = *model_preset("tiny");
  const RandomModel longer(config, 1);
  config.max_position_embeddings = 100;
  const RandomModel shorter(config, 1);
  write_dataset(longer.directory.file("data"), random_sequences(), 512);
  const TokenDataset dataset(longer.directory.file("data"), "validation");
  ThreadTeam team(1);
  const auto a = loss_by_position(*longer.model, dataset, 1, team);
  const auto b = loss_by_position(*shorter.model, dataset, 1, team);
  for (size_t i = 0; i < a.size(); ++i) ASSERT_EQ(a[i].nats, b[i].nats) << i;
}

TEST(LossByPosition, RefusesAGreaterVocabulary) {
  const RandomModel random(*model_preset("tiny"), 1);
  write_dataset(random.directory.file("data"), random_sequences(), 513);
  const TokenDataset dataset(random.directory.file("data"), "validation");
  ThreadTeam team(1);
  FATHOM_EXPECT_ERROR(loss_by_position(*random.model, dataset, 1, team), ErrorKind::bad_input, "513", "512");
}

TEST(ByWidth, SumsNeighbours) {
  const std::vector<LossSum> parts = by_width({{1, 2}, {2, 3}, {0, 0}, {1, 5}, {4, 1}}, 2);
  ASSERT_EQ(parts.size(), 3u);
  EXPECT_EQ(parts[0].tokens, 3);
  EXPECT_EQ(parts[0].nats, 5);
  EXPECT_EQ(parts[1].mean(), 5);
  EXPECT_EQ(parts[1].perplexity(), std::exp(5.0));
  EXPECT_EQ(parts[2].tokens, 4);
  EXPECT_EQ(LossSum{}.mean(), 0);
}

}  // namespace
}  // namespace fathom
