// Products against a plain float64 sum, against the golden vectors, and against themselves cut into other pieces.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <deque>
#include <random>

#include "base/number_formats.h"
#include "formats/checkpoint.h"
#include "formats/safetensors.h"
#include "kernels/cpu/linear_kernels.h"
#include "kernels/linear.h"
#include "kernels/quantize.h"
#include "support/golden.h"
#include "support/isa_guard.h"
#include "support/isa_list.h"
#include "support/random_values.h"

namespace fathom {
namespace {

// A random matrix in some storage, with the values that it stands for.
struct TestWeight {
  Weight weight;
  std::vector<std::byte> bytes;
  std::vector<float> scales;
  std::vector<double> stored;  // code × scale, or the element
  std::vector<double> cast;    // rounded to BF16, as a cast checkpoint has it
};

TestWeight make_weight(DType dtype, int64_t rows, int64_t cols, int64_t block_rows, int64_t block_cols, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 1);
  TestWeight w;
  std::vector<float> values(static_cast<size_t>(rows * cols));
  for (float& value : values)
    value = normal(random) * std::exp2(static_cast<float>(static_cast<int>(random() % 12)) - 8);
  w.bytes.resize(values.size() * dtype_bytes(dtype));
  w.weight = dense_weight(dtype, w.bytes.data(), rows, cols, cols);
  if (dtype == DType::f8_e4m3) {
    w.weight.block_rows = block_rows;
    w.weight.block_cols = block_cols;
    w.scales.resize(static_cast<size_t>((rows + block_rows - 1) / block_rows * w.weight.scale_cols()));
    auto* codes = reinterpret_cast<uint8_t*>(w.bytes.data());
    quantize_weight(values.data(), rows, cols, block_rows, block_cols, false, codes, w.scales.data());
    w.weight.scale_inv = w.scales.data();
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) {
        const float scale = w.scales[static_cast<size_t>(r / block_rows * w.weight.scale_cols() + c / block_cols)];
        const float code = e4m3_to_f32(codes[r * cols + c]);
        w.stored.push_back(static_cast<double>(code) * scale);
        w.cast.push_back(round_to_bf16(code * scale));
      }
    }
    return w;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    float value = values[i];
    if (dtype == DType::f32) {
      std::memcpy(w.bytes.data() + i * 4, &value, 4);
    } else {
      const uint16_t bits = dtype == DType::bf16 ? f32_to_bf16(value) : f32_to_f16(value);
      std::memcpy(w.bytes.data() + i * 2, &bits, 2);
      value = dtype == DType::bf16 ? bf16_to_f32(bits) : f16_to_f32(bits);
    }
    w.stored.push_back(value);
  }
  w.cast = w.stored;
  return w;
}

// The activations as the product sees them.
std::vector<double> rounded(const std::vector<float>& x, int64_t T, int64_t K, OperandRounding rounding, DType dtype) {
  std::vector<double> out;
  for (int64_t t = 0; t < T; ++t) {
    std::vector<uint8_t> codes(static_cast<size_t>(K));
    std::vector<float> scales(static_cast<size_t>((K + 127) / 128));
    const bool fp8 = rounding == OperandRounding::fp8 || rounding == OperandRounding::fp8_ue8m0;
    if (fp8)
      quantize_activation(x.data() + t * K, K, rounding == OperandRounding::fp8_ue8m0, codes.data(), scales.data());
    for (int64_t k = 0; k < K; ++k) {
      const float value = x[static_cast<size_t>(t * K + k)];
      if (fp8 && dtype == DType::f8_e4m3) {
        out.push_back(static_cast<double>(e4m3_to_f32(codes[static_cast<size_t>(k)])) *
                      scales[static_cast<size_t>(k / 128)]);
      } else {
        out.push_back(rounding == OperandRounding::bf16 ? round_to_bf16(value) : value);
      }
    }
  }
  return out;
}

struct Shape3 {
  int64_t T, rows, cols, block_rows, block_cols;
};

TEST(Linear, EveryFormatAgreesWithAPlainSum) {
  const Shape3 shapes[] = {{1, 7, 40, 128, 128},   {3, 130, 200, 128, 128},   {9, 70, 1024, 64, 128},
                           {4, 33, 300, 32, 32},   {5, 64, 257, 100, 48},     {2, 9, 64, 1, 64},
                           {6, 20, 384, 128, 192}, {1, 5, 1, 128, 128},       {17, 12, 129, 7, 5},
                           {14, 37, 4210, 32, 64}, {60, 141, 2100, 128, 128}, {205, 70, 1100, 32, 64}};
  for (Isa isa : isas_here()) {
    const IsaGuard guard(isa);
    for (const Shape3& s : shapes) {
      const std::vector<float> x = random_values(s.T * s.cols, 7);
      for (DType dtype : {DType::f32, DType::bf16, DType::f16, DType::f8_e4m3}) {
        const TestWeight w = make_weight(dtype, s.rows, s.cols, s.block_rows, s.block_cols, 11);
        for (OperandRounding rounding :
             {OperandRounding::none, OperandRounding::bf16, OperandRounding::fp8, OperandRounding::fp8_ue8m0}) {
          SCOPED_TRACE(fmt::format("{} T={} W=[{}, {}] {} blocks {}x{} rounding {}", isa_name(isa), s.T, s.rows, s.cols,
                                   dtype_name(dtype), s.block_rows, s.block_cols, static_cast<int>(rounding)));
          Operand operand;
          operand.prepare(x.data(), s.T, s.cols, s.cols, w.weight, rounding, nullptr);
          std::vector<float> y(static_cast<size_t>(s.T * s.rows), NAN);
          linear_rows(operand.view(), nullptr, s.T, w.weight, 0, s.rows, y.data(), s.rows);
          const std::vector<double> xs = rounded(x, s.T, s.cols, rounding, dtype);
          const std::vector<double>& ws =
              rounding == OperandRounding::none || rounding == OperandRounding::bf16 ? w.cast : w.stored;
          for (int64_t t = 0; t < s.T; ++t) {
            for (int64_t r = 0; r < s.rows; ++r) {
              double exact = 0;
              double magnitude = 0;
              for (int64_t k = 0; k < s.cols; ++k) {
                const double term = xs[static_cast<size_t>(t * s.cols + k)] * ws[static_cast<size_t>(r * s.cols + k)];
                exact += term;
                magnitude += std::fabs(term);
              }
              ASSERT_NEAR(y[static_cast<size_t>(t * s.rows + r)], exact, 2e-6 * magnitude + 1e-30)
                  << "t " << t << " r " << r;
            }
          }
        }
      }
    }
  }
}

TEST(Linear, TransposedProductAgreesWithAPlainSum) {
  const Shape3 shapes[] = {
      {1, 7, 40, 128, 128}, {5, 130, 200, 128, 128}, {4, 33, 300, 32, 48}, {2, 3, 1, 128, 128}, {6, 9, 64, 4, 5}};
  for (Isa isa : isas_here()) {
    const IsaGuard guard(isa);
    for (const Shape3& s : shapes) {
      for (DType dtype : {DType::f32, DType::bf16, DType::f16, DType::f8_e4m3}) {
        const TestWeight w = make_weight(dtype, s.rows, s.cols, s.block_rows, s.block_cols, 13);
        for (bool cast : {false, true}) {
          for (bool accumulate : {false, true}) {
            const int64_t begin = s.rows > 4 ? 2 : 0;
            const int64_t R = s.rows - begin;
            const std::vector<float> x = random_values(s.T * R, 17);
            std::vector<float> y(static_cast<size_t>(s.T * s.cols), 0.5f);
            linear_transposed_rows(x.data(), R, s.T, w.weight, begin, s.rows, cast, accumulate, y.data(), s.cols);
            for (int64_t t = 0; t < s.T; ++t) {
              for (int64_t k = 0; k < s.cols; ++k) {
                double exact = accumulate ? 0.5 : 0;
                double magnitude = 1;
                for (int64_t r = 0; r < R; ++r) {
                  const double term = x[static_cast<size_t>(t * R + r)] *
                                      (cast ? w.cast : w.stored)[static_cast<size_t>((begin + r) * s.cols + k)];
                  exact += term;
                  magnitude += std::fabs(term);
                }
                ASSERT_NEAR(y[static_cast<size_t>(t * s.cols + k)], exact, 2e-6 * magnitude)
                    << isa_name(isa) << " " << dtype_name(dtype) << " t " << t << " k " << k;
              }
            }
          }
        }
      }
    }
  }
}

// A row's bits depend on nothing but the row: not on its neighbours, on the rows asked for at once, on gathering, or on
// threads.
TEST(Linear, BitsDoNotDependOnTheBatch) {
  constexpr int64_t T = 55;
  constexpr int64_t rows = 75;
  for (Isa isa : isas_here()) {
    const IsaGuard guard(isa);
    for (int64_t cols : {64, 200, 4210}) {
      const std::vector<float> x = random_values(T * cols, 3);
      for (DType dtype : {DType::f32, DType::bf16, DType::f16, DType::f8_e4m3}) {
        const TestWeight w = make_weight(dtype, rows, cols, 128, 128, 5);
        for (OperandRounding rounding : {OperandRounding::none, OperandRounding::bf16, OperandRounding::fp8}) {
          Operand operand;
          operand.prepare(x.data(), T, cols, cols, w.weight, rounding, nullptr);
          std::vector<float> together(static_cast<size_t>(T * rows));
          linear_rows(operand.view(), nullptr, T, w.weight, 0, rows, together.data(), rows);
          ThreadTeam team(3);
          std::vector<float> threaded(static_cast<size_t>(T * rows));
          linear(operand.view(), T, {{&w.weight, threaded.data(), rows}}, team);
          EXPECT_EQ(std::memcmp(together.data(), threaded.data(), together.size() * sizeof(float)), 0);
          // Five tokens stream the weights, thirteen and all of them meet them in blocks of two sizes.
          for (int64_t fewer : {5, 13}) {
            std::vector<float> some(static_cast<size_t>(fewer * rows));
            linear_rows(operand.view(), nullptr, fewer, w.weight, 0, rows, some.data(), rows);
            EXPECT_EQ(std::memcmp(together.data(), some.data(), some.size() * sizeof(float)), 0);
          }
          for (int32_t t = 0; t < T; ++t) {
            std::vector<float> alone(rows);
            linear_rows(operand.view(), &t, 1, w.weight, 0, 5, alone.data(), rows);
            linear_rows(operand.view(t), nullptr, 1, w.weight, 5, rows, alone.data() + 5, rows);
            ASSERT_EQ(std::memcmp(alone.data(), together.data() + t * rows, sizeof(float) * rows), 0)
                << isa_name(isa) << " " << dtype_name(dtype) << " K " << cols << " row " << t;
          }
          std::vector<float> transposed(static_cast<size_t>(T * cols));
          std::vector<float> alone(static_cast<size_t>(cols));
          const std::vector<float> p = random_values(T * rows, 9);
          linear_transposed_rows(p.data(), rows, T, w.weight, 0, rows, true, false, transposed.data(), cols);
          for (int64_t t = 0; t < T; ++t) {
            linear_transposed_rows(p.data() + t * rows, rows, 1, w.weight, 0, rows, true, false, alone.data(), cols);
            ASSERT_EQ(
                std::memcmp(alone.data(), transposed.data() + t * cols, sizeof(float) * static_cast<size_t>(cols)), 0);
          }
        }
      }
    }
  }
}

// In `bf16` an FP8 checkpoint and its published cast to BF16 are the same model, to the last bit.
TEST(Linear, Fp8AndItsCastGiveTheSameBits) {
  constexpr int64_t rows = 40;
  constexpr int64_t cols = 2304;
  const TestWeight fp8 = make_weight(DType::f8_e4m3, rows, cols, 32, 128, 5);
  std::vector<uint16_t> values;
  for (double value : fp8.cast) values.push_back(f32_to_bf16(static_cast<float>(value)));
  const Weight cast = dense_weight(DType::bf16, values.data(), rows, cols, cols);
  for (Isa isa : isas_here()) {
    const IsaGuard guard(isa);
    for (int64_t T : {1, 3, 20, 50}) {
      const std::vector<float> x = random_values(T * cols, 3);
      std::vector<float> y[2];
      for (const Weight* weight : {&fp8.weight, &cast}) {
        Operand operand;
        operand.prepare(x.data(), T, cols, cols, *weight, OperandRounding::bf16, nullptr);
        std::vector<float>& out = y[weight == &cast];
        out.resize(static_cast<size_t>(T * rows));
        linear_rows(operand.view(), nullptr, T, *weight, 0, rows, out.data(), rows);
      }
      EXPECT_EQ(std::memcmp(y[0].data(), y[1].data(), y[0].size() * sizeof(float)), 0) << isa_name(isa) << " T " << T;
    }
  }
}

// By the instruction, or what stands for it, and by multiplications of values that were widened beforehand.
TEST(Linear, EveryWayToMultiplyGivesTheSameBits) {
  if (active_bf16_dot() != Bf16Dot::fma) GTEST_SKIP() << "this machine multiplies by the instruction alone";
  constexpr int64_t rows = 203;  // a section and a part of one, the last quad not full
  for (const int64_t cols : {72, 1100, 2176}) {
    for (const DType dtype : {DType::bf16, DType::f8_e4m3}) {
      for (const int64_t block_rows : {128, 6}) {
        const TestWeight w = make_weight(dtype, rows, cols, block_rows, 128, 5);
        for (const int64_t T : {1, 4, 7, 9, 13, 29, 200}) {  // streamed; tiles of many sizes; two passes of tokens
          const std::vector<float> x = random_values(T * cols, 3);
          const auto run = [&](Bf16Dot dot) {
            const Bf16DotGuard guard(dot);
            Operand operand;
            operand.prepare(x.data(), T, cols, cols, w.weight, OperandRounding::bf16, nullptr);
            std::vector<float> y(static_cast<size_t>(T * rows));
            linear_rows(operand.view(), nullptr, T, w.weight, 5, rows, y.data() + 5, rows, {&w.weight, 0, rows});
            linear_rows(operand.view(), nullptr, T, w.weight, 0, 5, y.data(), rows);
            return y;
          };
          const std::vector<float> by_instruction = run(Bf16Dot::instruction);
          const std::vector<float> by_fma = run(Bf16Dot::fma);
          ASSERT_EQ(std::memcmp(by_instruction.data(), by_fma.data(), by_fma.size() * sizeof(float)), 0)
              << dtype_name(dtype) << " K " << cols << " blocks of " << block_rows << " T " << T;
        }
      }
    }
  }
}

// Blocks without and with the codes that the look-ups leave out (exponent field 0, not a number), and scales whose
// casts overflow or are subnormal. Of the latter AVX-512 is left out: its dot products of BF16 take them for zero.
TEST(Linear, AnyCodesAndAnyScaleGiveTheBitsOfTheCast) {
  constexpr int64_t rows = 11;
  constexpr int64_t cols = 512;
  std::mt19937 random(21);
  std::vector<float> all = {-2.5f, 3e-5f, 0x1.7p-118f, 0x1.3p-119f, 0x1.5p-126f, 0x1.9p118f, 0x1.9p120f};
  // Products with another mantissa each reach the next power of two, the exponent of mantissa 8 being even or odd.
  for (int i = 0; i < 32; ++i) all.push_back((1.0f + static_cast<float>(i / 2) / 16) * (i % 2 == 0 ? 0.25f : 0.5f));
  for (const float scale : all) {
    // AVX2 takes other ways where a code is below 8, or below 16.
    for (const int least : {16, 8, 0}) {
      for (const bool nan : {false, true}) {
        std::vector<uint8_t> codes(rows * cols);
        for (uint8_t& code : codes) {
          code = static_cast<uint8_t>(least + static_cast<int>(random() % static_cast<unsigned>(127 - least)));
          code |= static_cast<uint8_t>(random() % 2 << 7);
        }
        if (nan) codes[3 * cols + 200] = 0xff;
        const std::vector<float> scales = {scale, 1.0f, scale, 0.75f};
        Weight fp8 = dense_weight(DType::f8_e4m3, codes.data(), rows, cols, cols);
        fp8.scale_inv = scales.data();
        fp8.block_rows = fp8.block_cols = 128;
        std::vector<uint16_t> values;
        for (size_t i = 0; i < codes.size(); ++i) {
          values.push_back(f32_to_bf16(e4m3_to_f32(codes[i]) * scales[i % cols / 128]));
        }
        const Weight cast = dense_weight(DType::bf16, values.data(), rows, cols, cols);
        for (Isa isa : isas_here()) {
          if (isa >= Isa::avx512 && std::abs(scale) < 0x1p-100f) continue;
          const IsaGuard guard(isa);
          for (const int64_t T : {1, 3, 9}) {
            const std::vector<float> x = random_values(T * cols, 3);
            std::vector<float> y[2];
            for (const Weight* weight : std::initializer_list<const Weight*>{&fp8, &cast}) {
              Operand operand;
              operand.prepare(x.data(), T, cols, cols, *weight, OperandRounding::bf16, nullptr);
              std::vector<float>& out = y[weight == &cast];
              out.resize(static_cast<size_t>(T * rows));
              linear_rows(operand.view(), nullptr, T, *weight, 0, rows, out.data(), rows);
            }
            for (size_t i = 0; i < y[0].size(); ++i) {
              const bool both_nan = std::isnan(y[0][i]) && std::isnan(y[1][i]);
              ASSERT_TRUE(both_nan || std::memcmp(&y[0][i], &y[1][i], sizeof(float)) == 0)
                  << isa_name(isa) << " scale " << scale << " codes from " << least << " T " << T << " output " << i
                  << ": " << y[0][i] << " and " << y[1][i];
              if (nan && i % rows == 3) {
                ASSERT_TRUE(both_nan) << isa_name(isa);
              }
            }
          }
        }
      }
    }
  }
}

TEST(Linear, EveryCodeIsDecodedExactly) {
  // x picks one column at a time, so y is the decoded code times the scale.
  std::vector<uint8_t> codes(256);
  for (int i = 0; i < 256; ++i) codes[static_cast<size_t>(i)] = static_cast<uint8_t>(i);
  const float scales[2] = {0.25f, 4.0f};
  Weight w = dense_weight(DType::f8_e4m3, codes.data(), 1, 256, 256);
  w.scale_inv = scales;
  w.block_rows = w.block_cols = 128;
  for (Isa isa : isas_here()) {
    const IsaGuard guard(isa);
    for (OperandRounding rounding : {OperandRounding::none, OperandRounding::bf16}) {
      // NaN codes would reach every product: they are tried apart.
      std::vector<uint8_t> finite = codes;
      finite[0x7f] = finite[0xff] = 0;
      w.data = reinterpret_cast<const std::byte*>(finite.data());
      for (int k = 0; k < 256; ++k) {
        std::vector<float> x(256, 0.0f);
        x[static_cast<size_t>(k)] = 1;
        Operand operand;
        operand.prepare(x.data(), 1, 256, 256, w, rounding, nullptr);
        float y = 0;
        linear_rows(operand.view(), nullptr, 1, w, 0, 1, &y, 1);
        ASSERT_EQ(y, e4m3_to_f32(finite[static_cast<size_t>(k)]) * scales[k / 128]) << isa_name(isa) << " code " << k;
      }
      for (uint8_t nan : {0x7f, 0xff}) {
        std::vector<uint8_t> with_nan(256, 0x38);
        with_nan[200] = nan;
        w.data = reinterpret_cast<const std::byte*>(with_nan.data());
        const std::vector<float> x(256, 1.0f);
        Operand operand;
        operand.prepare(x.data(), 1, 256, 256, w, rounding, nullptr);
        float y = 0;
        linear_rows(operand.view(), nullptr, 1, w, 0, 1, &y, 1);
        EXPECT_TRUE(std::isnan(y)) << isa_name(isa);
      }
    }
  }
}

// A tensor of the file in aligned memory: the format does not promise alignment, and this file has none.
TensorView tensor(const SafetensorsFile& file, const std::string& name) {
  static std::deque<Buffer> copies;
  const SafetensorsEntry* entry = file.find(name);
  if (entry == nullptr) throw std::runtime_error("no tensor " + name);
  TensorView view = file.view(*entry);
  Buffer& copy = copies.emplace_back();
  copy.reserve(view.bytes());
  std::memcpy(copy.as<std::byte>(), view.data, view.bytes());
  view.data = copy.as<std::byte>();
  return view;
}

TEST(GoldenQuantKernels, QuantisationBytesAreExact) {
  const std::string directory = golden_dir("quant-kernels");
  if (directory.empty()) GTEST_SKIP() << "no golden data for quant-kernels (../shared is not there)";
  const SafetensorsFile file(directory + "/expected.safetensors");
  int activations = 0;
  int weights = 0;
  for (int i = 0; file.find(fmt::format("activation.{}.x", i)) != nullptr; ++i, ++activations) {
    const TensorView x = tensor(file, fmt::format("activation.{}.x", i));
    for (const char* suffix : {"", "_ue8m0"}) {
      const TensorView codes = tensor(file, fmt::format("activation.{}.codes{}", i, suffix));
      const TensorView scales = tensor(file, fmt::format("activation.{}.scale{}", i, suffix));
      const int64_t K = x.shape[1];
      for (int64_t t = 0; t < x.shape[0]; ++t) {
        std::vector<uint8_t> own(static_cast<size_t>(K));
        std::vector<float> own_scales(static_cast<size_t>(scales.shape[1]));
        quantize_activation(x.as<float>() + t * K, K, *suffix != 0, own.data(), own_scales.data());
        EXPECT_EQ(std::memcmp(own.data(), codes.data + t * K, own.size()), 0) << i << suffix;
        EXPECT_EQ(std::memcmp(own_scales.data(), scales.as<float>() + t * scales.shape[1], own_scales.size() * 4), 0)
            << i << suffix;
      }
    }
  }
  for (int i = 0; file.find(fmt::format("weight.{}.w", i)) != nullptr; ++i, ++weights) {
    const TensorView w = tensor(file, fmt::format("weight.{}.w", i));
    const int64_t rows = w.shape[0];
    const int64_t cols = w.shape[1];
    for (const char* suffix : {"", "_ue8m0"}) {
      const TensorView codes = tensor(file, fmt::format("weight.{}.codes{}", i, suffix));
      const TensorView scales = tensor(file, fmt::format("weight.{}.scale_inv{}", i, suffix));
      std::vector<uint8_t> own(codes.bytes());
      std::vector<float> own_scales(static_cast<size_t>(scales.elements()));
      quantize_weight(w.as<float>(), rows, cols, 128, 128, *suffix != 0, own.data(), own_scales.data());
      EXPECT_EQ(std::memcmp(own.data(), codes.data, own.size()), 0) << i << suffix;
      EXPECT_EQ(std::memcmp(own_scales.data(), scales.data, scales.bytes()), 0) << i << suffix;
      if (*suffix != 0) continue;
      const TensorView cast = tensor(file, fmt::format("weight.{}.dequantized_bf16", i));
      std::vector<uint16_t> own_cast(static_cast<size_t>(cast.elements()));
      dequantize_weight_bf16(own.data(), own_scales.data(), rows, cols, 128, 128, own_cast.data());
      EXPECT_EQ(std::memcmp(own_cast.data(), cast.data, cast.bytes()), 0) << i;
    }
  }
  EXPECT_GE(activations, 4);
  EXPECT_GE(weights, 4);
}

TEST(GoldenQuantKernels, BlockScaledProducts) {
  const std::string directory = golden_dir("quant-kernels");
  if (directory.empty()) GTEST_SKIP() << "no golden data for quant-kernels (../shared is not there)";
  const SafetensorsFile file(directory + "/expected.safetensors");
  for (Isa isa : isas_here()) {
    const IsaGuard guard(isa);
    int products = 0;
    for (int i = 0; file.find(fmt::format("gemm.{}.a", i)) != nullptr; ++i, ++products) {
      const auto part = [&](const char* name) { return tensor(file, fmt::format("gemm.{}.{}", i, name)); };
      const TensorView a = part("a");
      const TensorView a_scale = part("a_scale");
      const TensorView b = part("b");
      const int64_t M = a.shape[0];
      const int64_t K = a.shape[1];
      const int64_t N = b.shape[0];
      Weight w = dense_weight(DType::f8_e4m3, b.data, N, K, K);
      w.scale_inv = part("b_scale_inv").as<float>();
      w.block_rows = w.block_cols = 128;
      // The activations are given as codes and scales, so the operand is put together here.
      OperandView x;
      x.form = linear_kernels().operand_form(w, OperandRounding::fp8);
      x.rounding = OperandRounding::fp8;
      x.stride = (K + 63) / 64 * 64;
      x.scales = a_scale.as<float>();
      x.scale_stride = a_scale.shape[1];
      std::vector<float> wide(static_cast<size_t>(M * x.stride), 0.0f);
      std::vector<uint16_t> narrow(wide.size(), 0);
      for (int64_t m = 0; m < M; ++m) {
        for (int64_t k = 0; k < K; ++k) {
          const float value = e4m3_to_f32(a.as<uint8_t>()[m * K + k]);
          wide[static_cast<size_t>(m * x.stride + k)] = value;
          narrow[static_cast<size_t>(m * x.stride + k)] = f32_to_bf16(value);
        }
      }
      x.data = x.form == OperandForm::f32 ? static_cast<const void*>(wide.data()) : narrow.data();
      std::vector<float> y(static_cast<size_t>(M * N));
      linear_rows(x, nullptr, M, w, 0, N, y.data(), N);
      for (int64_t j = 0; j < M * N; ++j) {
        EXPECT_NEAR(y[static_cast<size_t>(j)], part("c_exact").as<double>()[j],
                    2e-6 * part("sum_of_magnitudes").as<float>()[j]);
      }
    }
    EXPECT_GE(products, 4);
  }
}

TEST(GoldenQuantKernels, W8a8ProductsOfACheckpoint) {
  const std::string directory = golden_dir("fp8-tiny");
  if (directory.empty()) GTEST_SKIP() << "no golden data for fp8-tiny (../shared is not there)";
  const Checkpoint checkpoint(directory);
  const SafetensorsFile file(directory + "/expected.safetensors");
  const char* names[] = {"model.layers.0.self_attn.q_a_proj",
                         "model.layers.0.self_attn.q_b_proj",
                         "model.layers.0.self_attn.kv_a_proj_with_mqa",
                         "model.layers.0.self_attn.o_proj",
                         "model.layers.0.mlp.down_proj",
                         "model.layers.2.mlp.shared_experts.gate_proj",
                         "model.layers.2.mlp.shared_experts.down_proj"};
  for (Isa isa : isas_here()) {
    const IsaGuard guard(isa);
    for (int i = 0; i < 7; ++i) {
      const std::string name = std::string(names[i]) + ".weight";
      const TensorView stored = checkpoint.tensor(name);
      Weight w = dense_weight(stored.dtype, stored.data, stored.shape[0], stored.shape[1], stored.shape[1]);
      w.scale_inv = checkpoint.tensor(name + "_scale_inv").as<float>();
      w.block_rows = w.block_cols = 128;
      const TensorView x = tensor(file, fmt::format("linear.{}.x", i));
      for (const char* suffix : {"", "_ue8m0"}) {
        const TensorView y = tensor(file, fmt::format("linear.{}.y{}", i, suffix));
        const int64_t T = x.shape[0];
        Operand operand;
        operand.prepare(x.as<float>(), T, w.cols, w.cols, w,
                        *suffix != 0 ? OperandRounding::fp8_ue8m0 : OperandRounding::fp8, nullptr);
        std::vector<float> own(static_cast<size_t>(T * w.rows));
        linear_rows(operand.view(), nullptr, T, w, 0, w.rows, own.data(), w.rows);
        double difference = 0;
        double magnitude = 0;
        for (size_t j = 0; j < own.size(); ++j) {
          difference += std::pow(static_cast<double>(own[j]) - y.as<float>()[j], 2);
          magnitude += std::pow(static_cast<double>(y.as<float>()[j]), 2);
        }
        EXPECT_LT(std::sqrt(difference / magnitude), 1e-6) << isa_name(isa) << " " << name << suffix;
      }
    }
  }
}

}  // namespace
}  // namespace fathom
