// Check values of the published model (config.json of DeepSeek-V3), computed independently.
#include "model/rope.h"

#include <gtest/gtest.h>

#include <cmath>

namespace fathom {
namespace {

TEST(Rope, YarnOfDeepSeekV3) {
  const Rope rope = make_rope(*model_preset("deepseek-v3"));
  ASSERT_EQ(rope.inverse_frequency.size(), 32u);
  EXPECT_NEAR(rope.inverse_frequency[0], 1, 1e-12);
  EXPECT_NEAR(rope.inverse_frequency[10], 0.0562341325, 1e-10);
  EXPECT_NEAR(rope.inverse_frequency[11], 0.0390069266, 1e-10);
  EXPECT_NEAR(rope.inverse_frequency[16], 0.0055, 1e-10);
  EXPECT_NEAR(rope.inverse_frequency[22], 1.77827941e-4, 1e-12);
  EXPECT_NEAR(rope.inverse_frequency[23], 3.33380358e-5, 1e-13);
  EXPECT_NEAR(rope.inverse_frequency[31], 3.33380358e-6, 1e-14);
  EXPECT_NEAR(rope.softmax_scale, 0.1352337789, 1e-9);
  EXPECT_DOUBLE_EQ(rope.magnitude, 1);
}

TEST(Rope, WithoutScalingTheScaleIsTheHeadDimension) {
  const Rope rope = make_rope(*model_preset("moonlight-16b-a3b"));
  EXPECT_NEAR(rope.softmax_scale, 1 / std::sqrt(192.0), 1e-12);
  EXPECT_NEAR(rope.inverse_frequency[1], std::pow(50000.0, -2.0 / 64), 1e-12);
}

TEST(Rope, MscaleAppliesTwiceWhereItIsForAllDimensions) {
  const Rope rope = make_rope(*model_preset("deepseek-v2-lite"));
  const double m = 0.1 * 0.707 * std::log(40.0) + 1;
  EXPECT_NEAR(rope.softmax_scale, m * m / std::sqrt(192.0), 1e-12);
  EXPECT_DOUBLE_EQ(rope.magnitude, 1);
}

TEST(Rope, RotatesAdjacentPairsAndKeepsTheAngleAtGreatPositions) {
  const Rope rope = make_rope(*model_preset("moonlight-16b-a3b"));
  std::vector<float> cos_sin(64);
  rope_angles(rope, 163839, cos_sin.data());
  EXPECT_NEAR(cos_sin[0], std::cos(163839.0), 1e-6);
  EXPECT_NEAR(cos_sin[1], std::sin(163839.0), 1e-6);
  std::vector<float> x(64, 0.0f);
  x[0] = 1;
  rope_rotate(x.data(), cos_sin.data(), 64);
  EXPECT_FLOAT_EQ(x[0], cos_sin[0]);
  EXPECT_FLOAT_EQ(x[1], cos_sin[1]);
  EXPECT_FLOAT_EQ(x[32], 0);
}

}  // namespace
}  // namespace fathom
