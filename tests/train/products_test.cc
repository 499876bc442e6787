// Both halves of a product's backward against float64 sums of the operands as each form rounds them.
#include "train/products.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/number_formats.h"
#include "kernels/norm.h"
#include "kernels/paired_product.h"
#include "kernels/quantize.h"
#include "support/isa_guard.h"
#include "support/isa_list.h"
#include "support/random_values.h"

namespace fathom {
namespace {

// The column of a chosen matrix as a form of a weight gradient rounds it: along the tokens.
std::vector<double> column(const std::vector<float>& x, int64_t stride, const std::vector<int32_t>& index, int64_t c,
                           ProductForm form, bool ue8m0 = false) {
  std::vector<float> values;
  for (int32_t t : index) values.push_back(x[static_cast<size_t>(t * stride + c)]);
  if (form == ProductForm::fp8) {
    std::vector<uint8_t> codes(values.size());
    std::vector<float> scales(values.size() / 128 + 1);
    quantize_activation(values.data(), static_cast<int64_t>(values.size()), ue8m0, codes.data(), scales.data(),
                        kLeastGradientAmax);
    for (size_t i = 0; i < values.size(); ++i) values[i] = e4m3_to_f32(codes[i]) * scales[i / 128];
  } else if (form == ProductForm::bf16) {
    for (float& value : values) value = round_to_bf16(value);
  }
  return {values.begin(), values.end()};
}

TEST(TrainProducts, WeightGradient) {
  const int64_t T = 200;  // rows of which 150 are chosen
  const int64_t N = 195;
  const int64_t K = 130;
  // Gradients are small: FP8 must not lose them under the floor of activations' scales.
  const std::vector<float> dy = random_values(T * N, 1, 1e-6f);
  const std::vector<float> x = random_values(T * K, 2);
  std::vector<uint16_t> narrow(x.size());
  convert_f32_to_bf16(x.data(), static_cast<int64_t>(x.size()), narrow.data());
  std::vector<float> rounded(x.size());
  convert_bf16_to_f32(narrow.data(), static_cast<int64_t>(x.size()), rounded.data());
  std::vector<int32_t> index;
  for (int32_t i = 0; i < 150; ++i) index.push_back(i * 53 % 200);
  ThreadTeam team(2);
  ProductWorkspace workspace;
  for (Isa isa : isas_here()) {
    const IsaGuard guard(isa);
    for (ProductForm form : {ProductForm::f32, ProductForm::bf16, ProductForm::fp8}) {
      for (bool kept_narrow : {false, true}) {
        SCOPED_TRACE(testing::Message() << isa_name(isa) << ", form " << static_cast<int>(form) << ", x "
                                        << (kept_narrow ? "BF16" : "F32"));
        std::vector<float> gradient(static_cast<size_t>(N * K), 1e-5f);
        std::vector<float> second(static_cast<size_t>(N * K), 0.0f);
        const TokenRows rows = {kept_narrow ? DType::bf16 : DType::f32,
                                kept_narrow ? static_cast<const void*>(narrow.data()) : x.data(), K, K, index.data()};
        const TokenRows gradients = {DType::f32, dy.data(), N, N, index.data()};
        TokenRows powers = rows;
        powers.ue8m0 = true;
        // Two jobs that share a side, the other one's scales apart in FP8, and one without tokens.
        const WeightGradientJob jobs[] = {{gradients, rows, 150, gradient.data(), form},
                                          {gradients, rows, 0, gradient.data(), form},
                                          {gradients, powers, 150, second.data(), form}};
        linear_weight_gradients(jobs, workspace, team);
        for (int64_t n = 0; n < N; n += 13) {
          const std::vector<double> left = column(dy, N, index, n, form);
          for (int64_t k = 0; k < K; k += 3) {
            const auto at = static_cast<size_t>(n * K + k);
            for (const bool ue8m0 : {false, true}) {
              const std::vector<double> right = column(kept_narrow ? rounded : x, K, index, k, form, ue8m0);
              const double before = ue8m0 ? 0 : 1e-5;
              double sum = 0;
              double magnitude = 0;
              for (size_t t = 0; t < left.size(); ++t) {
                sum += left[t] * right[t];
                magnitude += std::fabs(left[t] * right[t]);
              }
              ASSERT_NEAR((ue8m0 ? second : gradient)[at], before + sum, 1e-6 * (magnitude + before))
                  << n << ", " << k << ", power-of-two scales " << ue8m0;
            }
          }
        }
      }
    }
  }
}

TEST(TrainProducts, InputGradient) {
  const int64_t T = 101;
  const int64_t N = 150;
  const int64_t K = 70;
  const std::vector<float> dy = random_values(T * N, 1, 1e-6f);
  const std::vector<float> w = random_values(N * K, 2);
  std::vector<float> turned(w.size());
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t k = 0; k < K; ++k) turned[static_cast<size_t>(k * N + n)] = w[static_cast<size_t>(n * K + k)];
  }
  std::vector<uint16_t> narrow(w.size());
  convert_f32_to_bf16(turned.data(), K * N, narrow.data());
  std::vector<uint8_t> codes(w.size());
  std::vector<float> scales(2);
  quantize_weight(turned.data(), K, N, 128, 128, false, codes.data(), scales.data());
  // The same matrix not turned: two blocks down instead of across.
  std::vector<float> values;
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t k = 0; k < K; ++k) values.push_back(e4m3_to_f32(codes[static_cast<size_t>(k * N + n)]));
  }
  Weight fp8 = dense_weight(DType::f8_e4m3, codes.data(), K, N, N);
  fp8.scale_inv = scales.data();
  fp8.block_rows = fp8.block_cols = 128;
  struct Form {
    Weight weight;
    OperandRounding rounding;
    const uint16_t* pairs = nullptr;
  };
  ThreadTeam team(2);
  ProductWorkspace workspace;
  for (Isa isa : isas_here()) {
    const IsaGuard guard(isa);
    std::vector<uint16_t> pairs(w.size());
    std::vector<uint16_t> value_pairs(w.size());
    std::vector<Form> forms = {Form{dense_weight(DType::f32, turned.data(), K, N, N), OperandRounding::none},
                               Form{dense_weight(DType::bf16, narrow.data(), K, N, N), OperandRounding::bf16},
                               Form{fp8, OperandRounding::fp8}, Form{fp8, OperandRounding::fp8_ue8m0}};
    if (has_paired_product()) {
      pair_rows(DType::f32, w.data(), K, nullptr, N, K, 0, N / 2, pairs.data());
      forms.push_back(forms[1]);
      forms.back().pairs = pairs.data();
      pair_rows(DType::f32, values.data(), K, nullptr, N, K, 0, N / 2, value_pairs.data());
      for (int form : {2, 3}) {
        forms.push_back(forms[static_cast<size_t>(form)]);
        forms.back().pairs = value_pairs.data();
      }
    }
    for (const Form& form : forms) {
      const TurnedWeight weight{form.weight, form.pairs, scales.data()};
      SCOPED_TRACE(testing::Message() << isa_name(isa) << ", rounding " << static_cast<int>(form.rounding));
      std::vector<float> dx(static_cast<size_t>(T * K), -1.0f);
      std::vector<float> added(static_cast<size_t>(T * K), 1e-5f);
      linear_input_gradient(dy.data(), T, weight, form.rounding, false, dx.data(), workspace, team);
      linear_input_gradient(dy.data(), T, weight, form.rounding, true, added.data(), workspace, team);
      for (int64_t t = 0; t < T; ++t) {
        std::vector<float> row(dy.begin() + t * N, dy.begin() + (t + 1) * N);
        if (form.weight.dtype == DType::f8_e4m3) {
          std::vector<uint8_t> row_codes(row.size());
          float row_scales[2];
          quantize_activation(row.data(), N, form.rounding == OperandRounding::fp8_ue8m0, row_codes.data(), row_scales,
                              kLeastGradientAmax);
          for (size_t n = 0; n < row.size(); ++n) row[n] = e4m3_to_f32(row_codes[n]) * row_scales[n / 128];
        } else if (form.rounding == OperandRounding::bf16) {
          for (float& value : row) value = round_to_bf16(value);
        }
        for (int64_t k = 0; k < K; ++k) {
          double sum = 0;
          double magnitude = 0;
          for (int64_t n = 0; n < N; ++n) {
            const auto at = static_cast<size_t>(k * N + n);
            double value = turned[at];
            if (form.weight.dtype == DType::bf16) value = bf16_to_f32(narrow[at]);
            if (form.weight.dtype == DType::f8_e4m3) {
              value = static_cast<double>(e4m3_to_f32(codes[at])) * scales[static_cast<size_t>(n / 128)];
            }
            sum += row[static_cast<size_t>(n)] * value;
            magnitude += std::fabs(row[static_cast<size_t>(n)] * value);
          }
          const auto at = static_cast<size_t>(t * K + k);
          ASSERT_NEAR(dx[at], sum, 1e-6 * magnitude) << t << ", " << k;
          ASSERT_NEAR(added[at], 1e-5 + sum, 1e-6 * (magnitude + 1e-5)) << t << ", " << k;
        }
      }
    }
  }
}

}  // namespace
}  // namespace fathom
