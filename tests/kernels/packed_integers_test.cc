// Integers in words, as files hold them: the bytes, the way into panels, and the choice of scales.
#include "kernels/packed_integers.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "base/buffer.h"
#include "base/number_formats.h"
#include "support/integer_formats.h"
#include "support/isa_guard.h"
#include "support/isa_list.h"

namespace fathom {
namespace {

/// Quantised rows, as a file holds them.
struct Packed {
  IntegerFormat format;
  int64_t rows, cols;
  std::vector<std::byte> words;
  std::vector<uint16_t> scales;
  std::vector<uint8_t> zeros;
  std::vector<uint32_t> zero_words;
  QuantizationError error;

  Packed(const std::vector<float>& w, int64_t row_count, int64_t col_count, const IntegerFormat& integers,
         ScaleChoice choice, const float* importance = nullptr)
      : format(integers), rows(row_count), cols(col_count) {
    const int64_t groups = packed_groups(format, cols);
    words.resize(static_cast<size_t>(rows * packed_words(format, cols) * 4));
    scales.resize(static_cast<size_t>(rows * groups));
    zeros.resize(scales.size());
    error = quantize_rows(w.data(), rows, cols, importance, format, choice, words.data(), scales.data(), zeros.data());
    if (!format.zero_point) return;
    zero_words.resize(static_cast<size_t>(packed_zero_words(format, rows) * groups));
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t g = 0; g < groups; ++g) {
        const uint32_t zero = zeros[static_cast<size_t>(r * groups + g)];
        const int per_word = 32 / format.bits;
        zero_words[static_cast<size_t>(r / per_word * groups + g)] |= zero << (r % per_word * format.bits);
      }
    }
  }

  PackedRows view() const {
    return {words.data(), reinterpret_cast<const std::byte*>(scales.data()),
            reinterpret_cast<const std::byte*>(zero_words.data())};
  }
  std::vector<float> values() const {
    std::vector<float> out(static_cast<size_t>(rows * cols));
    unpack_packed_rows(view(), rows, cols, format, 0, out.data());
    return out;
  }
};

std::vector<float> random_weights(int64_t rows, int64_t cols) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0, 1);
  std::vector<float> w(static_cast<size_t>(rows * cols));
  for (size_t i = 0; i < w.size(); ++i) {
    w[i] = normal(random) * std::exp2(static_cast<float>(static_cast<int>(random() % 8)) - 10);
    if (i / 32 % 9 == 0) w[i] = 0;
    if (i / 32 % 9 == 1) w[i] = std::fabs(w[i]);
  }
  return w;
}

std::vector<uint8_t> bytes_of(const std::vector<std::byte>& bytes) {
  const auto* at = reinterpret_cast<const uint8_t*>(bytes.data());
  return {at, at + bytes.size()};
}

TEST(PackedIntegers, AreTheBytesThatTheFormatSays) {
  // The greatest magnitude is the greatest code, so the scale is 1. Code = number + 8, the first in the lowest bits.
  const Packed four({7, -7, 0, 1, 2, 3, -1, -2, 5}, 1, 9, {4, 128, false}, ScaleChoice::nearest);
  EXPECT_EQ(bytes_of(four.words), (std::vector<uint8_t>{0x1f, 0x98, 0xba, 0x67, 0x0d, 0, 0, 0}));
  EXPECT_EQ(four.scales, (std::vector<uint16_t>{0x3f80}));
  const Packed eight({127, -127, 0, 1, 64}, 1, 5, {8, 32, false}, ScaleChoice::nearest);
  EXPECT_EQ(bytes_of(eight.words), (std::vector<uint8_t>{0xff, 0x01, 0x80, 0x81, 0xc0, 0, 0, 0}));
  EXPECT_EQ(eight.scales, (std::vector<uint16_t>{0x3f80}));
  // With a zero point: 0 … 15 begins at code 0, −15 … 0 ends at code 15.
  const Packed shifted({0, 15, 3, -15, 0, -1}, 2, 3, {4, 32, true}, ScaleChoice::nearest);
  EXPECT_EQ(bytes_of(shifted.words), (std::vector<uint8_t>{0xf0, 0x03, 0, 0, 0xf0, 0x0e, 0, 0}));
  EXPECT_EQ(shifted.zeros, (std::vector<uint8_t>{0, 15}));
  EXPECT_EQ(shifted.values(), (std::vector<float>{0, 15, 3, -15, 0, -1}));
  EXPECT_EQ(shifted.error.error, 0);
}

// What `--weights int4` makes of a checkpoint and what comes out of a file of `quantize` are the same panels.
TEST(PackedIntegers, NearestBecomesThePanelsOfPackedWeights) {
  for (const Isa isa : isas_here()) {
    const IsaGuard guard(isa);
    for (const IntegerFormat& format : all_formats()) {
      for (const auto& [rows, cols] : {std::pair{int64_t{16}, int64_t{256}}, {37, 300}, {1, 5}, {20, 131}}) {
        SCOPED_TRACE(describe(format) + ", " + std::to_string(rows) + " x " + std::to_string(cols));
        const std::vector<float> w = random_weights(rows, cols);
        const Packed packed(w, rows, cols, format, ScaleChoice::nearest);
        const size_t size = integer_weight_bytes(format, rows, cols);
        Buffer expected;
        Buffer found;
        for (Buffer* buffer : {&expected, &found}) {
          buffer->reserve(size);
          std::memset(buffer->as<std::byte>(), 0x55, size);
        }
        pack_integer_rows(dense_weight(DType::f32, w.data(), rows, cols, cols), 0, rows, format,
                          expected.as<std::byte>());
        panels_of_packed_rows(packed.view(), rows, cols, format, found.as<std::byte>());
        ASSERT_EQ(std::memcmp(found.as<std::byte>(), expected.as<std::byte>(), size), 0);
        std::vector<float> values(w.size());
        unpack_integer_rows(integer_weight(format, found.as<std::byte>(), rows, cols), 0, rows, values.data());
        EXPECT_EQ(packed.values(), values);
      }
    }
  }
}

// The file's padding means nothing, whatever is in it; a part of a matrix may begin inside a word of zero points.
TEST(PackedIntegers, PaddingAndPartsMeanTheSame) {
  for (const IntegerFormat& format : all_formats()) {
    SCOPED_TRACE(describe(format));
    const int64_t rows = 16;
    const int64_t cols = 45;
    Packed packed(random_weights(rows, cols), rows, cols, format, ScaleChoice::nearest);
    const std::vector<float> values = packed.values();
    const size_t size = integer_weight_bytes(format, rows, cols);
    Buffer clean;
    Buffer dirty;
    for (Buffer* buffer : {&clean, &dirty}) buffer->reserve(size);
    panels_of_packed_rows(packed.view(), rows, cols, format, clean.as<std::byte>());
    const auto row_bytes = static_cast<size_t>(packed_words(format, cols) * 4);
    for (size_t r = 0; r < 16; ++r) packed.words[(r + 1) * row_bytes - 1] = std::byte{0xff};
    panels_of_packed_rows(packed.view(), rows, cols, format, dirty.as<std::byte>());
    EXPECT_EQ(std::memcmp(clean.as<std::byte>(), dirty.as<std::byte>(), size), 0);
    EXPECT_EQ(packed.values(), values);

    const int64_t first = 5;
    const int64_t groups = packed_groups(format, cols);
    const int64_t word = first / rows_per_zero_word(format);
    PackedRows part = packed.view();
    part.words += first * packed_words(format, cols) * 4;
    part.scales += first * groups * 2;
    if (format.zero_point) part.zeros += word * groups * 4;
    std::vector<float> some(static_cast<size_t>(3 * cols));
    unpack_packed_rows(part, 3, cols, format, first % rows_per_zero_word(format), some.data());
    EXPECT_TRUE(std::equal(some.begin(), some.end(), values.begin() + first * cols));
  }
}

double weighted_error(const std::vector<float>& w, const std::vector<float>& found,
                      const std::vector<float>& importance) {
  double sum = 0;
  for (size_t i = 0; i < w.size(); ++i) {
    const double difference = static_cast<double>(w[i]) - static_cast<double>(found[i]);
    sum += difference * difference * static_cast<double>(importance[i % importance.size()]);
  }
  return sum;
}

TEST(PackedIntegers, TheSearchIsNeverWorseAndReportsWhatItDid) {
  const int64_t rows = 35;
  const int64_t cols = 293;
  const std::vector<float> w = random_weights(rows, cols);
  std::vector<float> importance(static_cast<size_t>(cols));
  for (size_t k = 0; k < importance.size(); ++k) importance[k] = k % 7 == 0 ? 30.0f : 0.1f * static_cast<float>(k % 5);
  const std::vector<float> ones(importance.size(), 1);
  for (const IntegerFormat& format : all_formats()) {
    for (const bool weighted : {false, true}) {
      SCOPED_TRACE(describe(format) + (weighted ? ", weighted" : ""));
      const std::vector<float>& by = weighted ? importance : ones;
      const float* given = weighted ? by.data() : nullptr;
      const Packed nearest(w, rows, cols, format, ScaleChoice::nearest, given);
      const Packed search(w, rows, cols, format, ScaleChoice::search, given);
      // Row by row, so that one group that lost cannot hide behind another that won.
      for (int64_t r = 0; r < rows; ++r) {
        const auto row = [&](const std::vector<float>& all) {
          return std::vector<float>(all.begin() + r * cols, all.begin() + (r + 1) * cols);
        };
        EXPECT_LE(weighted_error(row(w), row(search.values()), by),
                  weighted_error(row(w), row(nearest.values()), by) * (1 + 1e-5));
      }
      const double found = weighted_error(w, search.values(), by);
      const double before = weighted_error(w, nearest.values(), by);
      // Four bits gain about a tenth of random weights' squared error, eight a hundredth.
      EXPECT_LT(found, before * (format.bits == 4 ? 0.97 : 0.9999));
      EXPECT_NEAR(search.error.weighted, found, 1e-4 * found);
      EXPECT_NEAR(search.error.nearest_weighted, before, 1e-4 * before);
      EXPECT_NEAR(search.error.error, weighted_error(w, search.values(), ones), 1e-4 * search.error.error);
      EXPECT_NEAR(search.error.squares, weighted_error(w, std::vector<float>(w.size()), ones),
                  1e-4 * search.error.squares);
      EXPECT_TRUE(search.error.finite);
    }
  }
}

TEST(PackedIntegers, EveryInstructionSetWritesTheSameBytes) {
  const int64_t rows = 18;
  const int64_t cols = 210;
  const std::vector<float> w = random_weights(rows, cols);
  const std::vector<float> importance = random_weights(1, cols);
  for (const IntegerFormat& format : all_formats()) {
    for (const float* given : {static_cast<const float*>(nullptr), importance.data()}) {
      SCOPED_TRACE(describe(format));
      const auto quantize = [&](Isa isa) {
        const IsaGuard guard(isa);
        return Packed(w, rows, cols, format, ScaleChoice::search, given);
      };
      const Packed expected = quantize(Isa::portable);
      for (const Isa isa : isas_here()) {
        const Packed found = quantize(isa);
        EXPECT_EQ(found.words, expected.words) << isa_name(isa);
        EXPECT_EQ(found.scales, expected.scales) << isa_name(isa);
        EXPECT_EQ(found.zeros, expected.zeros) << isa_name(isa);
        EXPECT_EQ(found.error.error, expected.error.error) << isa_name(isa);
      }
    }
  }
}

TEST(PackedIntegers, ExtremeNumbersAreNoHarm) {
  for (const IntegerFormat& format : all_formats()) {
    for (const float size : {1e-45f, 1e-38f, 1e20f, 3e38f}) {
      SCOPED_TRACE(describe(format) + " " + std::to_string(size));
      std::vector<float> w = {size, -size / 2, 0, size / 3};
      const Packed packed(w, 1, 4, format, ScaleChoice::search);
      EXPECT_TRUE(packed.error.finite);
      for (const float value : packed.values()) EXPECT_FALSE(std::isnan(value));
    }
    for (const float odd : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
      EXPECT_FALSE(Packed({1, 2, odd, 3}, 1, 4, format, ScaleChoice::search).error.finite);
      EXPECT_FALSE(Packed({1, 2, odd, 3}, 1, 4, format, ScaleChoice::nearest).error.finite);
    }
  }
}

}  // namespace
}  // namespace fathom
