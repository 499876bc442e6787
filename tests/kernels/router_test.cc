#include "kernels/router.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

namespace fathom {
namespace {

struct Choice {
  bool finite;
  std::vector<float> score;
  std::vector<int32_t> index;
  std::vector<float> weight;
};

Choice choose(const RouterConfig& config, const std::vector<float>& logits, const std::vector<float>& bias = {}) {
  Choice c{true, std::vector<float>(logits.size()),
           std::vector<int32_t>(static_cast<size_t>(config.num_experts_per_tok)),
           std::vector<float>(static_cast<size_t>(config.num_experts_per_tok))};
  c.finite = route_token(logits.data(), bias.empty() ? nullptr : bias.data(), config, c.score.data(), c.index.data(),
                         c.weight.data());
  return c;
}

float sigmoid(float x) {
  return 1.0f / (1.0f + std::exp(-x));
}

RouterConfig eight_experts() {
  RouterConfig config;
  config.n_routed_experts = 8;
  config.num_experts_per_tok = 2;
  return config;
}

TEST(Router, BiasChoosesButDoesNotWeigh) {
  RouterConfig config = eight_experts();
  config.routed_scaling_factor = 2.5f;
  const Choice c = choose(config, {0, 1, 2, 3, 0, 0, 0, 0}, {0, 0, 0, 0, 0, 5, 0, 0});
  EXPECT_EQ(c.index, (std::vector<int32_t>{3, 5}));
  const float sum = sigmoid(3) + sigmoid(0);
  EXPECT_NEAR(c.weight[0], 2.5f * sigmoid(3) / sum, 1e-6);
  EXPECT_NEAR(c.weight[1], 2.5f * sigmoid(0) / sum, 1e-6);
}

TEST(Router, GroupsRankByTheirTwoBestWithNoauxTc) {
  RouterConfig config = eight_experts();
  config.n_group = 4;
  config.topk_group = 1;
  // The best single expert (7) is in a group whose second is poor; the pair (2, 3) is better together.
  const std::vector<float> logits = {-9, -9, 1, 1, -9, -9, -9, 2};
  EXPECT_EQ(choose(config, logits).index, (std::vector<int32_t>{2, 3}));
  config.topk_method = TopkMethod::group_limited_greedy;
  EXPECT_EQ(choose(config, logits).index, (std::vector<int32_t>{6, 7}));
  config.topk_method = TopkMethod::greedy;
  EXPECT_EQ(choose(config, logits).index, (std::vector<int32_t>{2, 7}));
}

TEST(Router, ExcludedGroupsStayOutEvenWhenEveryBiasIsNegative) {
  RouterConfig config = eight_experts();
  config.n_group = 4;
  config.topk_group = 1;
  const Choice c = choose(config, std::vector<float>{0, 0, 0, 0, 3, 3, 0, 0}, std::vector<float>(8, -9));
  EXPECT_EQ(c.index, (std::vector<int32_t>{4, 5}));
}

TEST(Router, TiesGoToTheLowerId) {
  EXPECT_EQ(choose(eight_experts(), std::vector<float>(8, 1)).index, (std::vector<int32_t>{0, 1}));
  RouterConfig config = eight_experts();
  config.n_group = 4;
  config.topk_group = 2;
  config.num_experts_per_tok = 3;
  EXPECT_EQ(choose(config, std::vector<float>(8, 1)).index, (std::vector<int32_t>{0, 1, 2}));
}

TEST(Router, SoftmaxWithoutNormalisation) {
  RouterConfig config = eight_experts();
  config.scoring_func = ScoringFunc::softmax;
  config.topk_method = TopkMethod::greedy;
  config.norm_topk_prob = false;
  config.routed_scaling_factor = 16;
  const Choice c = choose(config, {1000, 999, 0, 0, 0, 0, 0, 0});
  EXPECT_EQ(c.index, (std::vector<int32_t>{0, 1}));
  EXPECT_NEAR(c.weight[0], 16 * sigmoid(1), 1e-5);
  EXPECT_NEAR(c.weight[1], 16 * sigmoid(-1), 1e-5);
  EXPECT_FLOAT_EQ(c.score[2], 0);
}

// The definition, by sorting: groups by their two best, experts of the best groups by choice score, ties to the lower
// id.
TEST(Router, AmongTwoHundredAndFiftySixItIsTheDefinition) {
  RouterConfig config;
  config.n_routed_experts = 256;
  config.num_experts_per_tok = 8;
  config.n_group = 8;
  config.topk_group = 4;
  std::mt19937 random(5);
  for (int round = 0; round < 200; ++round) {
    // Few different values: ties everywhere.
    std::vector<float> logits(256), bias(256);
    for (float& logit : logits) logit = static_cast<float>(random() % 12) / 4 - 1;
    for (float& b : bias) b = round % 2 == 0 ? 0 : static_cast<float>(random() % 3) / 8;
    std::vector<float> choice(256);
    for (size_t e = 0; e < 256; ++e) choice[e] = sigmoid(logits[e]) + bias[e];
    std::vector<float> group;
    for (size_t g = 0; g < 8; ++g) {
      std::vector<float> members(choice.begin() + static_cast<int64_t>(g) * 32,
                                 choice.begin() + static_cast<int64_t>(g) * 32 + 32);
      std::sort(members.rbegin(), members.rend());
      group.push_back(members[0] + members[1]);
    }
    const auto order = [](const std::vector<float>& values) {
      std::vector<int32_t> ids(values.size());
      std::iota(ids.begin(), ids.end(), 0);
      std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) {
        return values[static_cast<size_t>(a)] > values[static_cast<size_t>(b)];
      });
      return ids;
    };
    std::vector<int32_t> groups = order(group);
    groups.resize(4);
    std::vector<int32_t> expected;
    for (const int32_t e : order(choice)) {
      if (expected.size() < 8 && std::count(groups.begin(), groups.end(), e / 32) > 0) expected.push_back(e);
    }
    std::sort(expected.begin(), expected.end());
    EXPECT_EQ(choose(config, logits, bias).index, expected) << "round " << round;
  }
}

TEST(Router, NanIsReportedAndTheChoiceStaysInRange) {
  const Choice c = choose(eight_experts(), {0, NAN, 0, NAN, NAN, NAN, NAN, NAN});
  EXPECT_FALSE(c.finite);
  for (int32_t index : c.index) EXPECT_TRUE(index >= 0 && index < 8);
}

}  // namespace
}  // namespace fathom
