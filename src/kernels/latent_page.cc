#include "kernels/latent_page.h"

#include <bit>
#include <cstring>

#include "kernels/norm.h"
#include "kernels/quantize.h"

namespace fathom {
namespace {

// Scales of a position that are handled at once; wider latents take several rounds.
constexpr int64_t kScales = 16;
constexpr int64_t kRound = kScales * kLatentGroup;

int64_t groups_of(int64_t width) {
  return (width + kLatentGroup - 1) / kLatentGroup;
}

// Scales are positive powers of two, whose bits are those of the exponent alone; NaN becomes 255, which is NaN again.
std::byte exponent_of(float scale) {
  return static_cast<std::byte>(std::bit_cast<uint32_t>(scale) >> 23);
}

float scale_of(std::byte exponent) {
  return exponent == std::byte{255} ? std::bit_cast<float>(0x7fc00000u)
                                    : std::bit_cast<float>(static_cast<uint32_t>(exponent) << 23);
}

}  // namespace

size_t latent_page_bytes(DType dtype, int64_t width) {
  const auto values = static_cast<size_t>(kPagePositions * width);
  return dtype == DType::f8_e4m3 ? values + static_cast<size_t>(kPagePositions * groups_of(width))
                                 : values * dtype_bytes(dtype);
}

void store_latent(DType dtype, std::byte* page, int64_t row, int64_t width, const float* values) {
  if (dtype == DType::f32) {
    std::memcpy(page + static_cast<size_t>(row * width) * sizeof(float), values,
                static_cast<size_t>(width) * sizeof(float));
    return;
  }
  if (dtype == DType::bf16) {
    convert_f32_to_bf16(values, width, reinterpret_cast<uint16_t*>(page) + row * width);
    return;
  }
  auto* codes = reinterpret_cast<uint8_t*>(page) + row * width;
  std::byte* exponents = page + kPagePositions * width + row * groups_of(width);
  for (int64_t begin = 0; begin < width; begin += kRound) {
    const int64_t n = std::min(kRound, width - begin);
    float scales[kScales];
    quantize_weight(values + begin, 1, n, 1, kLatentGroup, true, codes + begin, scales);
    for (int64_t g = 0; g < groups_of(n); ++g) *exponents++ = exponent_of(scales[g]);
  }
}

void load_latent(DType dtype, const std::byte* page, int64_t row, int64_t width, float* values) {
  if (dtype == DType::f32) {
    std::memcpy(values, page + static_cast<size_t>(row * width) * sizeof(float),
                static_cast<size_t>(width) * sizeof(float));
    return;
  }
  if (dtype == DType::bf16) {
    convert_bf16_to_f32(reinterpret_cast<const uint16_t*>(page) + row * width, width, values);
    return;
  }
  const auto* codes = reinterpret_cast<const uint8_t*>(page) + row * width;
  const std::byte* exponents = page + kPagePositions * width + row * groups_of(width);
  for (int64_t begin = 0; begin < width; begin += kLatentGroup, ++exponents) {
    const int64_t n = std::min(kLatentGroup, width - begin);
    const float scale = scale_of(*exponents);
    uint16_t exact[kLatentGroup];
    dequantize_weight_bf16(codes + begin, &scale, 1, n, 1, n, exact);
    convert_bf16_to_f32(exact, n, values + begin);
  }
}

void expand_fp8_latents(const std::byte* page, int64_t rows, int64_t width, uint16_t* out) {
  const auto* codes = reinterpret_cast<const uint8_t*>(page);
  const std::byte* exponents = page + kPagePositions * width;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t begin = 0; begin < width; begin += kRound) {
      const int64_t n = std::min(kRound, width - begin);
      float scales[kScales];
      for (int64_t g = 0; g < groups_of(n); ++g) scales[g] = scale_of(*exponents++);
      dequantize_weight_bf16(codes + row * width + begin, scales, 1, n, 1, kLatentGroup, out + row * width + begin);
    }
  }
}

}  // namespace fathom
