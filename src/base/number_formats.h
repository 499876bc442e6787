#pragma once
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace fathom {

// Conversions between float32 and the small formats: round to nearest, ties to even; subnormals kept; sign of zero
// kept.

inline float bf16_to_f32(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

/// Overflows to infinity; NaN stays NaN (quiet).
inline uint16_t f32_to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x0040u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

inline float round_to_bf16(float value) {
  return bf16_to_f32(f32_to_bf16(value));
}

inline float f16_to_f32(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t magnitude = bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return std::bit_cast<float>(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
  // Exponent field 0 to 30 rebased by an exact multiplication, which also normalises subnormals.
  const float rebased = std::bit_cast<float>(magnitude << 13) * 0x1p112f;
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(rebased));
}

/// E4M3FN (OCP 8-bit): bias 7, greatest 448, no infinities, NaN at 0x7f and 0xff.
inline float e4m3_to_f32(uint8_t code) {
  const uint32_t sign = static_cast<uint32_t>(code & 0x80u) << 24;
  const uint32_t magnitude = code & 0x7fu;
  if (magnitude == 0x7fu) return std::bit_cast<float>(sign | 0x7fc00000u);
  const float rebased = std::bit_cast<float>(magnitude << 20) * 0x1p120f;
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(rebased));
}

/// E5M2 (OCP 8-bit): bias 15, IEEE infinities and NaN.
inline float e5m2_to_f32(uint8_t code) {
  return f16_to_f32(static_cast<uint16_t>(code << 8));
}

/// E8M0: a power of two, 2^(code − 127); 0xff is NaN.
inline float e8m0_to_f32(uint8_t code) {
  if (code == 0xff) return std::bit_cast<float>(0x7fc00000u);
  return code == 0 ? 0x1p-127f : std::bit_cast<float>(static_cast<uint32_t>(code) << 23);
}

/// Saturates to ±448 (infinities too); NaN becomes 0x7f with the sign of the input.
inline uint8_t f32_to_e4m3(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint8_t>((bits >> 24) & 0x80u);
  const uint32_t magnitude_bits = bits & 0x7fffffffu;
  if (magnitude_bits > 0x7f800000u) return sign | 0x7f;
  const float magnitude = std::bit_cast<float>(magnitude_bits);
  if (magnitude >= 448.0f) return sign | 0x7e;
  if (magnitude < 0x1p-6f) {
    // Subnormal range: whole steps of 2^-9; 8 steps is the least normal number, whose code is 8 as well.
    return sign | static_cast<uint8_t>(std::nearbyint(magnitude * 0x1p9f));
  }
  const uint32_t rounded = magnitude_bits + 0x7ffffu + ((magnitude_bits >> 20) & 1u);
  const uint32_t code = (rounded >> 20) - (120u << 3);
  return sign | static_cast<uint8_t>(code > 0x7eu ? 0x7eu : code);
}

/// Saturates to ±57344 (infinities too); NaN becomes 0x7f with the sign of the input.
inline uint8_t f32_to_e5m2(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint8_t>((bits >> 24) & 0x80u);
  const uint32_t magnitude_bits = bits & 0x7fffffffu;
  if (magnitude_bits > 0x7f800000u) return sign | 0x7f;
  const float magnitude = std::bit_cast<float>(magnitude_bits);
  if (magnitude >= 57344.0f) return sign | 0x7b;
  if (magnitude < 0x1p-14f) return sign | static_cast<uint8_t>(std::nearbyint(magnitude * 0x1p16f));
  const uint32_t rounded = magnitude_bits + 0xfffffu + ((magnitude_bits >> 21) & 1u);
  const uint32_t code = (rounded >> 21) - (112u << 2);
  return sign | static_cast<uint8_t>(code > 0x7bu ? 0x7bu : code);
}

/// Overflows to infinity; NaN stays NaN.
inline uint16_t f32_to_f16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude_bits = bits & 0x7fffffffu;
  if (magnitude_bits > 0x7f800000u) return sign | 0x7e00;
  const float magnitude = std::bit_cast<float>(magnitude_bits);
  if (magnitude < 0x1p-14f) return sign | static_cast<uint16_t>(std::nearbyint(magnitude * 0x1p24f));
  const uint32_t rounded = magnitude_bits + 0xfffu + ((magnitude_bits >> 13) & 1u);
  const uint32_t code = (rounded >> 13) - (112u << 10);
  return sign | static_cast<uint16_t>(code > 0x7c00u ? 0x7c00u : code);
}

/// The least power of two that is not below `value` (> 0, finite), as the "ue8m0" scales of DeepSeek-V3.1 need:
/// 2^ceil(log2(value)), computed on the bits so that exact powers stay.
inline float next_power_of_two(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (bits < 0x00800000u) return std::exp2(std::ceil(std::log2(value)));
  const uint32_t exponent = (bits >> 23) + ((bits & 0x7fffffu) != 0 ? 1u : 0u);
  return std::bit_cast<float>(exponent << 23);
}

}  // namespace fathom
