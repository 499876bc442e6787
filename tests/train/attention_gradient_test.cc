// The attention core's backward against the formulas of spec §1.3 in float64, on every instruction set.
#include "train/attention_gradient.h"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "base/number_formats.h"
#include "kernels/norm.h"
#include "support/isa_guard.h"
#include "support/isa_list.h"

namespace fathom {
namespace {

// Relative to the whole. BF16 has 8 bits: an operand is off by 2^-9 of itself at most; keys that are off move the
// scores, these the probabilities.
constexpr double kBf16Tolerance = 6e-3;
constexpr double kF32Tolerance = 2e-6;
// Between instruction sets in BF16: sums in another order now and then round to the other neighbour.
constexpr double kOrderTolerance = 3e-4;

using Values = std::vector<double>;

struct Shape {
  int64_t heads, nope, rope, dv, rank;
  std::vector<int64_t> lengths;
};

struct Gradients {
  std::vector<float> q, kv, k_pe;
};

// Random values that BF16 holds, so that both arithmetics begin with the same numbers.
std::vector<float> random_values(int64_t count, uint32_t seed, float deviation) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = round_to_bf16(normal(random));
  return values;
}

// One layer with one batch of whole sequences.
struct Case {
  Shape shape;
  int64_t tokens = 0;
  std::vector<float> weight, latents, q, d_attended;

  explicit Case(const Shape& from) : shape(from) {
    for (int64_t length : shape.lengths) tokens += length;
    weight = random_values(shape.heads * (shape.nope + shape.dv) * shape.rank, 1, 0.3f);
    latents = random_values(tokens * (shape.rank + shape.rope), 2, 1);
    q = random_values(tokens * shape.heads * (shape.nope + shape.rope), 3, 1);
    d_attended = random_values(tokens * shape.heads * shape.dv, 4, 1);
  }

  Gradients run(ComputeMode compute, int threads) const {
    LoadedModel model;
    ModelConfig& c = model.config;
    c.num_hidden_layers = 1;
    c.num_attention_heads = shape.heads;
    c.qk_nope_head_dim = shape.nope;
    c.qk_rope_head_dim = shape.rope;
    c.v_head_dim = shape.dv;
    c.kv_lora_rank = shape.rank;
    model.compute = compute;
    model.rope.softmax_scale = scale();
    const bool bf16 = compute == ComputeMode::bf16;
    std::vector<uint16_t> narrow(weight.size());
    convert_f32_to_bf16(weight.data(), static_cast<int64_t>(weight.size()), narrow.data());
    const void* data = bf16 ? static_cast<const void*>(narrow.data()) : weight.data();
    model.weights.layers.resize(1);
    model.weights.layers[0].attention.kv_b_proj = dense_weight(
        bf16 ? DType::bf16 : DType::f32, data, shape.heads * (shape.nope + shape.dv), shape.rank, shape.rank);
    KeptRows kept;
    const int64_t q_cols = shape.heads * (shape.nope + shape.rope);
    kept.reserve(bf16 ? DType::bf16 : DType::f32, tokens, q_cols);
    std::vector<std::unique_ptr<LatentCache>> caches;
    std::vector<Span> spans;
    int64_t t = 0;
    for (int64_t length : shape.lengths) {
      caches.push_back(std::make_unique<LatentCache>(c, model.cache_dtype(), length));
      spans.push_back({caches.back().get(), 0, t, length});
      for (int64_t i = 0; i < length; ++i, ++t) {
        caches.back()->write(0, i, latents.data() + t * (shape.rank + shape.rope));
        kept.put(t, 0, q.data() + t * q_cols, q_cols);
      }
    }
    Gradients out;
    out.q.assign(q.size(), 7.0f);
    out.kv.assign(static_cast<size_t>(tokens * shape.heads * (shape.nope + shape.dv)), 7.0f);
    out.k_pe.assign(static_cast<size_t>(tokens * shape.heads * shape.rope), 7.0f);
    AttentionGradientWorkspace workspace;
    ThreadTeam team(threads);
    attention_core_gradient(model, 0, spans, kept, d_attended.data(), out.q.data(), out.kv.data(), out.k_pe.data(),
                            workspace, team);
    return out;
  }

  double scale() const { return 1 / std::sqrt(static_cast<double>(shape.nope + shape.rope)); }
};

struct Reference {
  Values q, kv, k_pe;
};

Reference reference_of(const Case& c) {
  const Shape& s = c.shape;
  const int64_t dq = s.nope + s.rope;
  const int64_t up = s.nope + s.dv;
  Reference out;
  out.q.assign(c.q.size(), 0);
  out.kv.assign(static_cast<size_t>(c.tokens * s.heads * up), 0);
  out.k_pe.assign(static_cast<size_t>(c.tokens * s.heads * s.rope), 0);
  int64_t start = 0;
  for (int64_t length : s.lengths) {
    for (int64_t h = 0; h < s.heads; ++h) {
      Values keys(static_cast<size_t>(length * dq));
      Values values(static_cast<size_t>(length * s.dv));
      for (int64_t j = 0; j < length; ++j) {
        const float* latent = c.latents.data() + (start + j) * (s.rank + s.rope);
        for (int64_t r = 0; r < up; ++r) {
          double sum = 0;
          for (int64_t k = 0; k < s.rank; ++k)
            sum += static_cast<double>(c.weight[(h * up + r) * s.rank + k]) * latent[k];
          (r < s.nope ? keys[j * dq + r] : values[j * s.dv + r - s.nope]) = sum;
        }
        for (int64_t r = 0; r < s.rope; ++r) keys[j * dq + s.nope + r] = latent[s.rank + r];
      }
      for (int64_t i = 0; i < length; ++i) {
        const float* q = c.q.data() + ((start + i) * s.heads + h) * dq;
        const float* d_out = c.d_attended.data() + ((start + i) * s.heads + h) * s.dv;
        Values p(static_cast<size_t>(i + 1));
        Values dp(p.size(), 0);
        double sum = 0;
        double mean = 0;
        for (int64_t j = 0; j <= i; ++j) {
          double score = 0;
          for (int64_t k = 0; k < dq; ++k) score += q[k] * keys[j * dq + k];
          for (int64_t k = 0; k < s.dv; ++k) dp[j] += d_out[k] * values[j * s.dv + k];
          sum += p[j] = std::exp(c.scale() * score);
        }
        for (int64_t j = 0; j <= i; ++j) mean += (p[j] /= sum) * dp[j];
        for (int64_t j = 0; j <= i; ++j) {
          const double ds = c.scale() * p[j] * (dp[j] - mean);
          double* d_up = out.kv.data() + ((start + j) * s.heads + h) * up;
          double* d_k_pe = out.k_pe.data() + ((start + j) * s.heads + h) * s.rope;
          for (int64_t k = 0; k < dq; ++k) {
            out.q[((start + i) * s.heads + h) * dq + k] += ds * keys[j * dq + k];
            (k < s.nope ? d_up[k] : d_k_pe[k - s.nope]) += ds * q[k];
          }
          for (int64_t k = 0; k < s.dv; ++k) d_up[s.nope + k] += p[j] * d_out[k];
        }
      }
    }
    start += length;
  }
  return out;
}

// The distance of the whole from the reference, and the greatest one of a number, both over the reference's length.
void expect_near(const std::vector<float>& got, const Values& expected, double tolerance, const char* what) {
  ASSERT_EQ(got.size(), expected.size());
  double off = 0;
  double length = 0;
  double worst = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double difference = got[i] - expected[i];
    ASSERT_TRUE(std::isfinite(got[i])) << what << " " << i;
    off += difference * difference;
    length += expected[i] * expected[i];
    worst = std::max(worst, std::fabs(difference));
  }
  const double mean = std::sqrt(length / static_cast<double>(got.size()));
  EXPECT_LE(std::sqrt(off), tolerance * std::sqrt(length) + 1e-6) << what;
  EXPECT_LE(worst, 30 * tolerance * mean + 1e-6) << what;
}

std::vector<Case> cases() {
  std::vector<Case> out;
  for (const Shape& shape :
       {Shape{1, 8, 4, 8, 16, {1}}, Shape{2, 32, 32, 64, 64, {1, 2, 64, 65}}, Shape{3, 22, 12, 18, 30, {131, 3}},
        Shape{2, 16, 8, 40, 48, {128, 63}}, Shape{1, 64, 32, 64, 128, {301}}, Shape{1, 7, 8, 9, 15, {70}}}) {
    out.emplace_back(shape);
  }
  return out;
}

TEST(AttentionGradient, AgreesWithTheFormulas) {
  for (const Case& c : cases()) {
    const Reference expected = reference_of(c);
    for (Isa isa : isas_here()) {
      const IsaGuard guard(isa);
      for (ComputeMode compute : {ComputeMode::fp32, ComputeMode::bf16}) {
        const bool bf16 = compute == ComputeMode::bf16;
        SCOPED_TRACE(testing::Message() << isa_name(isa) << (bf16 ? " bf16" : " fp32") << ", sequence of "
                                        << c.shape.lengths.back() << ", d_v " << c.shape.dv);
        const Gradients got = c.run(compute, 2);
        const double tolerance = bf16 ? kBf16Tolerance : kF32Tolerance;
        expect_near(got.q, expected.q, tolerance, "q");
        expect_near(got.kv, expected.kv, tolerance, "kv");
        expect_near(got.k_pe, expected.k_pe, tolerance, "k_pe");
      }
    }
  }
}

// AVX-512's paired products against the plain ones of the others.
TEST(AttentionGradient, InstructionSetsAgreeInBf16) {
  const auto wide = [](const std::vector<float>& x) { return Values(x.begin(), x.end()); };
  for (const Case& c : cases()) {
    Gradients plain;
    for (Isa isa : isas_here()) {
      const IsaGuard guard(isa);
      SCOPED_TRACE(testing::Message() << isa_name(isa) << ", sequence of " << c.shape.lengths.back() << ", d_v "
                                      << c.shape.dv);
      const Gradients got = c.run(ComputeMode::bf16, 2);
      if (isa == Isa::portable) {
        plain = got;
        continue;
      }
      expect_near(got.q, wide(plain.q), kOrderTolerance, "q");
      expect_near(got.kv, wide(plain.kv), kOrderTolerance, "kv");
      expect_near(got.k_pe, wide(plain.k_pe), kOrderTolerance, "k_pe");
    }
  }
}

TEST(AttentionGradient, AnyNumberOfThreadsAndAnyNeighboursGiveTheSameBits) {
  const Case c(Shape{2, 32, 32, 64, 64, {65, 130}});
  Shape first = c.shape;
  first.lengths = {65};
  Case alone(first);
  alone.weight = c.weight;
  std::copy_n(c.latents.begin(), alone.latents.size(), alone.latents.begin());
  std::copy_n(c.q.begin(), alone.q.size(), alone.q.begin());
  std::copy_n(c.d_attended.begin(), alone.d_attended.size(), alone.d_attended.begin());
  for (Isa isa : isas_here()) {
    const IsaGuard guard(isa);
    for (ComputeMode compute : {ComputeMode::fp32, ComputeMode::bf16}) {
      const Gradients one = c.run(compute, 1);
      const Gradients three = c.run(compute, 3);
      EXPECT_EQ(one.q, three.q);
      EXPECT_EQ(one.kv, three.kv);
      EXPECT_EQ(one.k_pe, three.k_pe);
      const Gradients own = alone.run(compute, 2);
      EXPECT_TRUE(std::equal(own.q.begin(), own.q.end(), one.q.begin()));
      EXPECT_TRUE(std::equal(own.kv.begin(), own.kv.end(), one.kv.begin()));
      EXPECT_TRUE(std::equal(own.k_pe.begin(), own.k_pe.end(), one.k_pe.begin()));
    }
  }
}

}  // namespace
}  // namespace fathom
