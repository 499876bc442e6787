#include "kernels/ggml_blocks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <random>

#include "base/number_formats.h"

namespace fathom {
namespace {

using Bytes = std::vector<uint8_t>;

std::vector<float> dequantized(GgmlType type, const Bytes& bytes, int64_t values) {
  EXPECT_EQ(static_cast<int64_t>(bytes.size()), ggml_row_bytes(type, values));
  std::vector<float> out(static_cast<size_t>(values), -1e9f);
  ggml_dequantize(type, reinterpret_cast<const std::byte*>(bytes.data()), values, out.data());
  return out;
}

Bytes quantized(GgmlType type, const std::vector<float>& values) {
  Bytes out(static_cast<size_t>(ggml_row_bytes(type, std::ssize(values))), 0xee);
  ggml_quantize(type, values.data(), std::ssize(values), reinterpret_cast<std::byte*>(out.data()));
  return out;
}

std::vector<float> there_and_back(GgmlType type, const std::vector<float>& values) {
  return dequantized(type, quantized(type, values), std::ssize(values));
}

/// A block as what it means: codes, and the scales and minima of its groups. The tests below pack it into bytes as the
/// format says, and expect d · scale · code − dmin · min back.
class Block {
 public:
  explicit Block(uint32_t seed) : random_(seed) {}

  int draw(int end) { return static_cast<int>(random_() % static_cast<uint32_t>(end)); }
  std::vector<int> draw(size_t count, int end) {
    std::vector<int> numbers(count);
    for (int& number : numbers) number = draw(end);
    return numbers;
  }
  /// A float16 with few digits, so that every product below is exact in float32.
  float draw_half() { return static_cast<float>(draw(255) - 127) / 1024.0f; }

 private:
  std::mt19937 random_;
};

void append_half(Bytes& bytes, float value) {
  const uint16_t bits = f32_to_f16(value);
  bytes.push_back(static_cast<uint8_t>(bits & 0xff));
  bytes.push_back(static_cast<uint8_t>(bits >> 8));
}

/// Sets `count` bits of a byte string, numbered from the low bit of the first byte.
void set_bits(Bytes& bytes, size_t first_bit, size_t count, int value) {
  for (size_t i = 0; i < count; ++i) {
    const size_t bit = first_bit + i;
    if ((value >> i & 1) != 0) bytes[bit / 8] = static_cast<uint8_t>(bytes[bit / 8] | 1u << bit % 8);
  }
}

constexpr int kRounds = 20;

TEST(GgmlBlocks, ThirtyTwoValues) {
  Block block(1);
  for (int round = 0; round < kRounds; ++round) {
    const float d = block.draw_half(), m = block.draw_half();
    const std::vector<int> four = block.draw(32, 16), five = block.draw(32, 32), eight = block.draw(32, 256);
    // Halves: value j low in byte j, value j + 16 high.
    Bytes low(16), fifth(4), low_of_five(16);
    for (size_t j = 0; j < 32; ++j) {
      const size_t bit = j % 16 * 8 + (j < 16 ? 0 : 4);
      set_bits(low, bit, 4, four[j]);
      set_bits(low_of_five, bit, 4, five[j] % 16);
      set_bits(fifth, j, 1, five[j] / 16);
    }
    const auto bytes = [&](std::initializer_list<float> halves, std::initializer_list<Bytes> rest) {
      Bytes all;
      for (const float half : halves) append_half(all, half);
      for (const Bytes& part : rest) all.insert(all.end(), part.begin(), part.end());
      return all;
    };
    const auto q4_0 = dequantized(GgmlType::q4_0, bytes({d}, {low}), 32);
    const auto q4_1 = dequantized(GgmlType::q4_1, bytes({d, m}, {low}), 32);
    const auto q5_0 = dequantized(GgmlType::q5_0, bytes({d}, {fifth, low_of_five}), 32);
    const auto q5_1 = dequantized(GgmlType::q5_1, bytes({d, m}, {fifth, low_of_five}), 32);
    const auto q8_0 = dequantized(GgmlType::q8_0, bytes({d}, {Bytes(eight.begin(), eight.end())}), 32);
    const auto iq4_nl = dequantized(GgmlType::iq4_nl, bytes({d}, {low}), 32);
    constexpr std::array steps = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    for (size_t j = 0; j < 32; ++j) {
      SCOPED_TRACE(j);
      EXPECT_EQ(q4_0[j], d * static_cast<float>(four[j] - 8));
      EXPECT_EQ(q4_1[j], d * static_cast<float>(four[j]) + m);
      EXPECT_EQ(q5_0[j], d * static_cast<float>(five[j] - 16));
      EXPECT_EQ(q5_1[j], d * static_cast<float>(five[j]) + m);
      EXPECT_EQ(q8_0[j], d * static_cast<float>(eight[j] < 128 ? eight[j] : eight[j] - 256));
      EXPECT_EQ(iq4_nl[j], d * static_cast<float>(steps[static_cast<size_t>(four[j])]));
    }
  }
}

/// Where the 12 bytes of q4_k and q5_k have scale j and minimum j of 8.
Bytes packed_scales(const std::vector<int>& scales, const std::vector<int>& mins) {
  Bytes bytes(12);
  for (size_t j = 0; j < 8; ++j) {
    if (j < 4) {
      set_bits(bytes, 8 * j, 6, scales[j]);
      set_bits(bytes, 8 * (j + 4), 6, mins[j]);
    } else {
      set_bits(bytes, 8 * (j + 4), 4, scales[j] % 16);
      set_bits(bytes, 8 * (j + 4) + 4, 4, mins[j] % 16);
      set_bits(bytes, 8 * (j - 4) + 6, 2, scales[j] / 16);
      set_bits(bytes, 8 * j + 6, 2, mins[j] / 16);
    }
  }
  return bytes;
}

TEST(GgmlBlocks, FourAndFiveBitsOfTwoHundredFiftySix) {
  Block block(2);
  for (int round = 0; round < kRounds; ++round) {
    const float d = block.draw_half(), dmin = block.draw_half();
    const std::vector<int> scales = block.draw(8, 64), mins = block.draw(8, 64), codes = block.draw(256, 32);
    Bytes four, five, low(128), fifth(32);
    for (size_t i = 0; i < 256; ++i) {
      const size_t group = i / 32;  // two groups share 32 bytes
      set_bits(low, (group / 2 * 32 + i % 32) * 8 + group % 2 * 4, 4, codes[i] % 16);
      set_bits(fifth, i % 32 * 8 + group, 1, codes[i] / 16);
    }
    const Bytes packed = packed_scales(scales, mins);
    for (Bytes* bytes : {&four, &five}) {
      append_half(*bytes, d);
      append_half(*bytes, dmin);
      bytes->insert(bytes->end(), packed.begin(), packed.end());
      if (bytes == &five) bytes->insert(bytes->end(), fifth.begin(), fifth.end());
      bytes->insert(bytes->end(), low.begin(), low.end());
    }
    const auto q4_k = dequantized(GgmlType::q4_k, four, 256);
    const auto q5_k = dequantized(GgmlType::q5_k, five, 256);
    for (size_t i = 0; i < 256; ++i) {
      SCOPED_TRACE(i);
      const float scale = d * static_cast<float>(scales[i / 32]), min = dmin * static_cast<float>(mins[i / 32]);
      EXPECT_EQ(q4_k[i], scale * static_cast<float>(codes[i] % 16) - min);
      EXPECT_EQ(q5_k[i], scale * static_cast<float>(codes[i]) - min);
    }
  }
}

TEST(GgmlBlocks, TwoAndThreeBits) {
  Block block(3);
  for (int round = 0; round < kRounds; ++round) {
    const float d = block.draw_half(), dmin = block.draw_half();
    const std::vector<int> codes = block.draw(256, 8), scales = block.draw(16, 64), mins = block.draw(16, 16);
    Bytes two, three, low(64), third(32), scales_of_three(12);
    for (size_t i = 0; i < 256; ++i) {
      set_bits(low, (i / 128 * 32 + i % 32) * 8 + i % 128 / 32 * 2, 2, codes[i] % 4);
      set_bits(third, i % 32 * 8 + i / 32, 1, codes[i] / 4);
    }
    for (size_t j = 0; j < 16; ++j) {
      two.push_back(static_cast<uint8_t>(scales[j] % 16 | mins[j] << 4));
      set_bits(scales_of_three, j % 8 * 8 + (j < 8 ? 0 : 4), 4, scales[j] % 16);
      set_bits(scales_of_three, (8 + j % 4) * 8 + j / 4 * 2, 2, scales[j] / 16);
    }
    two.insert(two.end(), low.begin(), low.end());
    append_half(two, d);
    append_half(two, dmin);
    for (const Bytes* part : {&third, &low, &scales_of_three}) three.insert(three.end(), part->begin(), part->end());
    append_half(three, d);
    const auto q2_k = dequantized(GgmlType::q2_k, two, 256);
    const auto q3_k = dequantized(GgmlType::q3_k, three, 256);
    for (size_t i = 0; i < 256; ++i) {
      SCOPED_TRACE(i);
      const auto code = static_cast<float>(codes[i] % 4);
      EXPECT_EQ(q2_k[i], d * static_cast<float>(scales[i / 16] % 16) * code - dmin * static_cast<float>(mins[i / 16]));
      EXPECT_EQ(q3_k[i], d * static_cast<float>(scales[i / 16] - 32) * static_cast<float>(codes[i] - 4));
    }
  }
}

TEST(GgmlBlocks, SixBitsAndFourNonLinearOnes) {
  Block block(4);
  for (int round = 0; round < kRounds; ++round) {
    const float d = block.draw_half();
    const std::vector<int> codes = block.draw(256, 64), scales = block.draw(16, 256);
    Bytes six(208), four(136);
    for (size_t i = 0; i < 256; ++i) {
      set_bits(six, (i / 128 * 64 + i % 64) * 8 + i % 128 / 64 * 4, 4, codes[i] % 16);
      set_bits(six, (128 + i / 128 * 32 + i % 32) * 8 + i % 128 / 32 * 2, 2, codes[i] / 16);
      set_bits(four, (8 + i / 32 * 16 + i % 16) * 8 + i % 32 / 16 * 4, 4, codes[i] % 16);
    }
    for (size_t j = 0; j < 16; ++j) six[192 + j] = static_cast<uint8_t>(scales[j]);
    append_half(six, d);
    Bytes half;
    append_half(half, d);
    std::copy(half.begin(), half.end(), four.begin());
    for (size_t j = 0; j < 8; ++j) {
      set_bits(four, 16 + 2 * j, 2, scales[j] % 64 / 16);
      set_bits(four, 32 + 4 * j, 4, scales[j] % 16);
    }
    const auto q6_k = dequantized(GgmlType::q6_k, six, 256);
    const auto iq4_xs = dequantized(GgmlType::iq4_xs, four, 256);
    constexpr std::array steps = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    for (size_t i = 0; i < 256; ++i) {
      SCOPED_TRACE(i);
      const int scale = scales[i / 16];
      EXPECT_EQ(q6_k[i], d * static_cast<float>(scale < 128 ? scale : scale - 256) * static_cast<float>(codes[i] - 32));
      EXPECT_EQ(iq4_xs[i], d * static_cast<float>(scales[i / 32] % 64 - 32) *
                               static_cast<float>(steps[static_cast<size_t>(codes[i] % 16)]));
    }
  }
}

// ---- Quantisers ----

TEST(GgmlBlocks, ComputedByHand) {
  // q8_0: the greatest value is 63.5, so d = 0.5 = 0x3800, and the codes are twice the values.
  std::vector<float> values(32, 0);
  values[0] = 63.5f;
  values[1] = -63.5f;
  values[2] = 1;
  values[31] = -0.5f;
  Bytes expected(34, 0);
  expected[1] = 0x38;
  expected[2] = 127;
  expected[3] = 0x81;
  expected[4] = 2;
  expected[33] = 0xff;
  EXPECT_EQ(quantized(GgmlType::q8_0, values), expected);

  // q4_0: −4 is greatest, so d = −4 / −8 = 0.5; −4 is code 0, 0 is 8, 1 is 10, 3.5 is 15. 4 would be 16 and is cut off.
  values.assign(32, 0);
  values[0] = -4;
  values[1] = 1;
  values[16] = 3.5f;
  values[17] = 4;
  expected.assign(18, 0x88);
  expected[0] = 0;
  expected[1] = 0x38;
  expected[2] = 0xf0;
  expected[3] = 0xfa;
  EXPECT_EQ(quantized(GgmlType::q4_0, values), expected);

  // q5_0: d = 8 / −16 = −0.5 = 0xb800; 8 is code 0, 0 is 16 (low bits 0, fifth 1), −7.5 is 31.
  values.assign(32, 0);
  values[0] = 8;
  values[31] = -7.5f;
  expected.assign(22, 0);
  expected[1] = 0xb8;
  expected[2] = 0xfe;
  expected[3] = expected[4] = expected[5] = 0xff;
  expected[21] = 0xf0;
  EXPECT_EQ(quantized(GgmlType::q5_0, values), expected);

  // q6_k: every group holds −32 and 31 steps of 2⁻⁵; the scales are then all the same, −128 of d = −2⁻¹², and exact.
  values.assign(256, 0);
  for (size_t i = 0; i < 256; i += 16) {
    values[i] = -1;
    values[i + 1] = 31.0f / 32;
  }
  expected.assign(210, 0);
  for (size_t i = 0; i < 256; ++i) {
    const int code = i % 16 == 0 ? 0 : i % 16 == 1 ? 63 : 32;
    set_bits(expected, (i / 128 * 64 + i % 64) * 8 + i % 128 / 64 * 4, 4, code % 16);
    set_bits(expected, (128 + i / 128 * 32 + i % 32) * 8 + i % 128 / 32 * 2, 2, code / 16);
  }
  for (size_t j = 0; j < 16; ++j) expected[192 + j] = 0x80;
  expected[209] = 0x8c;
  EXPECT_EQ(quantized(GgmlType::q6_k, values), expected);

  // q4_k: each group has the codes 0 to 15 twice, with scale 63 / 64 and minimum 63 / 32: d = 2⁻⁶ and dmin = 2⁻⁵.
  values.resize(256);
  for (size_t i = 0; i < 256; ++i) values[i] = 63.0f / 64 * static_cast<float>(i % 16) - 63.0f / 32;
  expected.assign(144, 0);
  expected[1] = 0x24;
  expected[3] = 0x28;
  const Bytes packed = packed_scales(std::vector<int>(8, 63), std::vector<int>(8, 63));
  std::copy(packed.begin(), packed.end(), expected.begin() + 4);
  for (size_t i = 0; i < 128; ++i) expected[16 + i] = static_cast<uint8_t>(i % 16 * 17);
  EXPECT_EQ(quantized(GgmlType::q4_k, values), expected);
}

TEST(GgmlBlocks, ErrorsOfNormalNumbers) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0, 0.02f);
  std::vector<float> values(256 * 400);
  for (float& value : values) value = normal(random);
  double squares = 0;
  for (const float value : values) squares += double{value} * value;
  const auto relative_error = [&](GgmlType type) {
    const std::vector<float> back = there_and_back(type, values);
    double sum = 0;
    for (size_t i = 0; i < values.size(); ++i) sum += std::pow(double{back[i]} - values[i], 2);
    return std::sqrt(sum / squares);
  };
  // A step s leaves s / √12: of 32 normal numbers the greatest is about 2.1 deviations, of 16 about 1.8.
  EXPECT_NEAR(relative_error(GgmlType::q8_0), 2.1 / 127 / std::sqrt(12.0), 0.001);
  EXPECT_NEAR(relative_error(GgmlType::q5_0), 2.1 / 16 / std::sqrt(12.0), 0.008);
  EXPECT_NEAR(relative_error(GgmlType::q4_0), 2.1 / 8 / std::sqrt(12.0), 0.015);
  EXPECT_NEAR(relative_error(GgmlType::q6_k), 1.8 / 32 / std::sqrt(12.0), 0.003);
  // A range of 4.2 deviations in 15 steps.
  EXPECT_NEAR(relative_error(GgmlType::q4_k), 4.2 / 15 / std::sqrt(12.0), 0.01);
  EXPECT_LT(relative_error(GgmlType::q4_k), relative_error(GgmlType::q4_0));
  EXPECT_LT(relative_error(GgmlType::bf16), 1.0 / 256);
  EXPECT_LT(relative_error(GgmlType::f16), 1.0 / 2048);
  EXPECT_EQ(there_and_back(GgmlType::f32, values), values);
}

TEST(GgmlBlocks, BoundsOfOneBlock) {
  std::mt19937 random(6);
  std::normal_distribution<float> normal;
  for (int round = 0; round < 200; ++round) {
    std::vector<float> values(32);
    const float size = std::exp2(static_cast<float>(round % 16) - 8);
    for (float& value : values) value = normal(random) * size;
    float greatest = 0;
    for (const float value : values) greatest = std::max(greatest, std::fabs(value));
    const auto off = [&](GgmlType type) {
      const std::vector<float> back = there_and_back(type, values);
      float most = 0;
      for (size_t i = 0; i < 32; ++i) most = std::max(most, std::fabs(back[i] - values[i]));
      return most / greatest;
    };
    // Half a step, and a float16's rounding of it; where the sign cuts the last code off, a whole step.
    EXPECT_LE(off(GgmlType::q8_0), 0.5f / 127 + 0x1p-11f);
    EXPECT_LE(off(GgmlType::q5_0), 1.0f / 16 + 0x1p-10f);
    EXPECT_LE(off(GgmlType::q4_0), 1.0f / 8 + 0x1p-10f);
  }
}

TEST(GgmlBlocks, ZerosConstantsAndSpikes) {
  for (const GgmlType type : {GgmlType::q8_0, GgmlType::q4_0, GgmlType::q5_0, GgmlType::q4_k, GgmlType::q6_k}) {
    SCOPED_TRACE(ggml_type_name(type));
    ASSERT_TRUE(ggml_can_quantize(type));
    const std::vector<float> zeros(256, 0);
    EXPECT_EQ(there_and_back(type, zeros), zeros);
    for (const float constant : {0.5f, -0.5f, 65504.0f, -65504.0f, 1e-30f, 1e-40f, -1e-44f}) {
      for (const float back : there_and_back(type, std::vector<float>(256, constant))) {
        EXPECT_NEAR(back, constant, std::max(std::fabs(constant) / 50, 1e-20f)) << constant;
      }
    }
    std::vector<float> spike(256, 0);
    spike[77] = -3;
    const std::vector<float> back = there_and_back(type, spike);
    for (size_t i = 0; i < 256; ++i) EXPECT_NEAR(back[i], spike[i], 0.06f) << i;
  }
  EXPECT_FALSE(ggml_can_quantize(GgmlType::q2_k));
  EXPECT_EQ(ggml_type_name(16), "iq2_xxs");
  EXPECT_EQ(ggml_type_name(12), "q4_k");
  EXPECT_EQ(ggml_type_name(1000), "type 1000");
  EXPECT_FALSE(ggml_type_from_number(16));
}

}  // namespace
}  // namespace fathom
