#include "kernels/latent_page.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/number_formats.h"
#include "support/isa_guard.h"
#include "support/isa_list.h"
#include "support/random_values.h"

namespace fathom {
namespace {

TEST(LatentPage, TakesWhatItsTypeTakes) {
  EXPECT_EQ(latent_page_bytes(DType::f32, 576), 64u * 576 * 4);
  EXPECT_EQ(latent_page_bytes(DType::bf16, 576), 64u * 576 * 2);
  EXPECT_EQ(latent_page_bytes(DType::f8_e4m3, 576), 64u * (576 + 9));
  EXPECT_EQ(latent_page_bytes(DType::f8_e4m3, 96), 64u * (96 + 2));
}

// Each group of 64 values has the least power of two under which its greatest one is at most 448; the value that comes
// back is the nearest that E4M3 has, which is off by 2^-4 of itself or by half of the least step, 2^-10 of the scale.
TEST(LatentPage, Fp8KeepsEveryGroupToItsScale) {
  for (Isa isa : isas_here()) {
    const IsaGuard guard(isa);
    for (int64_t width : {576, 96, 40, 64, 1100}) {
      SCOPED_TRACE(width);
      std::vector<std::byte> page(latent_page_bytes(DType::f8_e4m3, width), std::byte{0x7f});
      std::vector<std::vector<float>> rows;
      for (int64_t row = 0; row < kPagePositions; ++row) {
        rows.push_back(random_values(width, static_cast<uint32_t>(row)));
        for (int64_t k = 0; k < width; ++k)
          rows.back()[static_cast<size_t>(k)] *= std::exp2f(static_cast<float>(k / 64 * 5 - 20));
        store_latent(DType::f8_e4m3, page.data(), row, width, rows.back().data());
      }
      std::vector<uint16_t> expanded(static_cast<size_t>(kPagePositions * width));
      expand_fp8_latents(page.data(), kPagePositions, width, expanded.data());
      std::vector<float> back(static_cast<size_t>(width));
      for (int64_t row = 0; row < kPagePositions; ++row) {
        load_latent(DType::f8_e4m3, page.data(), row, width, back.data());
        const std::vector<float>& values = rows[static_cast<size_t>(row)];
        for (int64_t begin = 0; begin < width; begin += kLatentGroup) {
          const auto end = std::min(width, begin + kLatentGroup);
          float greatest = 1e-4f;
          for (int64_t k = begin; k < end; ++k) greatest = std::max(greatest, std::abs(values[static_cast<size_t>(k)]));
          const float scale = std::exp2(std::ceil(std::log2(greatest / 448)));
          for (int64_t k = begin; k < end; ++k) {
            const auto i = static_cast<size_t>(k);
            ASSERT_EQ(back[i], scale * e4m3_to_f32(f32_to_e4m3(values[i] / scale))) << "row " << row << " value " << k;
            ASSERT_NEAR(back[i], values[i], std::max(std::abs(values[i]) * 0x1p-4f, scale * 0x1p-10f));
            ASSERT_EQ(bf16_to_f32(expanded[static_cast<size_t>(row * width + k)]), back[i]);
          }
        }
      }
    }
  }
}

TEST(LatentPage, OtherTypesKeepTheirRows) {
  const std::vector<float> values = random_values(40, 1);
  std::vector<float> back(40);
  for (DType dtype : {DType::f32, DType::bf16}) {
    std::vector<std::byte> page(latent_page_bytes(dtype, 40));
    store_latent(dtype, page.data(), 63, 40, values.data());
    load_latent(dtype, page.data(), 63, 40, back.data());
    for (size_t k = 0; k < 40; ++k) EXPECT_EQ(back[k], dtype == DType::f32 ? values[k] : round_to_bf16(values[k]));
  }
}

// A broken number must be seen in the logits, not become a number again.
TEST(LatentPage, WhatIsNoNumberStaysNone) {
  for (float broken : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    std::vector<float> values(64, 1.0f), back(64);
    values[7] = broken;
    std::vector<std::byte> page(latent_page_bytes(DType::f8_e4m3, 64));
    store_latent(DType::f8_e4m3, page.data(), 0, 64, values.data());
    load_latent(DType::f8_e4m3, page.data(), 0, 64, back.data());
    EXPECT_TRUE(std::isnan(back[7]));
  }
}

}  // namespace
}  // namespace fathom
