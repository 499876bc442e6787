// The small functions of a backward against finite differences of their forwards in float64, on every instruction set.
#include "kernels/gradients.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "base/number_formats.h"
#include "kernels/norm.h"
#include "support/isa_guard.h"
#include "support/isa_list.h"
#include "support/random_values.h"

namespace fathom {
namespace {

// Not multiples of a vector, and one of several.
constexpr int64_t kSizes[] = {1, 7, 45, 96};

// Central difference of `function` with respect to x[i].
double slope(std::vector<double> x, size_t i, const std::function<double(const std::vector<double>&)>& function) {
  const double step = 1e-5;
  const double before = x[i];
  x[i] = before + step;
  const double above = function(x);
  x[i] = before - step;
  return (above - function(x)) / (2 * step);
}

std::vector<double> wide(const std::vector<float>& x) {
  return {x.begin(), x.end()};
}

TEST(Gradients, RmsNorm) {
  for (Isa isa : isas_here()) {
    const IsaGuard guard(isa);
    for (int64_t n : kSizes) {
      SCOPED_TRACE(testing::Message() << isa_name(isa) << ", n " << n);
      const std::vector<float> x = random_values(n, 1);
      const std::vector<float> gain = random_values(n, 2);
      const std::vector<float> dy = random_values(n, 3);
      const float eps = 1e-3f;
      const auto loss = [&](const std::vector<double>& at, const std::vector<double>& gains) {
        double squares = 0;
        for (double value : at) squares += value * value;
        const double r = 1 / std::sqrt(squares / static_cast<double>(n) + eps);
        double sum = 0;
        for (size_t i = 0; i < at.size(); ++i) sum += dy[i] * at[i] * r * gains[i];
        return sum;
      };
      const float r = rms_factor(x.data(), n, eps);
      std::vector<float> dx(static_cast<size_t>(n), 0.5f);  // added to
      rms_norm_input_gradient(x.data(), tensor_view(DType::f32, {n}, gain.data()), dy.data(), r, n, dx.data());
      std::vector<float> dgain(static_cast<size_t>(n), 0.25f);
      rms_norm_gain_gradient(x.data(), dy.data(), r, n, dgain.data());
      std::vector<float> y(static_cast<size_t>(n));
      rms_norm(x.data(), n, tensor_view(DType::f32, {n}, gain.data()), eps, y.data());
      for (size_t i = 0; i < dx.size(); ++i) {
        EXPECT_EQ(y[i], x[i] * r * gain[i]) << "the factor is rms_norm's own";
        const double to_x = slope(wide(x), i, [&](const auto& at) { return loss(at, wide(gain)); });
        const double to_gain = slope(wide(gain), i, [&](const auto& at) { return loss(wide(x), at); });
        EXPECT_NEAR(dx[i], 0.5 + to_x, 2e-5 * (1 + std::fabs(to_x))) << i;
        EXPECT_NEAR(dgain[i], 0.25 + to_gain, 2e-5 * (1 + std::fabs(to_gain))) << i;
      }
    }
  }
}

TEST(Gradients, Swiglu) {
  for (Isa isa : isas_here()) {
    const IsaGuard guard(isa);
    for (int64_t n : kSizes) {
      SCOPED_TRACE(testing::Message() << isa_name(isa) << ", n " << n);
      const std::vector<float> gate = random_values(n, 1, 3);
      const std::vector<float> up = random_values(n, 2);
      const std::vector<float> dh = random_values(n, 3);
      std::vector<float> expected(static_cast<size_t>(n));
      swiglu(gate.data(), up.data(), n, expected.data());
      std::vector<float> h(expected.size());
      std::vector<float> dgate(expected.size());
      std::vector<float> dup(expected.size());
      swiglu_gradient(gate.data(), up.data(), dh.data(), n, h.data(), dgate.data(), dup.data());
      for (size_t i = 0; i < h.size(); ++i) {
        EXPECT_EQ(h[i], expected[i]) << "the forward's own bits";
        const auto silu = [](double z) { return z / (1 + std::exp(-z)); };
        const double to_gate = slope(wide(gate), i, [&](const auto& at) { return dh[i] * up[i] * silu(at[i]); });
        EXPECT_NEAR(dgate[i], to_gate, 1e-5 * (1 + std::fabs(to_gate))) << i;
        EXPECT_NEAR(dup[i], dh[i] * silu(gate[i]), 1e-5 * (1 + std::fabs(dh[i] * silu(gate[i])))) << i;
      }
    }
  }
}

TEST(Gradients, SoftmaxRow) {
  for (Isa isa : isas_here()) {
    const IsaGuard guard(isa);
    for (int64_t n : kSizes) {
      SCOPED_TRACE(testing::Message() << isa_name(isa) << ", n " << n);
      const std::vector<float> scores = random_values(n, 1, 4);
      const std::vector<float> dp = random_values(n, 2);
      const float scale = 0.3f;
      const auto softmax = [&](const std::vector<double>& at) {
        std::vector<double> p(at.size());
        double sum = 0;
        for (size_t i = 0; i < p.size(); ++i) sum += p[i] = std::exp(scale * at[i]);
        for (double& value : p) value /= sum;
        return p;
      };
      std::vector<float> p = scores;
      softmax_row(p.data(), scale, n);
      std::vector<float> ds = dp;
      softmax_row_gradient(p.data(), scale, n, ds.data());
      const std::vector<double> expected = softmax(wide(scores));
      for (size_t i = 0; i < p.size(); ++i) {
        EXPECT_NEAR(p[i], expected[i], 1e-6) << i;
        const double to_score = slope(wide(scores), i, [&](const auto& at) {
          const std::vector<double> q = softmax(at);
          double sum = 0;
          for (size_t j = 0; j < q.size(); ++j) sum += dp[j] * q[j];
          return sum;
        });
        EXPECT_NEAR(ds[i], to_score, 2e-6) << i;
      }
    }
  }
}

// Pairs of rows against single ones, rounded: sums may run in another order, hence one unit of BF16's last place.
TEST(Gradients, SoftmaxPair) {
  const float scale = 0.3f;
  for (Isa isa : isas_here()) {
    const IsaGuard guard(isa);
    for (int64_t visible : {1, 2, 7, 15, 16, 31, 32, 45, 96, 130}) {
      for (int64_t rows : {1, 2}) {
        for (int64_t more : {0, 1, 50}) {
          const int64_t n = (visible + rows - 1 + more + 1) / 2 * 2;
          const int64_t stride = n + 3;
          SCOPED_TRACE(testing::Message()
                       << isa_name(isa) << ", visible " << visible << ", rows " << rows << ", n " << n);
          std::vector<float> scores = random_values(2 * stride, 1, 4);
          std::vector<float> dp = random_values(2 * stride, 2);
          // Nothing behind what a row sees may come into the sums.
          for (int64_t r = 0; r < 2; ++r) {
            for (int64_t i = visible + r; i < stride; ++i) {
              scores[static_cast<size_t>(r * stride + i)] = dp[static_cast<size_t>(r * stride + i)] = NAN;
            }
          }
          std::vector<float> p(scores.size(), 0);
          std::vector<float> ds(scores.size(), 0);
          for (int64_t r = 0; r < rows; ++r) {
            std::copy_n(scores.data() + r * stride, visible + r, p.data() + r * stride);
            std::copy_n(dp.data() + r * stride, visible + r, ds.data() + r * stride);
            softmax_row(p.data() + r * stride, scale, visible + r);
            softmax_row_gradient(p.data() + r * stride, scale, visible + r, ds.data() + r * stride);
          }
          constexpr uint16_t kUntouched = 0x1234;
          std::vector<uint16_t> p_pairs(static_cast<size_t>(2 * n + 1), kUntouched);
          std::vector<uint16_t> ds_pairs(p_pairs.size(), kUntouched);
          std::vector<uint16_t> ds_rows(static_cast<size_t>(2 * stride), kUntouched);
          softmax_pair_gradient(scores.data(), dp.data(), stride, rows, scale, visible, n, p_pairs.data(),
                                ds_pairs.data(), ds_rows.data());
          EXPECT_EQ(p_pairs.back(), kUntouched);
          EXPECT_EQ(ds_pairs.back(), kUntouched);
          for (int64_t r = 0; r < 2; ++r) {
            for (int64_t i = 0; i < stride; ++i) {
              const auto at = static_cast<size_t>(r * stride + i);
              const auto pair = static_cast<size_t>(2 * i + r);
              if (i >= n || r >= rows) {
                EXPECT_EQ(ds_rows[at], kUntouched) << r << " " << i;
              } else {
                EXPECT_EQ(ds_rows[at], ds_pairs[pair]) << r << " " << i;
              }
              if (i >= n) continue;
              EXPECT_NEAR(bf16_to_f32(p_pairs[pair]), p[at], p[at] / 200 + 1e-7f) << r << " " << i;
              EXPECT_NEAR(bf16_to_f32(ds_pairs[pair]), ds[at], std::fabs(ds[at]) / 200 + 1e-6f) << r << " " << i;
              if (i >= visible + r) {
                EXPECT_EQ(p_pairs[pair], 0) << r << " " << i;
                EXPECT_EQ(ds_pairs[pair] & 0x7fff, 0) << r << " " << i;
              }
            }
          }
        }
      }
    }
  }
}

TEST(Gradients, CrossEntropy) {
  for (Isa isa : isas_here()) {
    const IsaGuard guard(isa);
    for (int64_t n : kSizes) {
      SCOPED_TRACE(testing::Message() << isa_name(isa) << ", n " << n);
      const std::vector<float> logits = random_values(n, 1, 5);
      const auto label = static_cast<int32_t>(n / 2);
      const auto loss = [&](const std::vector<double>& at) {
        double sum = 0;
        for (double value : at) sum += std::exp(value);
        return std::log(sum) - at[static_cast<size_t>(label)];
      };
      std::vector<float> d = logits;
      EXPECT_NEAR(cross_entropy(d.data(), n, label, 0.5f), loss(wide(logits)), 2e-6);
      for (size_t i = 0; i < d.size(); ++i) EXPECT_NEAR(d[i], 0.5 * slope(wide(logits), i, loss), 1e-6) << i;
    }
  }
}

// Every form, with and without a choice of rows, zeros behind the last row.
TEST(Gradients, Turn) {
  const int64_t rows = 21;
  const int64_t cols = 35;
  const int64_t stride = 40;
  const std::vector<float> x = random_values(rows * stride, 5);
  std::vector<uint16_t> narrow(x.size());
  convert_f32_to_bf16(x.data(), static_cast<int64_t>(x.size()), narrow.data());
  std::vector<int32_t> index(static_cast<size_t>(rows));
  for (size_t i = 0; i < index.size(); ++i) index[i] = static_cast<int32_t>((7 * i + 3) % index.size());
  for (Isa isa : isas_here()) {
    const IsaGuard guard(isa);
    for (const int32_t* chosen : {static_cast<const int32_t*>(nullptr), static_cast<const int32_t*>(index.data())}) {
      for (DType from : {DType::f32, DType::bf16}) {
        for (TurnedForm form : {TurnedForm::f32, TurnedForm::bf16, TurnedForm::f32_rounded}) {
          SCOPED_TRACE(testing::Message() << isa_name(isa) << ", form " << static_cast<int>(form) << ", from "
                                          << dtype_name(from) << (chosen != nullptr ? ", chosen" : ""));
          std::vector<float> out(static_cast<size_t>(cols) * 64, -1.0f);
          const void* data = from == DType::f32 ? static_cast<const void*>(x.data()) : narrow.data();
          turn(from, data, stride, chosen, rows, cols, form, out.data(), 64, 64);
          for (int64_t c = 0; c < cols; ++c) {
            for (int64_t r = 0; r < 64; ++r) {
              const int64_t source = chosen != nullptr && r < rows ? chosen[r] : r;
              float expected = r < rows ? x[static_cast<size_t>(source * stride + c)] : 0.0f;
              if (from == DType::bf16 || form != TurnedForm::f32) expected = round_to_bf16(expected);
              const float found = form == TurnedForm::bf16
                                      ? bf16_to_f32(reinterpret_cast<const uint16_t*>(out.data())[c * 64 + r])
                                      : out[static_cast<size_t>(c * 64 + r)];
              ASSERT_EQ(found, expected) << "row " << r << ", column " << c;
            }
          }
        }
      }
    }
  }
}

// Against the formula in float64; BF16 moments are the rounded float32 ones.
TEST(Gradients, Adamw) {
  const int64_t n = 45;
  const AdamwStep step{0.5f, 0.9f, 0.95f, 2e-3f, 1 / (1 - 0.95f), 1e-8f, 0.99f};
  const std::vector<float> gradient = random_values(n, 1);
  const std::vector<float> p0 = random_values(n, 2);
  for (Isa isa : isas_here()) {
    SCOPED_TRACE(isa_name(isa));
    const IsaGuard guard(isa);
    std::vector<float> p = p0;
    std::vector<float> first(p.size(), 0.25f);
    std::vector<float> second(p.size(), 0.5f);
    std::vector<uint16_t> narrow_first(p.size(), f32_to_bf16(0.25f));
    std::vector<uint16_t> narrow_second(p.size(), f32_to_bf16(0.5f));
    adamw_row(step, gradient.data(), n, DType::f32, first.data(), second.data(), p.data());
    std::vector<float> narrow_p = p0;
    adamw_row(step, gradient.data(), n, DType::bf16, narrow_first.data(), narrow_second.data(), narrow_p.data());
    for (size_t i = 0; i < p.size(); ++i) {
      const double g = 0.5 * gradient[i];
      const double m = 0.9 * 0.25 + 0.1 * g;
      const double v = 0.95 * 0.5 + 0.05 * g * g;
      EXPECT_NEAR(first[i], m, 1e-6);
      EXPECT_NEAR(second[i], v, 1e-6);
      EXPECT_NEAR(p[i], 0.99 * p0[i] - 2e-3 * m / (std::sqrt(v / 0.05) + 1e-8), 2e-6);
      EXPECT_EQ(narrow_first[i], f32_to_bf16(first[i]));
      EXPECT_EQ(narrow_second[i], f32_to_bf16(second[i]));
      EXPECT_EQ(narrow_p[i], p[i]);
    }
  }
}

}  // namespace
}  // namespace fathom
