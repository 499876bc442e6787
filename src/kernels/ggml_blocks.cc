#include "kernels/ggml_blocks.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "base/number_formats.h"

namespace fathom {
namespace {

struct TypeRow {
  GgmlType type;
  std::string_view name;
  int64_t values;
  int64_t bytes;
};
constexpr std::array kTypes = {
    TypeRow{GgmlType::f32, "f32", 1, 4},         TypeRow{GgmlType::f16, "f16", 1, 2},
    TypeRow{GgmlType::q4_0, "q4_0", 32, 18},     TypeRow{GgmlType::q4_1, "q4_1", 32, 20},
    TypeRow{GgmlType::q5_0, "q5_0", 32, 22},     TypeRow{GgmlType::q5_1, "q5_1", 32, 24},
    TypeRow{GgmlType::q8_0, "q8_0", 32, 34},     TypeRow{GgmlType::q2_k, "q2_k", 256, 84},
    TypeRow{GgmlType::q3_k, "q3_k", 256, 110},   TypeRow{GgmlType::q4_k, "q4_k", 256, 144},
    TypeRow{GgmlType::q5_k, "q5_k", 256, 176},   TypeRow{GgmlType::q6_k, "q6_k", 256, 210},
    TypeRow{GgmlType::iq4_nl, "iq4_nl", 32, 18}, TypeRow{GgmlType::iq4_xs, "iq4_xs", 256, 136},
    TypeRow{GgmlType::bf16, "bf16", 1, 2},
};

/// Types of files that exist and that are not read here: for sentences.
struct OtherType {
  uint32_t number;
  std::string_view name;
};
constexpr std::array kOtherTypes = {
    OtherType{9, "q8_1"},     OtherType{15, "q8_k"},  OtherType{16, "iq2_xxs"}, OtherType{17, "iq2_xs"},
    OtherType{18, "iq3_xxs"}, OtherType{19, "iq1_s"}, OtherType{21, "iq3_s"},   OtherType{22, "iq2_s"},
    OtherType{24, "i8"},      OtherType{25, "i16"},   OtherType{26, "i32"},     OtherType{27, "i64"},
    OtherType{28, "f64"},     OtherType{29, "iq1_m"}, OtherType{34, "tq1_0"},   OtherType{35, "tq2_0"},
    OtherType{39, "mxfp4"},
};

const TypeRow& row_of(GgmlType type) {
  return *std::find_if(kTypes.begin(), kTypes.end(), [&](const TypeRow& row) { return row.type == type; });
}

/// The 16 values of the non-linear 4-bit types.
constexpr std::array<int, 16> kIq4Values = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

// ---- Reading blocks. Files are little-endian, as the machines we run on. ----

uint8_t u8(const std::byte* at) {
  return static_cast<uint8_t>(*at);
}
uint16_t u16(const std::byte* at) {
  uint16_t value;
  std::memcpy(&value, at, sizeof value);
  return value;
}
uint32_t u32(const std::byte* at) {
  uint32_t value;
  std::memcpy(&value, at, sizeof value);
  return value;
}
float half(const std::byte* at) {
  return f16_to_f32(u16(at));
}
void put_u16(std::byte* at, uint16_t value) {
  std::memcpy(at, &value, sizeof value);
}
std::byte to_byte(int value) {
  return static_cast<std::byte>(static_cast<uint8_t>(value));
}

// The types of 32 values: value j is in the low half of byte j, value j + 16 in the high half.

void read_q4_0(const std::byte* block, float* to) {
  const float d = half(block);
  for (int j = 0; j < 16; ++j) {
    const int codes = u8(block + 2 + j);
    to[j] = static_cast<float>((codes & 15) - 8) * d;
    to[j + 16] = static_cast<float>((codes >> 4) - 8) * d;
  }
}

void read_q4_1(const std::byte* block, float* to) {
  const float d = half(block), m = half(block + 2);
  for (int j = 0; j < 16; ++j) {
    const int codes = u8(block + 4 + j);
    to[j] = static_cast<float>(codes & 15) * d + m;
    to[j + 16] = static_cast<float>(codes >> 4) * d + m;
  }
}

/// Code j of the 5-bit types; bit j of `high` is its fifth.
int five_bits(const std::byte* low, uint32_t high, int j) {
  const int codes = u8(low + j % 16);
  return (j < 16 ? codes & 15 : codes >> 4) | static_cast<int>(high >> j & 1) << 4;
}

void read_q5_0(const std::byte* block, float* to) {
  const float d = half(block);
  const uint32_t high = u32(block + 2);
  for (int j = 0; j < 32; ++j) to[j] = static_cast<float>(five_bits(block + 6, high, j) - 16) * d;
}

void read_q5_1(const std::byte* block, float* to) {
  const float d = half(block), m = half(block + 2);
  const uint32_t high = u32(block + 4);
  for (int j = 0; j < 32; ++j) to[j] = static_cast<float>(five_bits(block + 8, high, j)) * d + m;
}

void read_q8_0(const std::byte* block, float* to) {
  const float d = half(block);
  for (int j = 0; j < 32; ++j) to[j] = static_cast<float>(static_cast<int8_t>(u8(block + 2 + j))) * d;
}

void read_iq4_nl(const std::byte* block, float* to) {
  const float d = half(block);
  for (size_t j = 0; j < 16; ++j) {
    const unsigned codes = u8(block + 2 + j);
    to[j] = d * static_cast<float>(kIq4Values[codes & 15]);
    to[j + 16] = d * static_cast<float>(kIq4Values[codes >> 4]);
  }
}

// The types of 256 values. Codes of 2 bits: 128 values share 32 bytes, value 32 s + l of them in bits 2 s of byte l.
// Codes of 4 bits: 64 values share 32 bytes, the first 32 in the low halves.

void read_q2_k(const std::byte* block, float* to) {
  const std::byte* scales = block;
  const std::byte* codes = block + 16;
  const float d = half(block + 80), dmin = half(block + 82);
  for (int i = 0; i < 256; ++i) {
    const int scale = u8(scales + i / 16);
    const int code = u8(codes + i / 128 * 32 + i % 32) >> (i % 128 / 32 * 2) & 3;
    to[i] = d * static_cast<float>(scale & 15) * static_cast<float>(code) - dmin * static_cast<float>(scale >> 4);
  }
}

void read_q3_k(const std::byte* block, float* to) {
  const std::byte* high = block;  // bit i / 32 of byte i % 32: the code does not get 4 subtracted
  const std::byte* codes = block + 32;
  const std::byte* scales = block + 96;
  const float d = half(block + 108);
  // 16 scales of 6 bits: four low bits in the halves of 8 bytes, two high bits in 4 bytes.
  std::array<float, 16> scale;
  for (int j = 0; j < 16; ++j) {
    const int low = j < 8 ? u8(scales + j) & 15 : u8(scales + j - 8) >> 4;
    const int top = u8(scales + 8 + j % 4) >> (j / 4 * 2) & 3;
    scale[static_cast<size_t>(j)] = d * static_cast<float>((low | top << 4) - 32);
  }
  for (int i = 0; i < 256; ++i) {
    const int code = u8(codes + i / 128 * 32 + i % 32) >> (i % 128 / 32 * 2) & 3;
    const bool has_high = (u8(high + i % 32) >> (i / 32) & 1) != 0;
    to[i] = scale[static_cast<size_t>(i / 16)] * static_cast<float>(code - (has_high ? 0 : 4));
  }
}

/// Scale and minimum j of 8, six bits each, in the 12 bytes of q4_k and q5_k: four of each in the low six bits of bytes
/// 0 to 7; of the others the low halves in bytes 8 to 11 and the top two bits above those of the first four.
struct ScaleAndMin {
  int scale, min;
};
ScaleAndMin scale_and_min(const std::byte* packed, int j) {
  if (j < 4) return {u8(packed + j) & 63, u8(packed + j + 4) & 63};
  const int low = u8(packed + j + 4);
  return {(low & 15) | u8(packed + j - 4) >> 6 << 4, low >> 4 | u8(packed + j) >> 6 << 4};
}
void pack_scales_and_mins(const std::array<int, 8>& scales, const std::array<int, 8>& mins, std::byte* packed) {
  for (size_t j = 0; j < 4; ++j) {
    packed[j] = to_byte(scales[j] | (scales[j + 4] >> 4) << 6);
    packed[j + 4] = to_byte(mins[j] | (mins[j + 4] >> 4) << 6);
    packed[j + 8] = to_byte((scales[j + 4] & 15) | (mins[j + 4] & 15) << 4);
  }
}

void read_q4_k(const std::byte* block, float* to) {
  const float d = half(block), dmin = half(block + 2);
  for (int i = 0; i < 256; i += 32) {
    const ScaleAndMin packed = scale_and_min(block + 4, i / 32);
    const float scale = d * static_cast<float>(packed.scale), min = dmin * static_cast<float>(packed.min);
    for (int l = 0; l < 32; ++l) {
      const int code = u8(block + 16 + i / 64 * 32 + l) >> (i / 32 % 2 * 4) & 15;
      to[i + l] = scale * static_cast<float>(code) - min;
    }
  }
}

void read_q5_k(const std::byte* block, float* to) {
  const float d = half(block), dmin = half(block + 2);
  for (int i = 0; i < 256; i += 32) {
    const ScaleAndMin packed = scale_and_min(block + 4, i / 32);
    const float scale = d * static_cast<float>(packed.scale), min = dmin * static_cast<float>(packed.min);
    for (int l = 0; l < 32; ++l) {
      const int low = u8(block + 48 + i / 64 * 32 + l) >> (i / 32 % 2 * 4) & 15;
      const int top = u8(block + 16 + l) >> (i / 32) & 1;
      to[i + l] = scale * static_cast<float>(low | top << 4) - min;
    }
  }
}

/// Place of value i of a q6_k block: 128 values share 64 bytes of low halves and 32 bytes of top bits.
struct Q6Place {
  int low_byte, low_shift, top_byte, top_shift;
};
Q6Place q6_place(int i) {
  const int half_block = i / 128, in_half = i % 128;
  return {half_block * 64 + in_half % 64, in_half / 64 * 4, half_block * 32 + in_half % 32, in_half / 32 * 2};
}

void read_q6_k(const std::byte* block, float* to) {
  const float d = half(block + 208);
  for (int i = 0; i < 256; ++i) {
    const Q6Place place = q6_place(i);
    const int low = u8(block + place.low_byte) >> place.low_shift & 15;
    const int top = u8(block + 128 + place.top_byte) >> place.top_shift & 3;
    const auto scale = static_cast<int8_t>(u8(block + 192 + i / 16));
    to[i] = d * static_cast<float>(scale) * static_cast<float>((low | top << 4) - 32);
  }
}

void read_iq4_xs(const std::byte* block, float* to) {
  const float d = half(block);
  const unsigned scales_high = u16(block + 2);
  for (int i = 0; i < 256; i += 32) {
    const int j = i / 32;
    const int low = u8(block + 4 + j / 2) >> (j % 2 * 4) & 15;
    const int top = static_cast<int>(scales_high >> (2 * j) & 3);
    const float scale = d * static_cast<float>((low | top << 4) - 32);
    for (int l = 0; l < 16; ++l) {
      const unsigned codes = u8(block + 8 + i / 2 + l);
      to[i + l] = scale * static_cast<float>(kIq4Values[codes & 15]);
      to[i + l + 16] = scale * static_cast<float>(kIq4Values[codes >> 4]);
    }
  }
}

// ---- Writing blocks ----

/// Below this a group is all zero: a float16 scale of it would be, and its inverse might be infinite.
constexpr float kLeastGroup = 1e-15f;

float inverse_of(float scale) {
  return std::fabs(scale) > kLeastGroup ? 1.0f / scale : 0.0f;
}

/// The value that is greatest by size, with its sign; the first of equals.
float greatest(const float* x, int count) {
  float found = 0;
  for (int i = 0; i < count; ++i) {
    if (std::fabs(x[i]) > std::fabs(found)) found = x[i];
  }
  return found;
}

void write_q8_0(const float* x, std::byte* block) {
  const float d = std::fabs(greatest(x, 32)) / 127.0f;
  const float inverse = inverse_of(d);
  put_u16(block, f32_to_f16(d));
  for (int j = 0; j < 32; ++j) {
    const float scaled = x[j] * inverse;
    block[2 + j] = to_byte(static_cast<int>(scaled + (scaled < 0 ? -0.5f : 0.5f)));  // ties away from zero
  }
}

/// The greatest value becomes the code 0, −`offset` steps; the others round to nearest, and at most `greatest_code`.
float symmetric_scale(const float* x, int offset) {
  return greatest(x, 32) / static_cast<float>(-offset);
}
int symmetric_code(float x, float inverse, int offset, int greatest_code) {
  return std::clamp(static_cast<int>(x * inverse + static_cast<float>(offset) + 0.5f), 0, greatest_code);
}

void write_q4_0(const float* x, std::byte* block) {
  const float d = symmetric_scale(x, 8);
  const float inverse = inverse_of(d);
  put_u16(block, f32_to_f16(d));
  for (int j = 0; j < 16; ++j) {
    block[2 + j] = to_byte(symmetric_code(x[j], inverse, 8, 15) | symmetric_code(x[j + 16], inverse, 8, 15) << 4);
  }
}

void write_q5_0(const float* x, std::byte* block) {
  const float d = symmetric_scale(x, 16);
  const float inverse = inverse_of(d);
  put_u16(block, f32_to_f16(d));
  uint32_t high = 0;
  for (int j = 0; j < 16; ++j) {
    const int first = symmetric_code(x[j], inverse, 16, 31), second = symmetric_code(x[j + 16], inverse, 16, 31);
    block[6 + j] = to_byte((first & 15) | (second & 15) << 4);
    high |= static_cast<uint32_t>(first >> 4) << j | static_cast<uint32_t>(second >> 4) << (j + 16);
  }
  std::memcpy(block + 2, &high, sizeof high);
}

constexpr float kNoFraction = 12582912.0f;  // 1.5 · 2²³

/// To nearest, ties to even, for |value| < 2²²: the sum has no bits for a fraction. nearbyint is a call on plain
/// x86-64.
float rounded(float value) {
  return (value + kNoFraction) - kNoFraction;
}
int nearest(float value) {
  return static_cast<int>(rounded(value));
}

/// Four numbers that one instruction takes at once, of every x86-64.
using Four = float __attribute__((vector_size(16)));
Four load(const float* from) {
  Four four;
  std::memcpy(&four, from, sizeof four);
  return four;
}
Four four_of(float value) {
  return Four{value, value, value, value};
}
/// `rounded`, then into [low, high].
Four rounded_into(Four value, float low, float high) {
  const Four no_fraction = four_of(kNoFraction);
  value = (value + no_fraction) - no_fraction;
  value = value > four_of(low) ? value : four_of(low);
  return value < four_of(high) ? value : four_of(high);
}
float sum(Four four) {
  return (four[0] + four[1]) + (four[2] + four[3]);
}

/// x ≈ scale · code − min with codes 0 to 15 and min ≥ 0, for 32 values.
struct Affine {
  float scale = 0, min = 0;
};
Affine fit_affine(const float* x) {
  constexpr int kCount = 32;
  constexpr int kGreatest = 15;
  float squares = 0;
  for (int i = 0; i < kCount; ++i) squares += x[i] * x[i];
  const float rms = std::sqrt(squares / kCount);
  std::array<float, kCount> weight;
  float low = x[0], high = x[0], sum_w = 0, sum_x = 0;
  for (int i = 0; i < kCount; ++i) {
    const float w = weight[static_cast<size_t>(i)] = rms + std::fabs(x[i]);
    sum_w += w;
    sum_x += w * x[i];
    low = std::min(low, x[i]);
    high = std::max(high, x[i]);
  }
  low = std::min(low, 0.0f);
  if (high - low < kLeastGroup) return {0, -low};

  constexpr size_t kFours = kCount / 4;
  std::array<Four, kFours> values, weights, codes;
  for (size_t i = 0; i < kFours; ++i) {
    values[i] = load(x + 4 * i);
    weights[i] = load(weight.data() + 4 * i);
  }
  const auto choose_codes = [&](float inverse) {
    for (size_t i = 0; i < kFours; ++i) {
      codes[i] = rounded_into(four_of(inverse) * (values[i] - four_of(low)), 0, kGreatest);
    }
  };
  const auto error_of = [&](float scale, float offset) {
    Four error{};
    for (size_t i = 0; i < kFours; ++i) {
      const Four off = four_of(scale) * codes[i] + four_of(offset) - values[i];
      error += weights[i] * off * off;
    }
    return sum(error);
  };
  float inverse = kGreatest / (high - low);
  choose_codes(inverse);
  float best_scale = 1 / inverse;
  float best_error = error_of(best_scale, low);
  // First guesses: the range divided into 14 to 16 steps. Codes follow from the guess, scale and offset from the codes.
  // A better offset is where the range of later guesses begins.
  for (int guess = 0; guess <= 20; ++guess) {
    inverse = (-1.0f + 0.1f * static_cast<float>(guess) + kGreatest) / (high - low);
    choose_codes(inverse);
    Four fours_l{}, fours_ll{}, fours_xl{};
    for (size_t i = 0; i < kFours; ++i) {
      const Four weighted = weights[i] * codes[i];
      fours_l += weighted;
      fours_ll += weighted * codes[i];
      fours_xl += weighted * values[i];
    }
    const float sum_l = sum(fours_l), sum_ll = sum(fours_ll), sum_xl = sum(fours_xl);
    const float determinant = sum_w * sum_ll - sum_l * sum_l;
    if (!(determinant > 0)) continue;
    float scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
    float offset = (sum_ll * sum_x - sum_l * sum_xl) / determinant;
    if (offset > 0) {
      offset = 0;
      scale = sum_xl / sum_ll;
    }
    const float error = error_of(scale, offset);
    if (error < best_error) {
      best_error = error;
      best_scale = scale;
      low = offset;
    }
  }
  return {best_scale, -low};
}

void write_q4_k(const float* x, std::byte* block) {
  std::array<Affine, 8> groups;
  float greatest_scale = 0, greatest_min = 0;
  for (size_t j = 0; j < 8; ++j) {
    groups[j] = fit_affine(x + 32 * j);
    greatest_scale = std::max(greatest_scale, groups[j].scale);
    greatest_min = std::max(greatest_min, groups[j].min);
  }
  const float inverse_scale = greatest_scale > kLeastGroup ? 63.0f / greatest_scale : 0.0f;
  const float inverse_min = greatest_min > kLeastGroup ? 63.0f / greatest_min : 0.0f;
  std::array<int, 8> scales, mins;
  for (size_t j = 0; j < 8; ++j) {
    scales[j] = std::clamp(nearest(inverse_scale * groups[j].scale), 0, 63);
    mins[j] = std::clamp(nearest(inverse_min * groups[j].min), 0, 63);
  }
  put_u16(block, f32_to_f16(greatest_scale / 63.0f));
  put_u16(block + 2, f32_to_f16(greatest_min / 63.0f));
  pack_scales_and_mins(scales, mins, block + 4);
  // Codes once more, for the scales as they are stored.
  const float d = half(block), dmin = half(block + 2);
  std::memset(block + 16, 0, 128);
  for (int i = 0; i < 256; i += 32) {
    const float scale = d * static_cast<float>(scales[static_cast<size_t>(i / 32)]);
    const float min = dmin * static_cast<float>(mins[static_cast<size_t>(i / 32)]);
    if (scale == 0) continue;
    for (int l = 0; l < 32; ++l) {
      const int code = nearest(std::clamp((x[i + l] + min) / scale, 0.0f, 15.0f));
      block[16 + i / 64 * 32 + l] |= to_byte(code << (i / 32 % 2 * 4));
    }
  }
}

/// x ≈ scale · code with codes −32 to 31, for 16 values; the scale has the sign that gives the greatest value −32.
float fit_linear(const float* x) {
  constexpr int kCount = 16;
  constexpr int kSteps = 32;
  const float top = greatest(x, kCount);
  if (std::fabs(top) < kLeastGroup) return 0;
  float best_scale = 0, best_gain = 0;
  // The scale that fits given codes best removes gain = (Σ w x l)² / Σ w l² from the error; w = x².
  for (int guess = -10; guess <= 9; ++guess) {
    if (guess == 0) continue;
    const float steps = guess == -10 ? kSteps : kSteps + 0.1f * static_cast<float>(guess);  // plain 32 first
    const float inverse = -steps / top;
    Four fours_xl{}, fours_ll{};
    for (int i = 0; i < kCount; i += 4) {
      const Four value = load(x + i);
      const Four l = rounded_into(four_of(inverse) * value, -kSteps, kSteps - 1);
      const Four weighted = value * value * l;
      fours_xl += weighted * value;
      fours_ll += weighted * l;
    }
    const float sum_xl = sum(fours_xl), sum_ll = sum(fours_ll);
    if (sum_ll > 0 && (guess == -10 || sum_xl * sum_xl > best_gain * sum_ll)) {
      best_scale = sum_xl / sum_ll;
      best_gain = best_scale * sum_xl;
    }
  }
  return best_scale;
}

void write_q6_k(const float* x, std::byte* block) {
  std::memset(block, 0, 210);
  std::array<float, 16> scales;
  for (size_t j = 0; j < 16; ++j) scales[j] = fit_linear(x + 16 * j);
  const float top = greatest(scales.data(), 16);
  if (std::fabs(top) < kLeastGroup) return;
  const float inverse = -128.0f / top;
  put_u16(block + 208, f32_to_f16(1 / inverse));
  for (size_t j = 0; j < 16; ++j) block[192 + j] = to_byte(std::min(127, nearest(inverse * scales[j])));
  const float d = half(block + 208);
  for (int i = 0; i < 256; ++i) {
    const float scale = d * static_cast<float>(static_cast<int8_t>(u8(block + 192 + i / 16)));
    const int stored = (scale != 0 ? nearest(std::clamp(x[i] / scale, -32.0f, 31.0f)) : 0) + 32;
    const Q6Place place = q6_place(i);
    block[place.low_byte] |= to_byte((stored & 15) << place.low_shift);
    block[128 + place.top_byte] |= to_byte(stored >> 4 << place.top_shift);
  }
}

using ReadBlock = void (*)(const std::byte* block, float* to);
using WriteBlock = void (*)(const float* x, std::byte* block);

ReadBlock reader_of(GgmlType type) {
  switch (type) {
    case GgmlType::q4_0:
      return read_q4_0;
    case GgmlType::q4_1:
      return read_q4_1;
    case GgmlType::q5_0:
      return read_q5_0;
    case GgmlType::q5_1:
      return read_q5_1;
    case GgmlType::q8_0:
      return read_q8_0;
    case GgmlType::q2_k:
      return read_q2_k;
    case GgmlType::q3_k:
      return read_q3_k;
    case GgmlType::q4_k:
      return read_q4_k;
    case GgmlType::q5_k:
      return read_q5_k;
    case GgmlType::q6_k:
      return read_q6_k;
    case GgmlType::iq4_nl:
      return read_iq4_nl;
    case GgmlType::iq4_xs:
      return read_iq4_xs;
    case GgmlType::f32:
    case GgmlType::f16:
    case GgmlType::bf16:
      break;
  }
  return nullptr;
}

WriteBlock writer_of(GgmlType type) {
  switch (type) {
    case GgmlType::q4_0:
      return write_q4_0;
    case GgmlType::q5_0:
      return write_q5_0;
    case GgmlType::q8_0:
      return write_q8_0;
    case GgmlType::q4_k:
      return write_q4_k;
    case GgmlType::q6_k:
      return write_q6_k;
    default:
      return nullptr;
  }
}

bool is_plain(GgmlType type) {
  return type == GgmlType::f32 || type == GgmlType::f16 || type == GgmlType::bf16;
}

}  // namespace

std::optional<GgmlType> ggml_type_from_number(uint32_t number) {
  for (const TypeRow& row : kTypes) {
    if (static_cast<uint32_t>(row.type) == number) return row.type;
  }
  return std::nullopt;
}

std::string ggml_type_name(uint32_t number) {
  if (const auto type = ggml_type_from_number(number)) return std::string(row_of(*type).name);
  for (const OtherType& other : kOtherTypes) {
    if (other.number == number) return std::string(other.name);
  }
  return fmt::format("type {}", number);
}

int64_t ggml_block_values(GgmlType type) {
  return row_of(type).values;
}

int64_t ggml_block_bytes(GgmlType type) {
  return row_of(type).bytes;
}

void ggml_dequantize(GgmlType type, const std::byte* from, int64_t values, float* to) {
  if (type == GgmlType::f32) {
    std::memcpy(to, from, static_cast<size_t>(values) * sizeof(float));
    return;
  }
  if (is_plain(type)) {
    for (int64_t i = 0; i < values; ++i) {
      to[i] = type == GgmlType::f16 ? f16_to_f32(u16(from + 2 * i)) : bf16_to_f32(u16(from + 2 * i));
    }
    return;
  }
  const ReadBlock read = reader_of(type);
  const int64_t block_values = ggml_block_values(type), block_bytes = ggml_block_bytes(type);
  for (int64_t i = 0; i < values; i += block_values, from += block_bytes) read(from, to + i);
}

bool ggml_can_quantize(GgmlType type) {
  return is_plain(type) || writer_of(type) != nullptr;
}

void ggml_quantize(GgmlType type, const float* from, int64_t values, std::byte* to) {
  if (type == GgmlType::f32) {
    std::memcpy(to, from, static_cast<size_t>(values) * sizeof(float));
    return;
  }
  if (is_plain(type)) {
    for (int64_t i = 0; i < values; ++i) {
      put_u16(to + 2 * i, type == GgmlType::f16 ? f32_to_f16(from[i]) : f32_to_bf16(from[i]));
    }
    return;
  }
  const WriteBlock write = writer_of(type);
  const int64_t block_values = ggml_block_values(type), block_bytes = ggml_block_bytes(type);
  for (int64_t i = 0; i < values; i += block_values, to += block_bytes) write(from + i, to);
}

}  // namespace fathom
