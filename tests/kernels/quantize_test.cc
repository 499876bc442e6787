// Quantisation on every instruction set against its definition, one number at a time.
#include "kernels/quantize.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "base/number_formats.h"
#include "support/isa_guard.h"
#include "support/isa_list.h"

namespace fathom {
namespace {

float scale_of(float amax, float least, bool ue8m0) {
  const float scale = std::max(amax, least) / 448.0f;
  return ue8m0 ? next_power_of_two(scale) : scale;
}

// A group of each kind of numbers, more than once for other values, and a piece of a group at the end.
std::vector<float> numbers(int64_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 1);
  std::uniform_int_distribution<uint32_t> bits;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> x;
  for (int64_t i = 0; i < n; ++i) {
    const float value = normal(random);
    const int64_t group = i / 128;
    switch (group % 8) {
      case 0:
        x.push_back(value);
        break;
      case 1:
        x.push_back(value * 1e-41f);  // subnormal
        break;
      case 2:
        x.push_back(value * 1e37f);
        break;
      case 3:
        x.push_back(i % 2 == 0 ? 0.0f : -0.0f);
        break;
      case 4:
        x.push_back(i % 5 == 0 ? std::copysign(kNan, value) : value);
        break;
      case 5:  // most of them in the subnormal codes; halves between codes
        x.push_back(i % 128 == 0 ? 448.0f : std::round(value * 1024) / 1024);
        break;
      case 6:
        x.push_back(i % 7 == 0 ? std::copysign(kInfinity, value) : value);
        break;
      default:
        x.push_back(std::bit_cast<float>(bits(random)));  // anything
    }
  }
  return x;
}

TEST(Quantize, ActivationOnEverySet) {
  for (int64_t K : {int64_t{1}, int64_t{127}, int64_t{128}, int64_t{16 * 128 + 37}}) {
    const std::vector<float> x = numbers(K, static_cast<uint32_t>(K));
    for (bool ue8m0 : {false, true}) {
      for (float least : {kLeastActivationAmax, kLeastGradientAmax}) {
        std::vector<uint8_t> codes;
        std::vector<float> scales;
        for (int64_t begin = 0; begin < K; begin += 128) {
          float amax = 0;
          const auto end = static_cast<size_t>(std::min(K, begin + 128));
          for (auto k = static_cast<size_t>(begin); k < end; ++k) amax = std::max(amax, std::fabs(x[k]));
          scales.push_back(scale_of(amax, least, ue8m0));
          for (auto k = static_cast<size_t>(begin); k < end; ++k) codes.push_back(f32_to_e4m3(x[k] / scales.back()));
        }
        for (Isa isa : isas_here()) {
          const IsaGuard guard(isa);
          SCOPED_TRACE(testing::Message() << isa_name(isa) << ", K " << K << ", ue8m0 " << ue8m0);
          std::vector<uint8_t> own(codes.size(), 1);
          std::vector<float> values(codes.size());
          std::vector<uint16_t> halves(codes.size());
          std::vector<float> own_scales(scales.size());
          quantize_activation(x.data(), K, ue8m0, own.data(), own_scales.data(), least);
          ASSERT_EQ(own_scales, scales);
          ASSERT_EQ(own, codes);
          quantize_activation_values(x.data(), K, ue8m0, values.data(), own_scales.data(), least);
          ASSERT_EQ(own_scales, scales);
          quantize_activation_values(x.data(), K, ue8m0, halves.data(), own_scales.data(), least);
          ASSERT_EQ(own_scales, scales);
          for (size_t k = 0; k < codes.size(); ++k) {
            const float value = e4m3_to_f32(codes[k]);
            ASSERT_EQ(std::bit_cast<uint32_t>(values[k]), std::bit_cast<uint32_t>(value)) << x[k];
            ASSERT_EQ(halves[k], f32_to_bf16(value)) << x[k];
          }
        }
      }
    }
  }
}

TEST(Quantize, WeightOnEverySet) {
  const int64_t rows = 70;
  const int64_t cols = 4 * 128 + 9;
  const std::vector<float> w = numbers(rows * cols, 5);
  for (int64_t block : {int64_t{32}, int64_t{128}}) {
    for (bool ue8m0 : {false, true}) {
      const int64_t across = (cols + block - 1) / block;
      std::vector<float> amax(static_cast<size_t>((rows + block - 1) / block * across), 0.0f);
      const auto block_of = [&](int64_t i) {
        return static_cast<size_t>(i / cols / block * across + i % cols / block);
      };
      for (int64_t i = 0; i < rows * cols; ++i) {
        amax[block_of(i)] = std::max(amax[block_of(i)], std::fabs(w[static_cast<size_t>(i)]));
      }
      std::vector<float> scales;
      for (float value : amax) scales.push_back(scale_of(value, kLeastActivationAmax, ue8m0));
      std::vector<uint8_t> codes;
      std::vector<uint16_t> cast;
      for (int64_t i = 0; i < rows * cols; ++i) {
        codes.push_back(f32_to_e4m3(w[static_cast<size_t>(i)] / scales[block_of(i)]));
        cast.push_back(f32_to_bf16(e4m3_to_f32(codes.back()) * scales[block_of(i)]));
      }
      for (Isa isa : isas_here()) {
        const IsaGuard guard(isa);
        SCOPED_TRACE(testing::Message() << isa_name(isa) << ", block " << block << ", ue8m0 " << ue8m0);
        std::vector<uint8_t> own(codes.size());
        std::vector<float> own_scales(scales.size());
        std::vector<uint16_t> own_cast(cast.size());
        quantize_weight(w.data(), rows, cols, block, block, ue8m0, own.data(), own_scales.data());
        ASSERT_EQ(own_scales, scales);
        ASSERT_EQ(own, codes);
        dequantize_weight_bf16(codes.data(), scales.data(), rows, cols, block, block, own_cast.data());
        ASSERT_EQ(own_cast, cast);
      }
    }
  }
}

// Columns as rows of the transposed matrix, gathered rows, an odd last one.
TEST(Quantize, PairsOnEverySet) {
  const int64_t rows = 2 * 128 + 33;
  const int64_t cols = 77;
  std::vector<float> x = numbers(400 * cols, 9);
  for (bool narrow : {false, true}) {
    std::vector<uint16_t> halves;
    for (float& value : x) {
      halves.push_back(f32_to_bf16(value));
      if (narrow) value = bf16_to_f32(halves.back());
    }
    std::vector<int32_t> index;
    for (int32_t r = 0; r < rows; ++r) index.push_back(r * 53 % 400);
    for (bool ue8m0 : {false, true}) {
      for (Isa isa : isas_here()) {
        const IsaGuard guard(isa);
        SCOPED_TRACE(testing::Message() << isa_name(isa) << ", narrow " << narrow << ", ue8m0 " << ue8m0);
        std::vector<uint16_t> out(static_cast<size_t>((rows + 1) / 2 * cols * 2), 7);
        std::vector<float> scales(static_cast<size_t>(3 * cols));
        quantize_pairs(narrow ? DType::bf16 : DType::f32, narrow ? static_cast<const void*>(halves.data()) : x.data(),
                       cols, index.data(), rows, cols, ue8m0, kLeastGradientAmax, out.data(), scales.data());
        for (int64_t c = 0; c < cols; ++c) {
          std::vector<float> column;
          for (int32_t r : index) column.push_back(x[static_cast<size_t>(r * cols + c)]);
          std::vector<uint16_t> values(column.size());
          float own_scales[3];
          quantize_activation_values(column.data(), rows, ue8m0, values.data(), own_scales, kLeastGradientAmax);
          values.push_back(0);
          for (int64_t g = 0; g < 3; ++g) ASSERT_EQ(scales[static_cast<size_t>(g * cols + c)], own_scales[g]) << c;
          for (int64_t r = 0; r < rows + 1; ++r) {
            ASSERT_EQ(out[static_cast<size_t>((r / 2 * cols + c) * 2 + r % 2)], values[static_cast<size_t>(r)])
                << "row " << r << " column " << c;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace fathom
