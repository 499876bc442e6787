// Weights in integers: what packing keeps, where the panels end, and that every instruction set writes the same bytes.
#include "kernels/integer_weight.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "base/buffer.h"
#include "base/number_formats.h"
#include "kernels/quantize.h"
#include "support/integer_formats.h"
#include "support/isa_guard.h"
#include "support/isa_list.h"

namespace fathom {
namespace {

// A float weight in some storage with the values that it stands for; magnitudes differ from column to column, some
// groups are all zero, positive or negative.
struct FloatWeight {
  Weight weight;
  std::vector<std::byte> bytes;
  std::vector<float> scales;
  std::vector<float> values;
};

FloatWeight make_weight(DType dtype, int64_t rows, int64_t cols, int64_t block = 128) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0, 1);
  FloatWeight w;
  w.values.resize(static_cast<size_t>(rows * cols));
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t k = 0; k < cols; ++k) {
      float& value = w.values[static_cast<size_t>(r * cols + k)];
      value = normal(random) * std::exp2(static_cast<float>(static_cast<int>(random() % 10)) - 8);
      const int64_t kind = (r + k / 32) % 7;
      if (kind == 0) value = 0;
      if (kind == 1) value = std::fabs(value);
      if (kind == 2) value = -std::fabs(value);
    }
  }
  w.bytes.resize(w.values.size() * dtype_bytes(dtype));
  w.weight = dense_weight(dtype, w.bytes.data(), rows, cols, cols);
  if (dtype == DType::f8_e4m3) {
    w.weight.block_rows = w.weight.block_cols = block;
    w.scales.resize(static_cast<size_t>((rows + block - 1) / block * w.weight.scale_cols()));
    auto* codes = reinterpret_cast<uint8_t*>(w.bytes.data());
    quantize_weight(w.values.data(), rows, cols, block, block, false, codes, w.scales.data());
    w.weight.scale_inv = w.scales.data();
    for (size_t i = 0; i < w.values.size(); ++i) {
      const auto r = static_cast<int64_t>(i) / cols;
      const auto k = static_cast<int64_t>(i) % cols;
      w.values[i] =
          e4m3_to_f32(codes[i]) * w.scales[static_cast<size_t>(r / block * w.weight.scale_cols() + k / block)];
    }
    return w;
  }
  for (size_t i = 0; i < w.values.size(); ++i) {
    float& value = w.values[i];
    if (dtype == DType::f32) {
      std::memcpy(w.bytes.data() + i * 4, &value, 4);
    } else {
      const uint16_t bits = dtype == DType::bf16 ? f32_to_bf16(value) : f32_to_f16(value);
      std::memcpy(w.bytes.data() + i * 2, &bits, 2);
      value = dtype == DType::bf16 ? bf16_to_f32(bits) : f16_to_f32(bits);
    }
  }
  return w;
}

TEST(IntegerWeight, PackingKeepsEveryValueWithinHalfAStep) {
  struct Shape {
    int64_t rows, cols, begin, end;
  };
  for (Isa isa : isas_here()) {
    const IsaGuard guard(isa);
    for (const Shape& s : {Shape{37, 300, 0, 37}, Shape{16, 128, 0, 16}, Shape{40, 200, 16, 33}, Shape{3, 5, 0, 3}}) {
      for (DType dtype : {DType::f32, DType::bf16, DType::f16, DType::f8_e4m3}) {
        const FloatWeight from = make_weight(dtype, s.rows, s.cols);
        for (const IntegerFormat& format : all_formats()) {
          SCOPED_TRACE(
              fmt::format("{}: {} [{}, {}] to {}", isa_name(isa), dtype_name(dtype), s.rows, s.cols, describe(format)));
          const int64_t rows = s.end - s.begin;
          Buffer panels;
          panels.reserve(integer_weight_bytes(format, rows, s.cols));
          pack_integer_rows(from.weight, s.begin, s.end, format, panels.as<std::byte>());
          const Weight packed = integer_weight(format, panels.as<std::byte>(), rows, s.cols);
          std::vector<float> values(static_cast<size_t>(rows * s.cols));
          unpack_integer_rows(packed, 0, rows, values.data());
          for (int64_t r = 0; r < rows; ++r) {
            for (int64_t begin = 0; begin < s.cols; begin += format.group) {
              const int64_t end = std::min(s.cols, begin + format.group);
              const float* w = from.values.data() + (s.begin + r) * s.cols;
              float low = 0;
              float high = 0;
              for (int64_t k = begin; k < end; ++k) {
                low = std::min(low, w[k]);
                high = std::max(high, w[k]);
              }
              const float levels = static_cast<float>((1 << format.bits) - 1);
              const float step =
                  format.zero_point ? (high - low) / levels : std::max(high, -low) / (format.bits == 8 ? 127.0f : 7.0f);
              // The scale is rounded up to BF16: by at most one part in 128.
              const float bound = step * (1 + 1.0f / 128) * 0.5001f;
              for (int64_t k = begin; k < end; ++k) {
                ASSERT_NEAR(values[static_cast<size_t>(r * s.cols + k)], w[k], bound) << "row " << r << " column " << k;
              }
            }
          }
        }
      }
    }
  }
}

// Values that are codes times a power of two come back exactly, whatever their place in the panel.
TEST(IntegerWeight, WholeStepsComeBackExactly) {
  constexpr int64_t rows = 33;
  constexpr int64_t cols = 256;
  for (const IntegerFormat& format : all_formats()) {
    SCOPED_TRACE(describe(format));
    const int greatest = format.bits == 8 ? 127 : 7;
    const int least = format.zero_point ? -greatest - 1 : -greatest;
    std::vector<float> values(rows * cols);
    std::mt19937 random(5);
    for (int64_t i = 0; i < rows * cols; ++i) {
      int code = static_cast<int>(random() % static_cast<uint32_t>(greatest - least + 1)) + least;
      if (i % 32 == 7) code = greatest;
      if (i % 32 == 9) code = least;
      values[static_cast<size_t>(i)] = 0.125f * static_cast<float>(code);
    }
    const Weight from = dense_weight(DType::f32, values.data(), rows, cols, cols);
    for (Isa isa : isas_here()) {
      const IsaGuard guard(isa);
      Buffer panels;
      panels.reserve(integer_weight_bytes(format, rows, cols));
      pack_integer_rows(from, 0, rows, format, panels.as<std::byte>());
      std::vector<float> out(values.size());
      unpack_integer_rows(integer_weight(format, panels.as<std::byte>(), rows, cols), 0, rows, out.data());
      EXPECT_EQ(out, values) << isa_name(isa);
      // Some rows alone are the same rows.
      std::vector<float> some(static_cast<size_t>(5 * cols));
      unpack_integer_rows(integer_weight(format, panels.as<std::byte>(), rows, cols), 14, 19, some.data());
      EXPECT_EQ(std::memcmp(some.data(), values.data() + 14 * cols, some.size() * sizeof(float)), 0);
    }
  }
}

TEST(IntegerWeight, EveryInstructionSetWritesTheSameBytes) {
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  constexpr float infinity = std::numeric_limits<float>::infinity();
  for (int64_t cols : {7, 128, 300, 1024, 1100}) {
    for (DType dtype : {DType::f32, DType::bf16, DType::f16, DType::f8_e4m3}) {
      for (int64_t block : {128, 48}) {
        if (block != 128 && dtype != DType::f8_e4m3) continue;
        constexpr int64_t rows = 150;
        FloatWeight from = make_weight(dtype, rows, cols, block);
        // Values that are not finite, the least and the greatest.
        const auto put = [&](int64_t row, int64_t k, float value) {
          if (k >= cols) return;
          std::byte* at = from.bytes.data() + static_cast<size_t>(row * cols + k) * dtype_bytes(dtype);
          if (dtype == DType::f32) {
            std::memcpy(at, &value, 4);
          } else if (dtype == DType::f8_e4m3) {
            *at = std::byte{f32_to_e4m3(value)};
          } else {
            const uint16_t bits = dtype == DType::bf16 ? f32_to_bf16(value) : f32_to_f16(value);
            std::memcpy(at, &bits, 2);
          }
        };
        put(3, 5, nan);
        put(4, 130, -infinity);
        put(5, 270, -nan);
        put(6, 1, dtype == DType::f32 || dtype == DType::bf16 ? 3.3e38f : 440.0f);
        put(6, 2, dtype == DType::f32 || dtype == DType::bf16 ? -3.3e38f : -440.0f);
        for (int64_t k = 0; k < std::min<int64_t>(cols, 128); ++k) put(8, k, k % 2 == 0 ? 1e-44f : -0.0f);
        for (const IntegerFormat& format : all_formats()) {
          SCOPED_TRACE(
              fmt::format("{} [{}, {}] blocks of {} to {}", dtype_name(dtype), rows, cols, block, describe(format)));
          const size_t bytes = integer_weight_bytes(format, rows - 3, cols);
          std::vector<std::byte> expected;
          for (Isa isa : isas_here()) {
            const IsaGuard guard(isa);
            Buffer panels;
            panels.reserve(bytes + 64);
            std::memset(panels.as<std::byte>(), 0x55, bytes + 64);
            pack_integer_rows(from.weight, 3, rows, format, panels.as<std::byte>());
            for (size_t i = bytes; i < bytes + 64; ++i) ASSERT_EQ(panels.as<uint8_t>()[i], 0x55) << isa_name(isa);
            const std::byte* data = panels.as<std::byte>();
            if (expected.empty()) expected.assign(data, data + bytes);
            ASSERT_EQ(std::memcmp(expected.data(), data, bytes), 0) << isa_name(isa);
            if (dtype == DType::f8_e4m3 && cols < 6) continue;
            std::vector<float> values(static_cast<size_t>(cols));
            unpack_integer_rows(integer_weight(format, data, rows - 3, cols), 0, 1, values.data());
            EXPECT_TRUE(std::isnan(values[0])) << isa_name(isa);
          }
        }
      }
    }
  }
}

TEST(IntegerWeight, GroupsOfZerosAreZero) {
  const std::vector<float> values(16 * 160, 0.0f);
  const Weight from = dense_weight(DType::f32, values.data(), 16, 160, 160);
  for (Isa isa : isas_here()) {
    const IsaGuard guard(isa);
    for (const IntegerFormat& format : all_formats()) {
      Buffer panels;
      panels.reserve(integer_weight_bytes(format, 16, 160));
      pack_integer_rows(from, 0, 16, format, panels.as<std::byte>());
      std::vector<float> out(values.size(), 1.0f);
      unpack_integer_rows(integer_weight(format, panels.as<std::byte>(), 16, 160), 0, 16, out.data());
      EXPECT_EQ(out, values) << isa_name(isa) << " " << describe(format);
    }
  }
}

TEST(IntegerWeight, SizesAreThoseOfTheLayout) {
  // 56 groups of 128 columns; scales 56 * 32, zeros 56 * 16, codes 16 * 7168.
  EXPECT_EQ(integer_panel_bytes({8, 128, false}, 7168), size_t{1792 + 114688});
  EXPECT_EQ(integer_panel_bytes({4, 128, true}, 7168), size_t{1792 + 896 + 57344});
  EXPECT_EQ(integer_panel_bytes({4, 32, false}, 7168), size_t{7168 + 57344});
  // One group of 32, cut off: 32 bytes of scales and 16 of zeros, each padded to 64.
  EXPECT_EQ(integer_panel_bytes({8, 32, true}, 5), size_t{64 + 64 + 512});
  EXPECT_EQ(integer_weight_bytes({8, 128, false}, 17, 7168), size_t{2} * (1792 + 114688));
  // A head of 129,280 rows exceeds 32 bits many times over in elements of larger models.
  EXPECT_EQ(integer_weight_bytes({8, 128, false}, int64_t{1} << 20, 1 << 16), (size_t{1} << 16) * (16384 + (1 << 20)));
}

}  // namespace
}  // namespace fathom
