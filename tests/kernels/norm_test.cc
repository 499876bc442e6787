#include "kernels/norm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "base/number_formats.h"
#include "support/isa_guard.h"
#include "support/isa_list.h"

namespace fathom {
namespace {

TEST(RmsNorm, AgreesWithAPlainSumForEveryTypeOfGain) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 3);
  for (int64_t n : {1, 7, 8, 129, 7168}) {
    std::vector<float> x(static_cast<size_t>(n));
    std::vector<float> gain(static_cast<size_t>(n));
    std::vector<uint16_t> gain_bf16(gain.size());
    std::vector<uint16_t> gain_f16(gain.size());
    double squares = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      x[i] = normal(random);
      gain_bf16[i] = f32_to_bf16(1 + 0.1f * normal(random));
      gain[i] = bf16_to_f32(gain_bf16[i]);
      gain_f16[i] = f32_to_f16(gain[i]);
      squares += static_cast<double>(x[i]) * x[i];
    }
    const double inverse = 1 / std::sqrt(squares / static_cast<double>(n) + 1e-5);
    for (const TensorView& view :
         {tensor_view(DType::f32, {n}, gain.data()), tensor_view(DType::bf16, {n}, gain_bf16.data()),
          tensor_view(DType::f16, {n}, gain_f16.data())}) {
      std::vector<float> first;
      for (Isa isa : isas_here()) {
        const IsaGuard guard(isa);
        std::vector<float> y(x.size());
        rms_norm(x.data(), n, view, 1e-5f, y.data());
        for (size_t i = 0; i < x.size(); ++i) {
          const double exact = x[i] * inverse * gain[i];
          ASSERT_NEAR(y[i], exact, 2.5e-7 * std::fabs(exact) + 1e-9)
              << isa_name(isa) << " " << dtype_name(view.dtype) << " n " << n << " i " << i;
        }
        if (first.empty()) first = y;
        EXPECT_EQ(std::memcmp(y.data(), first.data(), y.size() * sizeof(float)), 0) << isa_name(isa) << " n " << n;
      }
    }
  }
}

TEST(RmsNorm, ZeroStaysZero) {
  std::vector<float> x(16, 0.0f);
  const std::vector<float> gain(16, 2.0f);
  rms_norm(x.data(), 16, tensor_view(DType::f32, {16}, gain.data()), 1e-6f, x.data());
  for (float value : x) EXPECT_EQ(value, 0);
}

TEST(Swiglu, AgreesWithItsDefinitionAndSaturatesQuietly) {
  std::vector<float> gate = {-1000, -104, -90, -89, -87.5f, -20, -1, -1e-20f, 0, 1e-20f, 1, 20, 88, 89, 1000};
  for (int i = 0; i < 700; ++i) gate.push_back(static_cast<float>(i - 350) * 0.27f);
  const std::vector<float> up(gate.size(), 2.0f);
  for (Isa isa : isas_here()) {
    const IsaGuard guard(isa);
    for (size_t n : {size_t{1}, size_t{15}, gate.size()}) {
      std::vector<float> h(gate.begin(), gate.begin() + static_cast<int64_t>(n));
      swiglu(h.data(), up.data(), static_cast<int64_t>(n), h.data());
      for (size_t i = 0; i < n; ++i) {
        const double exact = gate[i] / (1 + std::exp(-static_cast<double>(gate[i]))) * 2;
        EXPECT_NEAR(h[i], exact, 5e-7 * std::fabs(exact) + 1e-36) << isa_name(isa) << " gate " << gate[i];
      }
    }
  }
}

TEST(Exponentials, WithinTwoUnitsOfTheLastPlace) {
  std::vector<float> x;
  for (int i = -87000; i <= 88700; i += 7) x.push_back(static_cast<float>(i) * 1e-3f);
  for (Isa isa : isas_here()) {
    const IsaGuard guard(isa);
    std::vector<float> y(x.size());
    exponentials(x.data(), static_cast<int64_t>(x.size()), y.data());
    for (size_t i = 0; i < x.size(); ++i) {
      const double exact = std::exp(static_cast<double>(x[i]));
      ASSERT_NEAR(y[i], exact, 0x1p-22 * exact) << isa_name(isa) << " x " << x[i];
    }
  }
}

TEST(Exponentials, AtTheEnds) {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> x = {-infinity, -1e30f, -200, -104, -100, -88, 0, -0.0f, 89, 1e30f, infinity, NAN};
  for (Isa isa : isas_here()) {
    const IsaGuard guard(isa);
    std::vector<float> y(x.size());
    exponentials(x.data(), static_cast<int64_t>(x.size()), y.data());
    for (size_t i : {0, 1, 2, 3}) EXPECT_EQ(y[i], 0) << isa_name(isa) << " x " << x[i];
    for (size_t i : {4, 5}) EXPECT_NEAR(y[i], std::exp(static_cast<double>(x[i])), 1.5e-45) << isa_name(isa);
    for (size_t i : {6, 7}) EXPECT_EQ(y[i], 1) << isa_name(isa);
    for (size_t i : {8, 9, 10}) EXPECT_EQ(y[i], infinity) << isa_name(isa) << " x " << x[i];
    EXPECT_TRUE(std::isnan(y[11])) << isa_name(isa);
  }
}

TEST(RotatePairs, GivesTheSameBitsOnEveryInstructionSet) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal(0, 1);
  for (int64_t d : {2, 8, 18, 32, 64}) {
    std::vector<float> x(static_cast<size_t>(d));
    std::vector<float> cos_sin(x.size());
    for (float& value : x) value = normal(random);
    for (float& value : cos_sin) value = normal(random);
    for (Isa isa : isas_here()) {
      const IsaGuard guard(isa);
      std::vector<float> y = x;
      rotate_pairs(y.data(), cos_sin.data(), d);
      for (size_t i = 0; i < x.size(); i += 2) {
        const float a_cos = x[i] * cos_sin[i];
        const float b_sin = x[i + 1] * cos_sin[i + 1];
        const float a_sin = x[i] * cos_sin[i + 1];
        const float b_cos = x[i + 1] * cos_sin[i];
        EXPECT_EQ(y[i], a_cos - b_sin) << isa_name(isa) << " d " << d;
        EXPECT_EQ(y[i + 1], a_sin + b_cos) << isa_name(isa) << " d " << d;
      }
    }
  }
}

TEST(Conversions, AgreeWithTheFormatsBitByBit) {
  std::mt19937 random(3);
  std::vector<uint32_t> bits = {0,          0x80000000, 1,          0x00008000, 0x00018000, 0x7f800000, 0xff800000,
                                0x7f7fffff, 0x7fc00000, 0x7f800001, 0xffc12345, 0x7fffffff, 0x3f808000, 0x3f818000};
  while (bits.size() < 1003) bits.push_back(random());
  std::vector<float> x(bits.size());
  std::memcpy(x.data(), bits.data(), bits.size() * sizeof(float));
  const auto n = static_cast<int64_t>(x.size());
  for (Isa isa : isas_here()) {
    const IsaGuard guard(isa);
    std::vector<uint16_t> narrow(x.size());
    convert_f32_to_bf16(x.data(), n, narrow.data());
    std::vector<float> wide(x.size());
    convert_bf16_to_f32(narrow.data(), n, wide.data());
    for (size_t i = 0; i < x.size(); ++i) {
      ASSERT_EQ(narrow[i], f32_to_bf16(x[i])) << isa_name(isa) << " bits " << bits[i];
      uint32_t back;
      std::memcpy(&back, &wide[i], sizeof(back));
      ASSERT_EQ(back, static_cast<uint32_t>(narrow[i]) << 16) << isa_name(isa) << " bits " << bits[i];
    }
  }
}

}  // namespace
}  // namespace fathom
