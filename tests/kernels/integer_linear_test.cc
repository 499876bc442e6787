// Products with integers: against float64 sums over the unpacked weights and the rounded activations, and bit by bit
// against the portable kernel.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "base/number_formats.h"
#include "kernels/integer_weight.h"
#include "kernels/linear.h"
#include "kernels/quantize.h"
#include "support/integer_formats.h"
#include "support/isa_guard.h"
#include "support/isa_list.h"

namespace fathom {
namespace {

std::vector<float> random_values(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 1);
  std::vector<float> x(static_cast<size_t>(count));
  for (float& value : x) value = normal(random) * std::exp2(static_cast<float>(static_cast<int>(random() % 6)) - 4);
  return x;
}

// Panels of random bytes: every code, every zero, and scales of either sign.
struct TestPanels {
  Buffer data;
  Weight weight;
};

TestPanels random_panels(const IntegerFormat& format, int64_t rows, int64_t cols, uint32_t seed) {
  TestPanels panels;
  const size_t panel = integer_panel_bytes(format, cols);
  const size_t bytes = integer_weight_bytes(format, rows, cols);
  panels.data.reserve(bytes);
  std::mt19937 random(seed);
  auto* data = panels.data.as<uint8_t>();
  for (size_t i = 0; i < bytes; ++i) data[i] = static_cast<uint8_t>(random());
  const int64_t groups = (cols + format.group - 1) / format.group;
  for (size_t begin = 0; begin < bytes; begin += panel) {
    auto* scales = reinterpret_cast<uint16_t*>(data + begin);
    for (int64_t i = 0; i < groups * 16; ++i) {
      scales[i] = f32_to_bf16(std::exp2(static_cast<float>(random() % 8) - 10) * (random() % 5 == 0 ? -1.3f : 1.7f));
    }
    if (format.zero_point && format.bits == 4) {
      uint8_t* zeros = data + begin + (static_cast<size_t>(groups) * 32 + 63) / 64 * 64;
      for (int64_t i = 0; i < groups * 16; ++i) zeros[i] &= 15;
    }
  }
  panels.weight = integer_weight(format, panels.data.as<std::byte>(), rows, cols);
  return panels;
}

// Code × scale of the activations, as the product sees them, by the definition.
std::vector<double> rounded_to_int8(const std::vector<float>& x, int64_t T, int64_t K) {
  std::vector<double> out(x.size());
  for (int64_t t = 0; t < T; ++t) {
    for (int64_t begin = 0; begin < K; begin += 128) {
      const int64_t end = std::min(K, begin + 128);
      float amax = 0;
      for (int64_t k = begin; k < end; ++k) amax = std::max(amax, std::fabs(x[static_cast<size_t>(t * K + k)]));
      const float scale = amax / 127.0f;
      for (int64_t k = begin; k < end; ++k) {
        const auto i = static_cast<size_t>(t * K + k);
        out[i] = scale > 0 ? static_cast<double>(std::nearbyint(x[i] / scale)) * static_cast<double>(scale) : 0.0;
      }
    }
  }
  return out;
}

void expect_product(const Weight& w, const std::vector<double>& x, int64_t T, const std::vector<float>& y) {
  const int64_t K = w.cols;
  std::vector<float> values(static_cast<size_t>(w.rows * K));
  unpack_integer_rows(w, 0, w.rows, values.data());
  for (int64_t t = 0; t < T; ++t) {
    for (int64_t r = 0; r < w.rows; ++r) {
      double exact = 0;
      double magnitude = 0;
      for (int64_t k = 0; k < K; ++k) {
        const double term = x[static_cast<size_t>(t * K + k)] * values[static_cast<size_t>(r * K + k)];
        exact += term;
        magnitude += std::fabs(term);
      }
      // One rounding a group, one for the product of the scales, one for each unpacked value.
      ASSERT_NEAR(y[static_cast<size_t>(t * w.rows + r)], exact, 1e-6 * magnitude) << "t " << t << " r " << r;
    }
  }
}

struct Shape {
  int64_t T, rows, cols;
};

TEST(IntegerLinear, Int8OperandsAgreeWithAPlainSum) {
  for (Isa isa : isas_here()) {
    const IsaGuard guard(isa);
    for (const Shape& s : {Shape{1, 37, 300}, Shape{3, 16, 128}, Shape{13, 70, 1024}, Shape{2, 5, 7}}) {
      const std::vector<float> x = random_values(s.T * s.cols, 7);
      for (const IntegerFormat& format : all_formats()) {
        SCOPED_TRACE(fmt::format("{} T={} W=[{}, {}] {}", isa_name(isa), s.T, s.rows, s.cols, describe(format)));
        const TestPanels w = random_panels(format, s.rows, s.cols, 11);
        Operand operand;
        operand.prepare(x.data(), s.T, s.cols, s.cols, w.weight, OperandRounding::int8, nullptr);
        std::vector<float> y(static_cast<size_t>(s.T * s.rows), NAN);
        linear_rows(operand.view(), nullptr, s.T, w.weight, 0, s.rows, y.data(), s.rows);
        expect_product(w.weight, rounded_to_int8(x, s.T, s.cols), s.T, y);
      }
    }
  }
}

TEST(IntegerLinear, FloatOperandsAgreeWithAPlainSum) {
  for (Isa isa : isas_here()) {
    const IsaGuard guard(isa);
    for (const Shape& s : {Shape{1, 37, 300}, Shape{35, 16, 128}, Shape{5, 70, 1024}, Shape{2, 5, 7}}) {
      const std::vector<float> x = random_values(s.T * s.cols, 7);
      for (const IntegerFormat& format : all_formats()) {
        for (OperandRounding rounding : {OperandRounding::none, OperandRounding::bf16, OperandRounding::fp8}) {
          SCOPED_TRACE(fmt::format("{} T={} W=[{}, {}] {}", isa_name(isa), s.T, s.rows, s.cols, describe(format)));
          const TestPanels w = random_panels(format, s.rows, s.cols, 11);
          Operand operand;
          operand.prepare(x.data(), s.T, s.cols, s.cols, w.weight, rounding, nullptr);
          std::vector<float> y(static_cast<size_t>(s.T * s.rows), NAN);
          linear_rows(operand.view(), nullptr, s.T, w.weight, 0, s.rows, y.data(), s.rows);
          std::vector<double> seen(x.begin(), x.end());
          if (rounding == OperandRounding::bf16) {
            for (double& value : seen) value = round_to_bf16(static_cast<float>(value));
          }
          // Sums of up to 1,024 terms in float32, four side by side.
          expect_product(w.weight, seen, s.T, y);
        }
      }
    }
  }
}

// Integers times integers have one answer on every instruction set, for any number of tokens, any rows, gathered or
// not.
TEST(IntegerLinear, BitsAreThoseOfThePortableKernel) {
  constexpr int64_t T = 41;
  for (int64_t cols : {7, 160, 1000, 4200}) {
    constexpr int64_t rows = 150;
    const std::vector<float> x = random_values(T * cols, 3);
    for (const IntegerFormat& format : all_formats()) {
      const TestPanels w = random_panels(format, rows, cols, 5);
      std::vector<float> expected(static_cast<size_t>(T * rows));
      {
        const IsaGuard guard(Isa::portable);
        Operand operand;
        operand.prepare(x.data(), T, cols, cols, w.weight, OperandRounding::int8, nullptr);
        linear_rows(operand.view(), nullptr, T, w.weight, 0, rows, expected.data(), rows);
      }
      for (Isa isa : isas_here()) {
        SCOPED_TRACE(fmt::format("{} K={} {}", isa_name(isa), cols, describe(format)));
        const IsaGuard guard(isa);
        Operand operand;
        operand.prepare(x.data(), T, cols, cols, w.weight, OperandRounding::int8, nullptr);
        // Every number of tokens, starting at different ones; of the slow kernel and the many columns only some.
        for (int64_t n = 1; n <= T; n += isa == Isa::portable || (cols > 1000 && n > 9) ? 8 : 1) {
          const int64_t first = (T - n) / 2;
          std::vector<float> y(static_cast<size_t>(n * rows), NAN);
          linear_rows(operand.view(first), nullptr, n, w.weight, 0, rows, y.data(), rows);
          ASSERT_EQ(std::memcmp(y.data(), expected.data() + first * rows, y.size() * sizeof(float)), 0) << n;
        }
        // Pieces of the rows, gathered tokens; what lies beside the rows asked for stays.
        std::vector<int32_t> index;
        for (int32_t t = T - 1; t >= 0; t -= 3) index.push_back(t);
        for (int64_t count : {int64_t{1}, int64_t{3}, static_cast<int64_t>(index.size())}) {
          for (const auto& [begin, end] : {std::pair{0, 16}, {16, 64}, {64, 144}, {144, 150}}) {
            std::vector<float> y(static_cast<size_t>(count * rows), 77.0f);
            linear_rows(operand.view(), index.data(), count, w.weight, begin, end, y.data() + begin, rows);
            for (int64_t t = 0; t < count; ++t) {
              for (int64_t r = 0; r < rows; ++r) {
                const float value = r >= begin && r < end
                                        ? expected[static_cast<size_t>(index[static_cast<size_t>(t)] * rows + r)]
                                        : 77.0f;
                ASSERT_EQ(y[static_cast<size_t>(t * rows + r)], value) << "t " << t << " r " << r;
              }
            }
          }
        }
        ThreadTeam team(3);
        std::vector<float> threaded(static_cast<size_t>(T * rows));
        linear(operand.view(), T, {{&w.weight, threaded.data(), rows}}, team);
        ASSERT_EQ(std::memcmp(threaded.data(), expected.data(), threaded.size() * sizeof(float)), 0);
      }
    }
  }
}

// More tokens than a pass has and more rows than a section, all at once or a few at a time, or copied into an operand
// of their own.
TEST(IntegerLinear, ManyTokensHaveTheBitsOfFew) {
  constexpr int64_t T = 400;
  constexpr int64_t rows = 300;
  constexpr int64_t cols = 1100;
  const std::vector<float> x = random_values(T * cols, 8);
  std::vector<int32_t> index;
  for (int32_t t = T - 1; t >= 0; t -= 2) index.push_back(t);
  const auto count = static_cast<int64_t>(index.size());
  ThreadTeam team(2);
  for (const IntegerFormat& format : all_formats()) {
    const TestPanels w = random_panels(format, rows, cols, 9);
    for (Isa isa : isas_here()) {
      if (isa == Isa::portable) continue;
      SCOPED_TRACE(fmt::format("{} {}", isa_name(isa), describe(format)));
      const IsaGuard guard(isa);
      Operand operand;
      operand.prepare(x.data(), T, cols, cols, w.weight, OperandRounding::int8, &team);
      std::vector<float> few(T * rows);
      for (int64_t t = 0; t < T; t += 4) {
        linear_rows(operand.view(t), nullptr, 4, w.weight, 0, rows, few.data() + t * rows, rows, {&w.weight, 16, rows});
      }
      std::vector<float> many(T * rows);
      linear_rows(operand.view(), nullptr, T, w.weight, 0, rows, many.data(), rows, {&w.weight, 0, 64});
      ASSERT_EQ(std::memcmp(many.data(), few.data(), few.size() * sizeof(float)), 0);

      Operand own;
      own.gather(operand.view(), index.data(), count, team);
      std::vector<float> gathered(static_cast<size_t>(count * rows));
      linear_rows(own.view(), nullptr, count, w.weight, 0, rows, gathered.data(), rows);
      for (int64_t t = 0; t < count; ++t) {
        ASSERT_EQ(std::memcmp(gathered.data() + t * rows, few.data() + index[static_cast<size_t>(t)] * rows,
                              rows * sizeof(float)),
                  0)
            << t;
      }
    }
  }
}

// The greatest sums that can occur: no intermediate saturates.
TEST(IntegerLinear, ExtremeCodesAreExact) {
  constexpr int64_t K = 256;
  for (const IntegerFormat& format : all_formats()) {
    TestPanels w = random_panels(format, 16, K, 1);
    const size_t panel = integer_panel_bytes(format, K);
    const int64_t groups = K / format.group;
    const size_t codes = panel - static_cast<size_t>(16 * K * format.bits / 8);
    for (const auto& [code, zero, sign] :
         {std::tuple{0xff, 0x00, 1}, {0x00, 0xff, 1}, {0xff, 0x00, -1}, {0x00, 0x0f, -1}, {0x80, 0x80, 1}}) {
      auto* data = w.data.as<uint8_t>();
      std::memset(data + codes, code, panel - codes);
      if (format.zero_point)
        std::memset(data + groups * 32, format.bits == 8 ? zero : zero & 15, static_cast<size_t>(groups * 16));
      auto* scales = w.data.as<uint16_t>();
      std::fill(scales, scales + groups * 16, f32_to_bf16(1.0f));
      const std::vector<float> x(K, static_cast<float>(127 * sign));
      const int value = format.bits == 8 ? code : code & 15;
      const int actual_zero = format.zero_point ? (format.bits == 8 ? zero : zero & 15) : 1 << (format.bits - 1);
      for (Isa isa : isas_here()) {
        // Both nibbles hold the same only if they are equal: 0x80 does not.
        if (format.bits == 4 && code == 0x80) continue;
        const IsaGuard guard(isa);
        Operand operand;
        operand.prepare(x.data(), 1, K, K, w.weight, OperandRounding::int8, nullptr);
        float y[16];
        linear_rows(operand.view(), nullptr, 1, w.weight, 0, 16, y, 16);
        for (float result : y) {
          ASSERT_EQ(result, static_cast<float>(K * 127 * sign * (value - actual_zero)))
              << isa_name(isa) << " " << describe(format) << " code " << code << " zero " << zero;
        }
      }
    }
  }
}

TEST(IntegerLinear, FloatOperandsGiveARowTheSameBitsInAnyCompany) {
  constexpr int64_t T = 37;
  constexpr int64_t rows = 50;
  constexpr int64_t cols = 300;
  const std::vector<float> x = random_values(T * cols, 3);
  for (Isa isa : isas_here()) {
    const IsaGuard guard(isa);
    for (const IntegerFormat& format : all_formats()) {
      const TestPanels w = random_panels(format, rows, cols, 5);
      Operand operand;
      operand.prepare(x.data(), T, cols, cols, w.weight, OperandRounding::bf16, nullptr);
      std::vector<float> together(static_cast<size_t>(T * rows));
      linear_rows(operand.view(), nullptr, T, w.weight, 0, rows, together.data(), rows);
      for (int32_t t = 0; t < T; ++t) {
        std::vector<float> alone(rows);
        linear_rows(operand.view(), &t, 1, w.weight, 0, 16, alone.data(), rows);
        linear_rows(operand.view(t), nullptr, 1, w.weight, 16, rows, alone.data() + 16, rows);
        ASSERT_EQ(std::memcmp(alone.data(), together.data() + t * rows, alone.size() * sizeof(float)), 0)
            << isa_name(isa) << " " << describe(format) << " t " << t;
      }
    }
  }
}

TEST(IntegerLinear, FloatWeightsOnTheFlyAreThePackedOnes) {
  constexpr int64_t rows = 200;
  for (int64_t cols : {100, 640}) {
    const std::vector<float> values = random_values(rows * cols, 9);
    std::vector<uint16_t> bf16(values.size());
    std::vector<uint8_t> fp8(values.size());
    const int64_t blocks = (rows + 127) / 128 * ((cols + 127) / 128);
    std::vector<float> scales(static_cast<size_t>(blocks));
    for (size_t i = 0; i < values.size(); ++i) bf16[i] = f32_to_bf16(values[i]);
    quantize_weight(values.data(), rows, cols, 128, 128, false, fp8.data(), scales.data());
    Weight fp8_weight = dense_weight(DType::f8_e4m3, fp8.data(), rows, cols, cols);
    fp8_weight.scale_inv = scales.data();
    fp8_weight.block_rows = fp8_weight.block_cols = 128;
    for (const Weight& from : {dense_weight(DType::f32, values.data(), rows, cols, cols),
                               dense_weight(DType::bf16, bf16.data(), rows, cols, cols), fp8_weight}) {
      const IntegerFormat format;
      Buffer panels;
      panels.reserve(integer_weight_bytes(format, rows, cols));
      pack_integer_rows(from, 0, rows, format, panels.as<std::byte>());
      const Weight packed = integer_weight(format, panels.as<std::byte>(), rows, cols);
      EXPECT_TRUE(same_operand_form(from, packed, OperandRounding::int8));
      for (int64_t T : {1, 5, 20}) {
        const std::vector<float> x = random_values(T * cols, 13);
        std::vector<float> expected;
        for (Isa isa : isas_here()) {
          const IsaGuard guard(isa);
          Operand operand;
          operand.prepare(x.data(), T, cols, cols, from, OperandRounding::int8, nullptr);
          std::vector<float> y(static_cast<size_t>(T * rows));
          linear_rows(operand.view(), nullptr, T, packed, 0, rows, y.data(), rows);
          if (expected.empty()) expected = y;
          std::vector<float> flying(y.size());
          // In pieces that no panel begins with.
          linear_rows(operand.view(), nullptr, T, from, 0, 21, flying.data(), rows);
          linear_rows(operand.view(), nullptr, T, from, 21, rows, flying.data() + 21, rows);
          EXPECT_EQ(std::memcmp(y.data(), expected.data(), y.size() * sizeof(float)), 0) << isa_name(isa);
          EXPECT_EQ(std::memcmp(flying.data(), expected.data(), y.size() * sizeof(float)), 0)
              << isa_name(isa) << " " << dtype_name(from.dtype) << " T " << T;
        }
      }
    }
  }
}

TEST(IntegerLinear, ActivationsRoundToTheNearestCode) {
  constexpr int64_t K = 300;
  std::vector<float> x = random_values(K, 21);
  // Halves round to even: scale 1 in the first group.
  x[0] = 127;
  for (int k = 1; k < 128; ++k) x[static_cast<size_t>(k)] = static_cast<float>(k % 60) - 29.5f;
  const Weight w = dense_weight(DType::f32, x.data(), 1, K, K);
  for (Isa isa : isas_here()) {
    const IsaGuard guard(isa);
    Operand operand;
    operand.prepare(x.data(), 1, K, K, w, OperandRounding::int8, nullptr);
    const OperandView view = operand.view();
    ASSERT_EQ(view.form, OperandForm::int8);
    const int8_t* q = view.int8_columns(0, 0);
    for (int64_t g = 0; g < 3; ++g) {
      float amax = 0;
      for (int64_t k = 128 * g; k < std::min(K, 128 * g + 128); ++k)
        amax = std::max(amax, std::fabs(x[static_cast<size_t>(k)]));
      EXPECT_EQ(view.int8_scales(0)[g], amax / 127.0f);
      int32_t sum = 0;
      for (int64_t k = 128 * g; k < 128 * g + 128; ++k) {
        const float value = k < K ? x[static_cast<size_t>(k)] : 0.0f;
        ASSERT_EQ(q[k], static_cast<int>(std::nearbyint(value / (amax / 127.0f)))) << isa_name(isa) << " " << k;
        sum += q[k];
        if (k % 32 == 31) {
          int32_t part = 0;
          for (int64_t i = k - 31; i <= k; ++i) part += q[i];
          EXPECT_EQ(view.int8_sums(0, 32)[k / 32], part) << isa_name(isa);
        }
      }
      EXPECT_EQ(view.int8_sums(0, 128)[g], sum) << isa_name(isa);
    }
  }
}

TEST(IntegerLinear, WhatIsNotFiniteReachesTheResult) {
  constexpr int64_t K = 384;
  const std::vector<float> values = random_values(32 * K, 2);
  for (const IntegerFormat& format : all_formats()) {
    Buffer panels;
    panels.reserve(integer_weight_bytes(format, 32, K));
    pack_integer_rows(dense_weight(DType::f32, values.data(), 32, K, K), 0, 32, format, panels.as<std::byte>());
    const Weight w = integer_weight(format, panels.as<std::byte>(), 32, K);
    for (Isa isa : isas_here()) {
      const IsaGuard guard(isa);
      for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                        -std::numeric_limits<float>::infinity()}) {
        std::vector<float> x = random_values(3 * K, 4);
        x[K + 200] = bad;
        for (OperandRounding rounding : {OperandRounding::int8, OperandRounding::none}) {
          Operand operand;
          operand.prepare(x.data(), 3, K, K, w, rounding, nullptr);
          std::vector<float> y(3 * 32);
          linear_rows(operand.view(), nullptr, 3, w, 0, 32, y.data(), 32);
          for (int64_t i = 0; i < 96; ++i) {
            // Codes that mean zero times infinity are NaN as well, others an infinity.
            EXPECT_EQ(std::isfinite(y[static_cast<size_t>(i)]), i / 32 != 1) << isa_name(isa) << " " << i;
            if (rounding == OperandRounding::int8 && i / 32 == 1) {
              EXPECT_TRUE(std::isnan(y[static_cast<size_t>(i)]));
            }
          }
        }
      }
      // Zeros and activations below every scale give zero.
      std::vector<float> x(2 * K, 0.0f);
      x[3] = 1e-45f;
      x[5] = -3e-44f;
      Operand operand;
      operand.prepare(x.data(), 2, K, K, w, OperandRounding::int8, nullptr);
      std::vector<float> y(64, NAN);
      linear_rows(operand.view(), nullptr, 2, w, 0, 32, y.data(), 32);
      for (float value : y) EXPECT_NEAR(value, 0.0f, 1e-40f) << isa_name(isa);
    }
  }
}

}  // namespace
}  // namespace fathom
