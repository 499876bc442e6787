#include "base/number_formats.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "formats/safetensors.h"
#include "support/golden.h"

namespace fathom {
namespace {

// Bytes may lie at any address in a safetensors file, so values are copied out.
template <typename T>
std::vector<T> values(const SafetensorsFile& file, const std::string& name, DType dtype) {
  const SafetensorsEntry* entry = file.find(name);
  if (entry == nullptr || entry->dtype != dtype) {
    ADD_FAILURE() << "expected " << name << " of type " << dtype_name(dtype);
    return {};
  }
  std::vector<T> result(static_cast<size_t>(element_count(entry->shape)));
  std::memcpy(result.data(), file.view(*entry).data, result.size() * sizeof(T));
  return result;
}

class NumberFormats : public testing::Test {
 protected:
  SafetensorsFile golden{std::string(FATHOM_SOURCE_DIR) + "/tests/data/quant-kernels/encode.safetensors"};
};

void expect_decodes(const std::vector<float>& expected, float (*decode)(uint8_t)) {
  ASSERT_EQ(expected.size(), 256u);
  for (int code = 0; code < 256; ++code) {
    const float value = decode(static_cast<uint8_t>(code));
    if (std::isnan(expected[code])) {
      EXPECT_TRUE(std::isnan(value)) << code;
    } else {
      EXPECT_EQ(std::bit_cast<uint32_t>(value), std::bit_cast<uint32_t>(expected[code]))
          << "code " << code << ": expected " << expected[code] << ", found " << value;
    }
  }
}

TEST_F(NumberFormats, DecodeE4m3) {
  expect_decodes(values<float>(golden, "e4m3.values", DType::f32), e4m3_to_f32);
}

TEST_F(NumberFormats, DecodeE5m2) {
  expect_decodes(values<float>(golden, "e5m2.values", DType::f32), e5m2_to_f32);
}

TEST_F(NumberFormats, EncodeMatchesTheReference) {
  const auto x = values<float>(golden, "encode.x", DType::f32);
  const auto e4m3 = values<uint8_t>(golden, "encode.e4m3", DType::u8);
  const auto e5m2 = values<uint8_t>(golden, "encode.e5m2", DType::u8);
  const auto bf16 = values<uint16_t>(golden, "encode.bf16", DType::bf16);
  ASSERT_GT(x.size(), 1000u);
  ASSERT_EQ(e4m3.size(), x.size());
  ASSERT_EQ(e5m2.size(), x.size());
  ASSERT_EQ(bf16.size(), x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    if (std::isnan(x[i])) {
      EXPECT_EQ(f32_to_e4m3(x[i]) & 0x7f, 0x7f);
      EXPECT_GT(f32_to_e5m2(x[i]) & 0x7f, 0x7c);
      EXPECT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(x[i]))));
      continue;
    }
    EXPECT_EQ(f32_to_e4m3(x[i]), e4m3[i]) << "E4M3 of " << x[i];
    EXPECT_EQ(f32_to_e5m2(x[i]), e5m2[i]) << "E5M2 of " << x[i];
    EXPECT_EQ(f32_to_bf16(x[i]), bf16[i]) << "BF16 of " << x[i];
  }
}

// Decoding and encoding are inverse on every code that is a number.
TEST(NumberFormatCodes, RoundTrip) {
  for (int code = 0; code < 256; ++code) {
    const auto byte = static_cast<uint8_t>(code);
    if (!std::isnan(e4m3_to_f32(byte))) {
      EXPECT_EQ(f32_to_e4m3(e4m3_to_f32(byte)), byte);
    }
    if (std::isfinite(e5m2_to_f32(byte))) {
      EXPECT_EQ(f32_to_e5m2(e5m2_to_f32(byte)), byte);
    }
  }
  for (int code = 0; code < 65536; ++code) {
    const auto half = static_cast<uint16_t>(code);
    if (!std::isnan(bf16_to_f32(half))) {
      EXPECT_EQ(f32_to_bf16(bf16_to_f32(half)), half);
    }
    if (!std::isnan(f16_to_f32(half))) {
      EXPECT_EQ(f32_to_f16(f16_to_f32(half)), half);
    }
  }
}

/// The nearest code by looking at all of them: the distance must be least, and the even code wins a tie.
template <typename Code>
void expect_nearest(float x, Code found, int codes, float (*decode)(Code), float greatest) {
  const double target = std::fmin(std::fmax(x, -greatest), greatest);
  double best = INFINITY;
  for (int code = 0; code < codes; ++code) {
    const double value = decode(static_cast<Code>(code));
    if (std::isfinite(value)) best = std::min(best, std::fabs(value - target));
  }
  EXPECT_EQ(std::fabs(decode(found) - target), best) << x;
  if (std::fabs(decode(static_cast<Code>(found ^ 1)) - target) == best && decode(found) != target) {
    EXPECT_EQ(found & 1, 0) << "tie at " << x;
  }
}

TEST(NumberFormatCodes, NearestAgainstExhaustiveSearch) {
  uint32_t state = 1;
  for (int i = 0; i < 4000; ++i) {
    state = state * 1664525u + 1013904223u;
    const float mantissa = 1 + static_cast<float>(state >> 9) * 0x1p-23f;
    const float x = std::ldexp((state & 1) != 0 ? -mantissa : mantissa, static_cast<int>(state >> 3 & 31) - 19);
    expect_nearest<uint8_t>(x, f32_to_e4m3(x), 256, e4m3_to_f32, 448);
    expect_nearest<uint8_t>(x, f32_to_e5m2(x), 256, e5m2_to_f32, 57344);
  }
  // Midpoints of neighbouring codes are ties.
  for (int code = 0; code < 0x7e; ++code) {
    const float tie = (e4m3_to_f32(static_cast<uint8_t>(code)) + e4m3_to_f32(static_cast<uint8_t>(code + 1))) / 2;
    EXPECT_EQ(f32_to_e4m3(tie), code % 2 == 0 ? code : code + 1) << tie;
    EXPECT_EQ(f32_to_e4m3(-tie), 0x80 | (code % 2 == 0 ? code : code + 1)) << -tie;
  }
}

TEST(NumberFormatCodes, Edges) {
  EXPECT_EQ(f32_to_e4m3(INFINITY), 0x7e);
  EXPECT_EQ(f32_to_e4m3(-INFINITY), 0xfe);
  EXPECT_EQ(f32_to_e4m3(1e30f), 0x7e);
  EXPECT_EQ(f32_to_e4m3(-0.0f), 0x80);
  EXPECT_EQ(f32_to_e5m2(INFINITY), 0x7b);
  EXPECT_EQ(f32_to_bf16(3.4e38f), 0x7f80);  // above the greatest BF16 by more than half a step
  EXPECT_EQ(f32_to_bf16(-INFINITY), 0xff80);
  EXPECT_EQ(f32_to_f16(65519.0f), 0x7bff);
  EXPECT_EQ(f32_to_f16(65520.0f), 0x7c00);
  EXPECT_EQ(f32_to_f16(0x1p-24f), 1);
  EXPECT_EQ(f32_to_f16(0x1p-25f), 0);  // a tie between 0 and 1: even
}

TEST(NumberFormatCodes, E8m0AndPowersOfTwo) {
  EXPECT_EQ(e8m0_to_f32(127), 1.0f);
  EXPECT_EQ(e8m0_to_f32(0), 0x1p-127f);
  EXPECT_EQ(e8m0_to_f32(254), 0x1p127f);
  EXPECT_TRUE(std::isnan(e8m0_to_f32(255)));
  EXPECT_EQ(next_power_of_two(1.0f), 1.0f);
  EXPECT_EQ(next_power_of_two(1.0000001f), 2.0f);
  EXPECT_EQ(next_power_of_two(0.75f), 1.0f);
  EXPECT_EQ(next_power_of_two(0x1p-126f), 0x1p-126f);
  EXPECT_EQ(next_power_of_two(0x1.8p-130f), 0x1p-129f);
}

}  // namespace
}  // namespace fathom
