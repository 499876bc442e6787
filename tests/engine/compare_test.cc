#include "engine/compare.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "engine/trace.h"
#include "support/errors.h"
#include "support/golden.h"

namespace fathom {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> logits_of(const std::vector<double>& probabilities, double shift) {
  std::vector<float> logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p) + shift));
  return logits;
}

TEST(CompareLogits, IsTheDivergenceByHand) {
  // ½ ln 2 + ¼ ln ½ + 0, whatever is added to all logits of a model.
  const TokenDifference d = compare_logits(logits_of({0.5, 0.25, 0.25}, 3), logits_of({0.25, 0.5, 0.25}, -2), 2);
  EXPECT_NEAR(d.kl, 0.25 * std::log(2.0), 1e-6);
  EXPECT_FALSE(d.same_top);
  EXPECT_NEAR(d.logprob_a, std::log(0.25), 1e-6);
  EXPECT_NEAR(d.logprob_b, std::log(0.25), 1e-6);
  EXPECT_NEAR(d.logit_difference, 5 + std::log(2.0), 1e-5);  // of the first token
}

TEST(CompareLogits, ItsDirectionIsFromAToB) {
  const auto a = logits_of({0.9, 0.1}, 0);
  const auto b = logits_of({0.5, 0.5}, 0);
  EXPECT_NEAR(compare_logits(a, b, -1).kl, 0.9 * std::log(1.8) + 0.1 * std::log(0.2), 1e-6);
  EXPECT_NEAR(compare_logits(b, a, -1).kl, 0.5 * std::log(0.5 / 0.9) + 0.5 * std::log(5.0), 1e-6);
}

TEST(CompareLogits, EqualLogitsDifferByNothing) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 5);
  std::vector<float> logits(1000);
  for (float& logit : logits) logit = normal(random);
  const TokenDifference d = compare_logits(logits, logits, 0);
  EXPECT_EQ(d.kl, 0);
  EXPECT_EQ(d.logit_difference, 0);
  EXPECT_TRUE(d.same_top);
}

TEST(CompareLogits, GreatLogitsDoNotOverflow) {
  const TokenDifference d = compare_logits(std::vector<float>{10000, 9999}, std::vector<float>{-10000, -10001}, 1);
  EXPECT_NEAR(d.kl, 0, 1e-12);
  EXPECT_NEAR(d.logprob_b, -std::log1p(std::exp(1.0)), 1e-9);
}

TEST(CompareLogits, ImpossibleTokens) {
  // Excluded by both: nothing. Excluded by b alone: b cannot write what a writes.
  EXPECT_EQ(compare_logits(std::vector<float>{1, -kInfinity}, std::vector<float>{1, -kInfinity}, -1).kl, 0);
  EXPECT_EQ(compare_logits(std::vector<float>{1, 1}, std::vector<float>{1, -kInfinity}, -1).kl, kInfinity);
  EXPECT_NEAR(compare_logits(std::vector<float>{1, -kInfinity}, std::vector<float>{1, 1}, -1).kl, std::log(2.0), 1e-9);
}

TEST(CompareLogits, TiesAreTheLowerId) {
  EXPECT_TRUE(compare_logits(std::vector<float>{2, 2, 1}, std::vector<float>{3, 1, 3}, -1).same_top);
}

TEST(CompareLogits, BrokenLogitsAreAFailure) {
  const std::vector<float> fine = {1, 2};
  FATHOM_EXPECT_ERROR(compare_logits(std::vector<float>{1, NAN}, fine, -1), ErrorKind::failure, "token 1 is NaN");
  FATHOM_EXPECT_ERROR(compare_logits(fine, std::vector<float>{1, kInfinity}, -1), ErrorKind::failure, "inf");
}

TEST(Summarize, QuantilesAndPerplexities) {
  std::vector<TokenDifference> differences(200);
  std::vector<bool> has_next(200, false);
  for (size_t i = 0; i < 200; ++i) {
    differences[199 - i].kl = static_cast<double>(i);
    differences[i].same_top = i % 4 != 0;
  }
  differences[7].logit_difference = 3;
  differences[0].logprob_a = std::log(0.5);
  differences[1].logprob_a = std::log(0.125);
  differences[0].logprob_b = std::log(0.25);
  differences[1].logprob_b = std::log(0.25);
  differences[2].logprob_a = -1000;  // without a next token: does not count
  has_next[0] = has_next[1] = true;
  const Comparison c = summarize(differences, has_next);
  EXPECT_EQ(c.positions, 200);
  EXPECT_EQ(c.predictions, 2);
  EXPECT_DOUBLE_EQ(c.kl_mean, 99.5);
  EXPECT_DOUBLE_EQ(c.kl_median, 99.5);
  EXPECT_DOUBLE_EQ(c.kl_99, 197);  // 198 of 200 values are not above it
  EXPECT_DOUBLE_EQ(c.kl_greatest, 199);
  EXPECT_DOUBLE_EQ(c.top1_agreement, 0.75);
  EXPECT_NEAR(c.perplexity_a, 4, 1e-12);
  EXPECT_NEAR(c.perplexity_b, 4, 1e-12);
  EXPECT_DOUBLE_EQ(c.greatest_logit_difference, 3);
}

class CompareModels : public testing::Test {
 protected:
  static std::vector<int32_t> some_tokens(int64_t count, int64_t vocabulary) {
    std::mt19937 random(9);
    std::vector<int32_t> tokens(static_cast<size_t>(count));
    for (int32_t& token : tokens) token = static_cast<int32_t>(random() % static_cast<uint32_t>(vocabulary));
    return tokens;
  }
};

TEST_F(CompareModels, AModelIsItself) {
  FATHOM_GOLDEN_OR_SKIP(directory, "bf16-tiny");
  const auto a = open_model(directory, ComputeMode::bf16);
  const auto b = open_model(directory, ComputeMode::bf16);
  ThreadTeam team(2);
  CompareOptions options;
  options.context = 70;  // two windows, of which one needs two pieces of logits, and a rest of 10
  int64_t seen = 0;
  const Comparison c = compare_models(*a, *b, some_tokens(150, a->config.vocab_size), options, team,
                                      [&](int64_t positions) { seen += positions; });
  EXPECT_EQ(c.positions, 150);
  EXPECT_EQ(c.predictions, 147);
  EXPECT_EQ(seen, 150);
  EXPECT_EQ(c.kl_greatest, 0);
  EXPECT_EQ(c.top1_agreement, 1);
  EXPECT_EQ(c.greatest_logit_difference, 0);
  EXPECT_EQ(c.perplexity_a, c.perplexity_b);
  EXPECT_GT(c.perplexity_a, 1);
}

TEST_F(CompareModels, OtherArithmeticDiffersALittle) {
  FATHOM_GOLDEN_OR_SKIP(directory, "bf16-tiny");
  const auto a = open_model(directory, ComputeMode::fp32);
  const auto b = open_model(directory, ComputeMode::bf16);
  ThreadTeam team(2);
  CompareOptions options;
  options.context = 64;
  options.bos = 0;
  const Comparison c = compare_models(*a, *b, some_tokens(100, a->config.vocab_size), options, team);
  EXPECT_EQ(c.positions, 102);    // windows of 63 and 37 tokens, and the BOS of each
  EXPECT_EQ(c.predictions, 100);  // every token is predicted by something
  EXPECT_GT(c.kl_mean, 0);
  EXPECT_LT(c.kl_mean, 0.01);
  EXPECT_GE(c.kl_greatest, c.kl_99);
  EXPECT_GE(c.kl_99, c.kl_median);
  EXPECT_NEAR(c.perplexity_a / c.perplexity_b, 1, 0.02);
}

TEST_F(CompareModels, ThePerplexityIsThatOfTheLogits) {
  FATHOM_GOLDEN_OR_SKIP(directory, "bf16-tiny");
  const auto model = open_model(directory, ComputeMode::fp32);
  const std::vector<int32_t> tokens = some_tokens(80, model->config.vocab_size);
  ThreadTeam team(2);
  const Comparison c = compare_models(*model, *model, tokens, {}, team);
  const auto traced = trace_forward(*model, tokens, {}, team);
  const auto logits = std::find_if(traced.begin(), traced.end(), [](const auto& t) { return t.name == "logits"; });
  ASSERT_NE(logits, traced.end());
  const auto V = static_cast<size_t>(model->config.vocab_size);
  double sum = 0;
  for (size_t t = 0; t + 1 < tokens.size(); ++t) {
    const float* row = logits->values.data() + t * V;
    double total = 0;
    for (size_t v = 0; v < V; ++v) total += std::exp(static_cast<double>(row[v]));
    sum += row[tokens[t + 1]] - std::log(total);
  }
  EXPECT_NEAR(c.perplexity_a, std::exp(-sum / 79), 1e-6 * c.perplexity_a);
}

TEST_F(CompareModels, WhatCannotBeComparedIsRefused) {
  FATHOM_GOLDEN_OR_SKIP(directory, "bf16-tiny");
  FATHOM_GOLDEN_OR_SKIP(other, "long-yarn");
  const auto a = open_model(directory, ComputeMode::bf16);
  const auto b = open_model(other, ComputeMode::bf16);
  ThreadTeam team(1);
  const std::vector<int32_t> tokens = {1, 2, 3};
  FATHOM_EXPECT_ERROR(compare_models(*a, *b, tokens, {}, team), ErrorKind::bad_input, "vocabularies differ", "512",
                      "256");
  CompareOptions options;
  options.context = 1;
  FATHOM_EXPECT_ERROR(compare_models(*a, *a, tokens, options, team), ErrorKind::bad_input, "a context of 1 positions");
  FATHOM_EXPECT_ERROR(compare_models(*a, *a, std::vector<int32_t>{1, 1 << 24}, {}, team), ErrorKind::bad_input,
                      "16777216");
}

}  // namespace
}  // namespace fathom
