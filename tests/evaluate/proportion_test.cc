#include "evaluate/proportion.h"

#include <gtest/gtest.h>

#include <cmath>

namespace fathom {
namespace {

TEST(WilsonInterval, KnownValues) {
  // 81 of 263: the example of Newcombe, Statistics in Medicine 17 (1998) 857, method 3; 15 of 148 and 0 of 20 too.
  EXPECT_NEAR(wilson_interval(81, 263).low, 0.2553, 5e-5);
  EXPECT_NEAR(wilson_interval(81, 263).high, 0.3662, 5e-5);
  EXPECT_NEAR(wilson_interval(15, 148).low, 0.0624, 5e-5);
  EXPECT_NEAR(wilson_interval(15, 148).high, 0.1605, 5e-5);
  EXPECT_EQ(wilson_interval(0, 20).low, 0);
  EXPECT_NEAR(wilson_interval(0, 20).high, 0.1611, 5e-5);
}

// What defines it: the bounds are the proportions p from which the observed one is 1.96 deviations sqrt(p (1 − p) / n)
// away.
TEST(WilsonInterval, BoundsAreAsFarAsTheScoreTestAllows) {
  for (const auto& [right, items] : {std::pair{90, 100}, std::pair{1, 3}, std::pair{199, 200}}) {
    const ProportionInterval interval = wilson_interval(right, items);
    const double observed = static_cast<double>(right) / items;
    for (const double p : {interval.low, interval.high}) {
      EXPECT_NEAR(std::abs(observed - p) / std::sqrt(p * (1 - p) / items), 1.959964, 1e-5);
    }
    EXPECT_LT(interval.low, observed);
    EXPECT_GT(interval.high, observed);
  }
}

TEST(WilsonInterval, Ends) {
  EXPECT_EQ(wilson_interval(50, 50).high, 1);
  EXPECT_NEAR(wilson_interval(50, 50).low, 1 - wilson_interval(0, 50).high, 1e-12);
  EXPECT_EQ(wilson_interval(0, 0).low, 0);
  EXPECT_EQ(wilson_interval(0, 0).high, 1);
}

}  // namespace
}  // namespace fathom
