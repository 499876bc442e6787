#include "engine/sampling.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>

#include "base/error.h"

namespace fathom {
namespace {

std::vector<float> logits_of(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p)));
  return logits;
}

std::vector<float> random_logits(size_t vocabulary, uint64_t seed, double spread) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal(0, spread);
  std::vector<float> logits(vocabulary);
  for (float& logit : logits) logit = static_cast<float>(normal(random));
  return logits;
}

/// The tokens that come out in `draws` draws.
std::set<int32_t> support(SamplingOptions options, const std::vector<float>& logits, int draws) {
  Sampler sampler(options);
  std::set<int32_t> seen;
  for (int i = 0; i < draws; ++i) seen.insert(sampler.sample(logits).token);
  return seen;
}

/// The plain definition: sort everything, cut, cut, cut.
std::vector<int32_t> kept_by_sorting(const SamplingOptions& options, const std::vector<float>& logits) {
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  if (options.top_k > 0 && static_cast<size_t>(options.top_k) < ids.size()) ids.resize(options.top_k);
  const auto weight = [&](int32_t id) {
    return std::exp((static_cast<double>(logits[id]) - logits[ids[0]]) / options.temperature);
  };
  double total = 0;
  for (const int32_t id : ids) total += weight(id);
  double reached = 0;
  size_t length = 0;
  while (length < ids.size() && reached < options.top_p * total) reached += weight(ids[length++]);
  ids.resize(length);
  while (weight(ids.back()) < options.min_p) ids.pop_back();
  return ids;
}

/// Pearson's statistic of `draws` draws against the sampler's exact distribution.
double chi_square(const SamplingOptions& options, const std::vector<float>& logits,
                  const std::vector<double>& probabilities, int draws) {
  Sampler sampler(options);
  std::vector<int> counts(probabilities.size(), 0);
  for (int i = 0; i < draws; ++i) ++counts[sampler.sample(logits).token];
  double statistic = 0;
  for (size_t i = 0; i < probabilities.size(); ++i) {
    const double expected = probabilities[i] * draws;
    if (expected == 0) {
      EXPECT_EQ(counts[i], 0) << "token " << i;
    } else {
      statistic += (counts[i] - expected) * (counts[i] - expected) / expected;
    }
  }
  return statistic;
}

TEST(Sampling, ZeroTemperatureTakesTheGreatestAndTheLowerIdOnTies) {
  SamplingOptions options;
  options.temperature = 0;
  Sampler sampler(options);
  EXPECT_EQ(sampler.sample(std::vector<float>{1, 5, 2, 5, 5}).token, 1);
  EXPECT_EQ(sampler.sample(std::vector<float>{-3, -2, -2}).token, 1);
  EXPECT_EQ(sampler.sample(std::vector<float>{-std::numeric_limits<float>::infinity(), -7}).token, 1);
}

TEST(Sampling, DrawsFromTheModelsDistribution) {
  const std::vector<double> p = {0.4, 0.05, 0.25, 0.1, 0.2};
  SamplingOptions options;
  options.seed = 1;
  // 99.9 % of chi-square with 4 degrees of freedom is below 18.5.
  EXPECT_LT(chi_square(options, logits_of(p), p, 50000), 18.5);
}

TEST(Sampling, TemperatureRaisesProbabilitiesToItsInverse) {
  const std::vector<double> p = {0.5, 0.3, 0.2};
  std::vector<double> expected;
  for (const double x : p) expected.push_back(x * x);
  const double total = std::accumulate(expected.begin(), expected.end(), 0.0);
  for (double& x : expected) x /= total;
  SamplingOptions options;
  options.temperature = 0.5;
  options.seed = 2;
  EXPECT_LT(chi_square(options, logits_of(p), expected, 50000), 13.8);  // 2 degrees of freedom, 99.9 %
}

TEST(Sampling, TopPKeepsProportions) {
  const std::vector<double> p = {0.05, 0.5, 0.3, 0.15};
  SamplingOptions options;
  options.top_p = 0.7;
  options.seed = 3;
  EXPECT_LT(chi_square(options, logits_of(p), {0, 0.625, 0.375, 0}, 50000), 10.9);  // 1 degree of freedom
}

TEST(Sampling, CutOffsKeepExactlyTheirSets) {
  const std::vector<float> logits = logits_of({0.05, 0.4, 0.1, 0.25, 0.2});
  SamplingOptions options;
  options.top_k = 3;
  EXPECT_EQ(support(options, logits, 2000), (std::set<int32_t>{1, 3, 4}));
  options.top_k = 0;
  options.top_p = 0.66;
  EXPECT_EQ(support(options, logits, 2000), (std::set<int32_t>{1, 3, 4}));
  options.top_p = 0.64;
  EXPECT_EQ(support(options, logits, 2000), (std::set<int32_t>{1, 3}));
  options.top_p = 1e-9;
  EXPECT_EQ(support(options, logits, 200), (std::set<int32_t>{1}));
  options.top_p = 1;
  options.min_p = 0.3;
  EXPECT_EQ(support(options, logits, 2000), (std::set<int32_t>{1, 3, 4}));
  options.min_p = 1;
  EXPECT_EQ(support(options, logits, 200), (std::set<int32_t>{1}));
}

TEST(Sampling, TopPCountsWhatTopKLeft) {
  // After top_k = 2 the two tokens have 0.571 and 0.429, so 0.55 is reached by the first alone.
  SamplingOptions options;
  options.top_k = 2;
  options.top_p = 0.55;
  EXPECT_EQ(support(options, logits_of({0.4, 0.3, 0.2, 0.1}), 500), (std::set<int32_t>{0}));
}

TEST(Sampling, TopKTakesLowerIdsOnTies) {
  SamplingOptions options;
  options.top_k = 2;
  EXPECT_EQ(support(options, {1, 1, 1, 1}, 200), (std::set<int32_t>{0, 1}));
}

TEST(Sampling, SelectionAgreesWithSortingEverything) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    std::mt19937_64 random(seed);
    // Flat distributions as well as peaked ones: the sampler takes different ways for them.
    const auto logits = random_logits(20 + random() % 400, seed, seed % 3 == 0 ? 0.01 : 12.0);
    SamplingOptions options;
    options.seed = seed;
    options.temperature = seed % 2 == 0 ? 1.0 : 0.7;
    if (random() % 2 == 0) options.top_k = 1 + static_cast<int64_t>(random() % logits.size());
    if (random() % 2 == 0) options.top_p = 0.3 + 0.6 * static_cast<double>(random() % 1000) / 1000;
    if (random() % 3 == 0) options.min_p = 1e-3 * static_cast<double>(random() % 100);
    const auto expected = kept_by_sorting(options, logits);
    const std::set<int32_t> allowed(expected.begin(), expected.end());
    for (const int32_t token : support(options, logits, 500)) {
      EXPECT_TRUE(allowed.contains(token)) << "seed " << seed << ", token " << token << " of " << expected.size();
    }
    // With flat logits every kept token shows up sooner or later.
    if (seed % 3 == 0 && expected.size() < 50) {
      EXPECT_EQ(support(options, logits, 5000), allowed) << "seed " << seed;
    }
  }
}

TEST(Sampling, TheGreatestIsFoundWhereverItStands) {
  // Longer than the blocks that are looked at together, with a rest; the second of two equals must not win.
  SamplingOptions options;
  options.temperature = 0;
  Sampler sampler(options);
  for (const size_t length : {size_t{1}, size_t{15}, size_t{16}, size_t{17}, size_t{1024}, size_t{2500}}) {
    for (size_t place : {size_t{0}, length / 2, length - 1}) {
      std::vector<float> logits(length, -3);
      logits[place] = -2;
      logits.back() = -2;
      EXPECT_EQ(sampler.sample(logits).token, static_cast<int32_t>(place)) << length << " logits";
      logits[length / 3] = std::numeric_limits<float>::quiet_NaN();
      EXPECT_THROW(sampler.sample(logits), Error) << length << " logits";
    }
  }
}

TEST(Sampling, DrawsOfALargeVocabularyFollowTheDistribution) {
  // Sixteen kinds of tokens among 4,096, so that Pearson's statistic has 15 degrees of freedom: 99.9 % below 37.7.
  std::vector<double> kinds(16);
  std::vector<float> logits(4096);
  for (size_t i = 0; i < logits.size(); ++i) {
    logits[i] = static_cast<float>(i % 16) / 8;
    kinds[i % 16] += std::exp(static_cast<double>(i % 16) / 8 / 0.7);
  }
  const double total = std::accumulate(kinds.begin(), kinds.end(), 0.0);
  SamplingOptions options;
  options.temperature = 0.7;
  options.seed = 11;
  Sampler sampler(options);
  constexpr int kDraws = 20000;
  std::vector<int> counts(16, 0);
  for (int i = 0; i < kDraws; ++i) ++counts[static_cast<size_t>(sampler.sample(logits).token) % 16];
  double statistic = 0;
  for (size_t k = 0; k < 16; ++k) {
    const double expected = kinds[k] / total * kDraws;
    statistic += (counts[k] - expected) * (counts[k] - expected) / expected;
  }
  EXPECT_LT(statistic, 37.7);
}

TEST(Sampling, SeedDecidesTheDraws) {
  const auto logits = random_logits(1000, 5, 1.0);
  const auto draws = [&](uint64_t seed) {
    SamplingOptions options;
    options.seed = seed;
    options.top_p = 0.95;
    Sampler sampler(options);
    std::vector<int32_t> tokens;
    for (int i = 0; i < 50; ++i) tokens.push_back(sampler.sample(logits).token);
    return tokens;
  };
  EXPECT_EQ(draws(7), draws(7));
  EXPECT_NE(draws(7), draws(8));
}

// A seed gives the same draws in every version: those of the sampler that took e^x from the C library.
TEST(Sampling, ASeedKeepsItsDraws) {
  std::vector<float> logits(5000);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(i * 2654435761u % 1000) / 80;
  const auto draws = [&](SamplingOptions options) {
    options.seed = 7;
    options.temperature = 0.6;
    Sampler sampler(options);
    std::vector<int32_t> tokens;
    for (int i = 0; i < 8; ++i) tokens.push_back(sampler.sample(logits).token);
    return tokens;
  };
  SamplingOptions all;
  EXPECT_EQ(draws(all), (std::vector<int32_t>{3770, 4749, 586, 4452, 703, 272, 4159, 4494}));
  SamplingOptions nucleus;
  nucleus.top_p = 0.95;
  EXPECT_EQ(draws(nucleus), (std::vector<int32_t>{925, 2331, 63, 473, 1975, 2858, 4180, 900}));
  SamplingOptions best;
  best.top_k = 40;
  EXPECT_EQ(draws(best), (std::vector<int32_t>{4159, 1272, 4318, 1113, 1477, 2477, 2113, 1113}));
  SamplingOptions likely;
  likely.min_p = 0.05;
  likely.top_p = 0.9;
  EXPECT_EQ(draws(likely), (std::vector<int32_t>{1791, 1787, 42, 4720, 3862, 385, 3335, 879}));
}

TEST(Sampling, RepetitionPenaltyCountsPromptAndAnswer) {
  SamplingOptions options;
  options.temperature = 0;
  options.repetition_penalty = 2;
  Sampler sampler(options);
  sampler.observe_prompt(std::vector<int32_t>{0, 0});
  const std::vector<float> logits = {4, 3, 2.5f, 1};
  EXPECT_EQ(sampler.sample(logits).token, 1);  // 0 counts 4 / 2, once though it occurs twice
  EXPECT_EQ(sampler.sample(logits).token, 2);  // now 1 counts 1.5
  EXPECT_EQ(sampler.sample(logits).token, 0);
  // A negative logit is multiplied: it sinks too.
  Sampler negative(options);
  negative.observe_prompt(std::vector<int32_t>{0});
  EXPECT_EQ(negative.sample(std::vector<float>{-1, -1.5f}).token, 1);
}

TEST(Sampling, PresenceAndFrequencyCountTheAnswerOnly) {
  SamplingOptions options;
  options.temperature = 0;
  options.presence_penalty = 1.5;
  Sampler presence(options);
  presence.observe_prompt(std::vector<int32_t>{0});
  const std::vector<float> logits = {3, 2, 1};
  EXPECT_EQ(presence.sample(logits).token, 0);  // seen in the prompt only: no penalty
  EXPECT_EQ(presence.sample(logits).token, 1);
  EXPECT_EQ(presence.sample(logits).token, 0);  // both at minus 1.5
  EXPECT_EQ(presence.sample(logits).token, 0);  // once, not per occurrence

  options.presence_penalty = 0;
  options.frequency_penalty = 0.8;
  Sampler frequency(options);
  std::vector<int32_t> tokens;
  for (int i = 0; i < 5; ++i) tokens.push_back(frequency.sample(logits).token);
  EXPECT_EQ(tokens, (std::vector<int32_t>{0, 0, 1, 0, 1}));
}

TEST(Sampling, LogprobsAreTheModelsOwn) {
  const auto logits = random_logits(3000, 11, 3.0);
  long double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<long double>(logit));
  const auto direct = [&](int32_t id) { return static_cast<double>(logits[id] - std::log(sum)); };

  SamplingOptions options;
  options.temperature = 0.3;
  options.top_k = 50;
  options.frequency_penalty = 1;
  options.logprobs = 5;
  Sampler sampler(options);
  for (int i = 0; i < 10; ++i) {
    const SampledToken sampled = sampler.sample(logits);
    EXPECT_NEAR(sampled.logprob, direct(sampled.token), 1e-10);
    ASSERT_EQ(sampled.top_logprobs.size(), 5u);
    for (size_t k = 0; k < 5; ++k) {
      EXPECT_NEAR(sampled.top_logprobs[k].logprob, direct(sampled.top_logprobs[k].token), 1e-10);
      EXPECT_LE(sampled.top_logprobs[k].logprob, sampled.top_logprobs[k == 0 ? 0 : k - 1].logprob);
    }
    EXPECT_EQ(sampled.top_logprobs[0].token, std::max_element(logits.begin(), logits.end()) - logits.begin());
  }
  options.logprobs = 10;
  EXPECT_EQ(Sampler(options).sample(std::vector<float>{1, 2}).top_logprobs.size(), 2u);
  options.logprobs = -1;
  EXPECT_TRUE(Sampler(options).sample(logits).top_logprobs.empty());
}

TEST(Sampling, ImpossibleTokensAreNeverDrawn) {
  const float minus_infinity = -std::numeric_limits<float>::infinity();
  EXPECT_EQ(support({}, {minus_infinity, 0, minus_infinity, 1}, 500), (std::set<int32_t>{1, 3}));
}

TEST(Sampling, BrokenLogitsAreAFailure) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  for (const std::vector<float>& logits : {std::vector<float>{1, nan, 2}, std::vector<float>{nan},
                                           std::vector<float>{0, infinity}, std::vector<float>{-infinity, -infinity}}) {
    try {
      Sampler({}).sample(logits);
      ADD_FAILURE() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::failure) << error.what();
    }
  }
}

TEST(Sampling, OptionsOutsideTheirRangeAreNamed) {
  const auto sentence = [](auto change) {
    SamplingOptions options;
    change(options);
    try {
      Sampler sampler(options);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::bad_input);
      return std::string(error.what());
    }
    return std::string("no error");
  };
  EXPECT_EQ(sentence([](auto& o) { o.temperature = -1; }), "temperature must be between 0 and 1000000; -1 was given");
  EXPECT_EQ(sentence([](auto& o) { o.top_p = 0; }), "top_p must be greater than 0 and at most 1; 0 was given");
  EXPECT_EQ(sentence([](auto& o) { o.top_p = std::nan(""); }),
            "top_p must be greater than 0 and at most 1; nan was given");
  EXPECT_NE(sentence([](auto& o) { o.top_k = -1; }), "no error");
  EXPECT_NE(sentence([](auto& o) { o.min_p = 1.1; }), "no error");
  EXPECT_NE(sentence([](auto& o) { o.repetition_penalty = 0; }), "no error");
  EXPECT_NE(sentence([](auto& o) { o.presence_penalty = std::nan(""); }), "no error");
  EXPECT_NE(sentence([](auto& o) { o.frequency_penalty = HUGE_VAL; }), "no error");
}

}  // namespace
}  // namespace fathom
