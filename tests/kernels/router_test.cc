#include "kernels/router.h"

#include <gtest/gtest.h>

#include <cmath>
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

TEST(Router, NanIsReportedAndTheChoiceStaysInRange) {
  const Choice c = choose(eight_experts(), {0, NAN, 0, NAN, NAN, NAN, NAN, NAN});
  EXPECT_FALSE(c.finite);
  for (int32_t index : c.index) EXPECT_TRUE(index >= 0 && index < 8);
}

}  // namespace
}  // namespace fathom
