#include "kernels/paired_product.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "base/number_formats.h"

namespace fathom {
namespace {

std::vector<float> random_values(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 1);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

// L [rows, K] · R [K, N] in both uses: a left side in rows, and one that is paired itself (a product over tokens).
TEST(PairedProduct, AgreesWithAPlainSum) {
  if (!has_paired_product()) GTEST_SKIP() << "this machine has no paired products";
  struct Case {
    int64_t rows, K, N, begin, end;
  };
  for (const Case& c : {Case{1, 2, 16, 0, 16}, Case{7, 30, 70, 3, 70}, Case{13, 301, 64, 0, 64},
                        Case{25, 600, 200, 64, 193}, Case{6, 257, 5, 0, 5}}) {
    const int64_t pairs = (c.K + 1) / 2;
    const std::vector<float> left = random_values(c.rows * c.K, 1);
    const std::vector<float> right = random_values(c.K * c.N, 2);
    std::vector<uint16_t> right_pairs(static_cast<size_t>(pairs * c.N * 2));
    pair_rows(DType::f32, right.data(), c.N, nullptr, c.K, c.N, 0, pairs, right_pairs.data());

    std::vector<uint16_t> left_rows(static_cast<size_t>(c.rows * 2 * pairs), 0);
    std::vector<float> left_turned(left.size());
    std::vector<int32_t> reversed;
    for (int64_t r = 0; r < c.rows; ++r) {
      reversed.push_back(static_cast<int32_t>(c.rows - 1 - r));
      for (int64_t k = 0; k < c.K; ++k) {
        const float value = left[static_cast<size_t>(r * c.K + k)];
        left_rows[static_cast<size_t>(r * 2 * pairs + k)] = f32_to_bf16(value);
        left_turned[static_cast<size_t>(k * c.rows + r)] = value;
      }
    }
    std::vector<uint16_t> left_pairs(static_cast<size_t>(pairs * c.rows * 2));
    pair_rows(DType::f32, left_turned.data(), c.rows, nullptr, c.K, c.rows, 0, pairs, left_pairs.data());

    const int64_t width = c.end - c.begin;
    std::vector<float> y(static_cast<size_t>(c.rows * width), 9.0f);
    std::vector<float> added(y.size(), 0.5f);
    const PairedLeft in_rows{left_rows.data(), 2 * pairs, 2, reversed.data()};
    const PairedLeft in_pairs{left_pairs.data(), 2, 2 * c.rows};
    paired_product(in_rows, c.rows, right_pairs.data(), c.N, pairs, c.begin, c.end, y.data(), width, reversed.data(),
                   false);
    paired_product(in_pairs, c.rows, right_pairs.data(), c.N, pairs, c.begin, c.end, added.data(), width, nullptr,
                   true);
    for (int64_t r = 0; r < c.rows; ++r) {
      for (int64_t n = c.begin; n < c.end; ++n) {
        double sum = 0;
        double magnitude = 0;
        for (int64_t k = 0; k < c.K; ++k) {
          const double product = static_cast<double>(round_to_bf16(left[static_cast<size_t>(r * c.K + k)])) *
                                 round_to_bf16(right[static_cast<size_t>(k * c.N + n)]);
          sum += product;
          magnitude += std::fabs(product);
        }
        const auto at = static_cast<size_t>(r * width + n - c.begin);
        ASSERT_NEAR(y[at], sum, 1e-6 * magnitude) << "K " << c.K << " row " << r << " column " << n;
        ASSERT_NEAR(added[at], sum + 0.5, 1e-6 * (magnitude + 0.5)) << "K " << c.K << " row " << r << " column " << n;
      }
    }
  }
}

TEST(PairedProduct, NarrowRows) {
  if (!has_paired_product()) GTEST_SKIP() << "this machine has no paired products";
  const std::vector<float> x = random_values(3 * 50, 5);
  for (int64_t cols : {1, 16, 37, 48}) {
    std::vector<uint16_t> out(3 * 49, 7);
    narrow_rows(x.data(), 50, 3, cols, out.data(), 49);
    for (int64_t r = 0; r < 3; ++r) {
      for (int64_t c = 0; c < 49; ++c) {
        const uint16_t expected = c < cols ? f32_to_bf16(x[static_cast<size_t>(r * 50 + c)]) : uint16_t{7};
        ASSERT_EQ(out[static_cast<size_t>(r * 49 + c)], expected) << cols << " columns, " << r << " " << c;
      }
    }
  }
}

TEST(PairedProduct, PairsOfGatheredRows) {
  if (!has_paired_product()) GTEST_SKIP() << "this machine has no paired products";
  const std::vector<float> x = random_values(5 * 21, 3);
  const std::vector<int32_t> index = {4, 0, 3};
  std::vector<uint16_t> out(2 * 21 * 2, 7);
  pair_rows(DType::f32, x.data(), 21, index.data(), 3, 21, 0, 2, out.data());
  for (size_t c = 0; c < 21; ++c) {
    EXPECT_EQ(out[2 * c], f32_to_bf16(x[4 * 21 + c]));
    EXPECT_EQ(out[2 * c + 1], f32_to_bf16(x[c]));
    EXPECT_EQ(out[42 + 2 * c], f32_to_bf16(x[3 * 21 + c]));
    EXPECT_EQ(out[42 + 2 * c + 1], 0);
  }
}

}  // namespace
}  // namespace fathom
