#include "kernels/norm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "base/number_formats.h"

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
      std::vector<float> y(x.size());
      rms_norm(x.data(), n, view, 1e-5f, y.data());
      for (size_t i = 0; i < x.size(); ++i) {
        const double exact = x[i] * inverse * gain[i];
        ASSERT_NEAR(y[i], exact, 1e-6 * std::fabs(exact) + 1e-9) << dtype_name(view.dtype) << " n " << n << " i " << i;
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
  const std::vector<float> gate = {-1000, -20, -1, 0, 1, 20, 1000};
  const std::vector<float> up = {2, 2, 2, 2, 2, 2, 2};
  std::vector<float> h(gate.size());
  swiglu(gate.data(), up.data(), static_cast<int64_t>(gate.size()), h.data());
  for (size_t i = 0; i < gate.size(); ++i) {
    const double exact = gate[i] / (1 + std::exp(-static_cast<double>(gate[i]))) * 2;
    EXPECT_NEAR(h[i], exact, 1e-6 * std::fabs(exact) + 1e-7);
  }
}

}  // namespace
}  // namespace fathom
