#include "kernels/paired_product.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/number_formats.h"
#include "support/isa_guard.h"
#include "support/random_values.h"

namespace fathom {
namespace {

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

// With scales for each 128 elements of the sum: of rows and of columns, alone or 128 together.
TEST(PairedProduct, ScaledAgreesWithAPlainSum) {
  if (!has_paired_product()) GTEST_SKIP() << "this machine has no paired products";
  const int64_t rows = 13;
  const int64_t K = 300;
  const int64_t N = 200;
  const int64_t pairs = K / 2;
  const int64_t groups = 3;
  const std::vector<float> left = random_values(rows * K, 1);
  const std::vector<float> right = random_values(K * N, 2);
  const std::vector<float> left_scales = random_values(rows * groups, 3);
  const std::vector<float> right_scales = random_values(groups * N, 4);
  std::vector<uint16_t> right_pairs(static_cast<size_t>(K * N));
  pair_rows(DType::f32, right.data(), N, nullptr, K, N, 0, pairs, right_pairs.data());
  std::vector<uint16_t> left_rows(left.size());
  for (size_t i = 0; i < left.size(); ++i) left_rows[i] = f32_to_bf16(left[i]);
  std::vector<int32_t> index;
  for (int32_t r = 0; r < rows; ++r) index.push_back(r * 5 % 13);
  for (int64_t shared : {int64_t{1}, int64_t{128}}) {
    const int64_t stride = (N + shared - 1) / shared;
    for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 128}, {128, 200}, {64, 67}}) {
      const int64_t width = end - begin;
      std::vector<float> y(static_cast<size_t>(rows * width), 9.0f);
      std::vector<float> added(y.size(), 0.5f);
      const PairedLeft from{left_rows.data(), K, 2, index.data()};
      const PairedScales scales{left_scales.data(), groups, 1, right_scales.data(), stride, shared};
      scaled_paired_product(from, scales, rows, right_pairs.data(), N, pairs, begin, end, y.data(), width, index.data(),
                            false);
      scaled_paired_product(from, scales, rows, right_pairs.data(), N, pairs, begin, end, added.data(), width,
                            index.data(), true);
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t n = begin; n < end; ++n) {
          double sum = 0;
          double magnitude = 0;
          for (int64_t k = 0; k < K; ++k) {
            const double product = static_cast<double>(round_to_bf16(left[static_cast<size_t>(r * K + k)])) *
                                   round_to_bf16(right[static_cast<size_t>(k * N + n)]) *
                                   left_scales[static_cast<size_t>(r * groups + k / 128)] *
                                   right_scales[static_cast<size_t>(k / 128 * stride + n / shared)];
            sum += product;
            magnitude += std::fabs(product);
          }
          const auto at = static_cast<size_t>(r * width + n - begin);
          ASSERT_NEAR(y[at], sum, 1e-6 * magnitude) << "row " << r << " column " << n;
          ASSERT_NEAR(added[at], sum + 0.5, 1e-6 * (magnitude + 0.5)) << "row " << r << " column " << n;
        }
      }
    }
  }
}

// Multiplied by the instruction or widened to float32: the same bits, whatever the layout of the left side, subnormals
// among the values.
TEST(PairedProduct, EveryWayToMultiplyGivesTheSameBits) {
  if (!has_paired_product()) GTEST_SKIP() << "this machine has no paired products";
  if (active_bf16_dot() != Bf16Dot::fma) GTEST_SKIP() << "this machine multiplies by the instruction alone";
  const int64_t rows = 13;
  const int64_t K = 300;
  const int64_t N = 150;
  const int64_t pairs = K / 2;
  std::vector<float> values = random_values(rows * K, 1);
  for (size_t i = 0; i < values.size(); i += 7) values[i] *= 1e-38f;
  std::vector<uint16_t> left(values.size());
  for (size_t i = 0; i < left.size(); ++i) left[i] = f32_to_bf16(values[i]);
  const std::vector<float> right = random_values(K * N, 2);
  std::vector<uint16_t> right_pairs(static_cast<size_t>(K * N));
  pair_rows(DType::f32, right.data(), N, nullptr, K, N, 0, pairs, right_pairs.data());
  const std::vector<float> scales = random_values(rows * 3 + 3 * N, 3);
  const PairedScales scale{scales.data(), 3, 1, scales.data() + rows * 3, N, 1};
  std::vector<int32_t> index;
  for (int32_t r = 0; r < rows; ++r) index.push_back(r * 5 % 13);
  // Rows in order and picked, pairs of neighbouring columns, pairs that lie further apart.
  const PairedLeft layouts[] = {{left.data(), K, 2, nullptr},
                                {left.data(), K, 2, index.data()},
                                {left.data(), 2, 2 * rows, nullptr},
                                {left.data(), 2, 2 * rows, index.data()}};
  for (const PairedLeft& from : layouts) {
    for (const bool scaled : {false, true}) {
      const auto run = [&](Bf16Dot dot) {
        const Bf16DotGuard guard(dot);
        std::vector<float> y(static_cast<size_t>(rows * N), 0.5f);
        scaled
            ? scaled_paired_product(from, scale, rows, right_pairs.data(), N, pairs, 3, N, y.data(), N, nullptr, true)
            : paired_product(from, rows, right_pairs.data(), N, pairs, 3, N, y.data(), N, nullptr, true);
        return y;
      };
      EXPECT_EQ(run(Bf16Dot::instruction), run(Bf16Dot::fma)) << "scaled " << scaled;
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

}  // namespace
}  // namespace fathom
