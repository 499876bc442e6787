// Latent attention against the formula in float64, every instruction set against the plain one, and against itself cut
// into other pieces.
#include "kernels/attention.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <deque>

#include "base/number_formats.h"
#include "kernels/quantize.h"
#include "support/isa_guard.h"
#include "support/isa_list.h"
#include "support/random_values.h"

namespace fathom {
namespace {

constexpr uint16_t kNan = 0x7fc0;

// The pages of one sequence, in memory in another order; everything that is not written is not a number.
struct Sequence {
  static constexpr size_t kOffset = 128;
  LatentDims dims;
  int64_t end;
  int64_t page_stride;
  std::vector<uint16_t> data;
  std::vector<const std::byte*> pages;

  Sequence(const LatentDims& of, int64_t positions, uint32_t seed)
      : dims(of), end(positions), page_stride(kPagePositions * of.width() + 24) {
    data.assign(kOffset / 2 + static_cast<size_t>((end + kPagePositions - 1) / kPagePositions * page_stride), kNan);
    for (int64_t p = 0; p < end; p += kPagePositions) {
      pages.push_back(reinterpret_cast<const std::byte*>(data.data() + at(p)) - kOffset);
    }
    const std::vector<float> values = random_values(end * dims.width(), seed);
    for (int64_t p = 0; p < end; ++p) {
      for (int64_t k = 0; k < dims.width(); ++k) {
        data[static_cast<size_t>(at(p) + k)] = f32_to_bf16(values[static_cast<size_t>(p * dims.width() + k)]);
      }
    }
  }
  int64_t at(int64_t p) const {
    const int64_t last = (end - 1) / kPagePositions;
    return static_cast<int64_t>(kOffset / 2) + (last - p / kPagePositions) * page_stride +
           p % kPagePositions * dims.width();
  }
  double value(int64_t p, int64_t k) const { return bf16_to_f32(data[static_cast<size_t>(at(p) + k)]); }
  LatentSpan span(int64_t position, int64_t first, int64_t length) const {
    return {pages.data(), kOffset, position, first, length};
  }
};

// The mix of one query over positions [0, visible), with the two numbers that the tolerances need.
struct Mix {
  double value;
  double magnitude;  // Σ p |v| / Σ p
  double greatest;   // the greatest p |v| / Σ p
};

std::vector<Mix> exact_mix(const Sequence& sequence, const uint16_t* query, int64_t visible) {
  const LatentDims& d = sequence.dims;
  std::vector<double> p(static_cast<size_t>(visible));
  double top = -INFINITY;
  for (int64_t j = 0; j < visible; ++j) {
    double score = 0;
    for (int64_t k = 0; k < d.width(); ++k) score += static_cast<double>(bf16_to_f32(query[k])) * sequence.value(j, k);
    p[static_cast<size_t>(j)] = score * static_cast<double>(d.scale);
    top = std::max(top, p[static_cast<size_t>(j)]);
  }
  double sum = 0;
  for (double& value : p) sum += value = std::exp(value - top);
  std::vector<Mix> mix(static_cast<size_t>(d.latent));
  for (int64_t k = 0; k < d.latent; ++k) {
    Mix m{};
    for (int64_t j = 0; j < visible; ++j) {
      const double term = p[static_cast<size_t>(j)] / sum * sequence.value(j, k);
      m.value += term;
      m.magnitude += std::fabs(term);
      m.greatest = std::max(m.greatest, std::fabs(term));
    }
    mix[static_cast<size_t>(k)] = m;
  }
  return mix;
}

std::vector<uint16_t> random_queries(int64_t count, uint32_t seed) {
  std::vector<uint16_t> queries;
  for (float value : random_values(count, seed)) queries.push_back(f32_to_bf16(value));
  return queries;
}

std::vector<float> attend(const LatentDims& dims, const std::vector<LatentSpan>& spans,
                          const std::vector<uint16_t>& queries, int threads) {
  AttentionWorkspace workspace;
  workspace.queries.reserve(queries.size() * sizeof(uint16_t));
  std::copy(queries.begin(), queries.end(), workspace.queries.as<uint16_t>());
  ThreadTeam team(threads);
  attend_latents(dims, spans, workspace, team);
  const auto* mixed = workspace.mixed.as<float>();
  return {mixed, mixed + static_cast<int64_t>(queries.size()) / dims.width() * dims.latent};
}

struct Case {
  LatentDims dims;
  int64_t position, length;
};

const Case kCases[] = {
    {{1, 16, 8, 16, 32, 0.2f}, 0, 1},         // one head, one position
    {{1, 16, 8, 16, 32, 0.2f}, 62, 3},        // over the end of a page
    {{3, 8, 8, 12, 40, 0.1f}, 5, 70},         // more tokens than a page, four blocks of rows
    {{5, 16, 8, 20, 33, 0.2f}, 100, 2},       // odd widths
    {{20, 16, 8, 16, 24, 0.2f}, 1500, 1},     // two runs of pages
    {{33, 8, 4, 16, 20, 0.3f}, 1020, 7},      // tokens on both sides of the end of a run
    {{7, 16, 8, 16, 130, 0.1f}, 2050, 2},     // three runs
    {{128, 128, 64, 128, 512, 0.04f}, 90, 1}  // DeepSeek-V3
};

TEST(LatentAttention, MixesAgreeWithTheFormula) {
  for (Isa isa : isas_here()) {
    const IsaGuard guard(isa);
    for (const Case& c : kCases) {
      SCOPED_TRACE(fmt::format("{}: {} heads, latent {}, {} tokens at {}", isa_name(isa), c.dims.heads, c.dims.latent,
                               c.length, c.position));
      const Sequence sequence(c.dims, c.position + c.length, 3);
      const std::vector<uint16_t> queries = random_queries(c.length * c.dims.heads * c.dims.width(), 4);
      const std::vector<float> mixed = attend(c.dims, {sequence.span(c.position, 0, c.length)}, queries, 2);
      std::vector<float> plain;
      {
        const IsaGuard portable(Isa::portable);
        plain = attend(c.dims, {sequence.span(c.position, 0, c.length)}, queries, 2);
      }
      for (int64_t row = 0; row < c.length * c.dims.heads; ++row) {
        const std::vector<Mix> exact =
            exact_mix(sequence, queries.data() + row * c.dims.width(), c.position + row / c.dims.heads + 1);
        for (int64_t k = 0; k < c.dims.latent; ++k) {
          const Mix& m = exact[static_cast<size_t>(k)];
          const auto i = static_cast<size_t>(row * c.dims.latent + k);
          // A probability is off by half a unit of BF16, 2^-9 of it, and so is their sum.
          ASSERT_NEAR(mixed[i], m.value, 0x1p-8 * m.magnitude + 1e-6) << "row " << row << " column " << k;
          // The same rounding everywhere, unless a sum in another order takes a probability to the other side of a tie:
          // a unit of BF16 of two of them at most.
          ASSERT_NEAR(mixed[i], plain[i], 1e-5 * m.magnitude + 0x1p-6 * m.greatest) << "row " << row << " column " << k;
        }
      }
    }
  }
}

// kv_b_proj in some storage, with the values that it stands for.
struct KvB {
  Weight weight;
  std::vector<std::byte> bytes;
  std::vector<float> scales;
  std::vector<float> values;
  int64_t cols;

  KvB(DType dtype, int64_t rows, int64_t columns, int64_t block, uint32_t seed) : cols(columns) {
    values = random_values(rows * cols, seed, 0.2f);
    bytes.resize(values.size() * dtype_bytes(dtype));
    weight = dense_weight(dtype, bytes.data(), rows, cols, cols);
    if (dtype == DType::f8_e4m3) {
      weight.block_rows = weight.block_cols = block;
      scales.resize(static_cast<size_t>((rows + block - 1) / block * weight.scale_cols()));
      auto* codes = reinterpret_cast<uint8_t*>(bytes.data());
      quantize_weight(values.data(), rows, cols, block, block, false, codes, scales.data());
      weight.scale_inv = scales.data();
      for (int64_t i = 0; i < rows * cols; ++i) {
        const float scale = scales[static_cast<size_t>(i / cols / block * weight.scale_cols() + i % cols / block)];
        values[static_cast<size_t>(i)] = round_to_bf16(e4m3_to_f32(codes[i]) * scale);
      }
      return;
    }
    for (size_t i = 0; i < values.size(); ++i) {
      if (dtype == DType::f32) {
        std::memcpy(bytes.data() + i * 4, &values[i], 4);
        continue;
      }
      const uint16_t bits = dtype == DType::bf16 ? f32_to_bf16(values[i]) : f32_to_f16(values[i]);
      std::memcpy(bytes.data() + i * 2, &bits, 2);
      values[i] = dtype == DType::bf16 ? bf16_to_f32(bits) : f16_to_f32(bits);
    }
  }
  double at(int64_t row, int64_t col) const { return values[static_cast<size_t>(row * cols + col)]; }
};

// The expanded formula in float64, nothing rounded.
std::vector<double> exact_attention(const Sequence& sequence, const KvB& kv_b, const std::vector<float>& q,
                                    int64_t position, int64_t length) {
  const LatentDims& d = sequence.dims;
  std::vector<double> attended(static_cast<size_t>(length * d.heads * d.v));
  for (int64_t h = 0; h < d.heads; ++h) {
    const int64_t head_row = h * (d.nope + d.v);
    std::vector<double> rebuilt(static_cast<size_t>(sequence.end * (d.nope + d.v)));
    for (int64_t p = 0; p < sequence.end; ++p) {
      for (int64_t r = 0; r < d.nope + d.v; ++r) {
        double sum = 0;
        for (int64_t k = 0; k < d.latent; ++k) sum += kv_b.at(head_row + r, k) * sequence.value(p, k);
        rebuilt[static_cast<size_t>(p * (d.nope + d.v) + r)] = sum;
      }
    }
    for (int64_t t = 0; t < length; ++t) {
      const float* query = q.data() + (t * d.heads + h) * d.query_width();
      std::vector<double> p;
      for (int64_t j = 0; j <= position + t; ++j) {
        double score = 0;
        for (int64_t k = 0; k < d.nope; ++k) score += query[k] * rebuilt[static_cast<size_t>(j * (d.nope + d.v) + k)];
        for (int64_t k = 0; k < d.rope; ++k) score += query[d.nope + k] * sequence.value(j, d.latent + k);
        p.push_back(score * static_cast<double>(d.scale));
      }
      const double top = *std::max_element(p.begin(), p.end());
      double sum = 0;
      for (double& value : p) sum += value = std::exp(value - top);
      for (int64_t k = 0; k < d.v; ++k) {
        double mix = 0;
        for (size_t j = 0; j < p.size(); ++j) {
          mix += p[j] / sum * rebuilt[j * static_cast<size_t>(d.nope + d.v) + static_cast<size_t>(d.nope + k)];
        }
        attended[static_cast<size_t>((t * d.heads + h) * d.v + k)] = mix;
      }
    }
  }
  return attended;
}

template <typename A, typename B>
double relative_error(const A& a, const B& b) {
  double difference = 0;
  double norm = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += static_cast<double>(b[i]) * b[i];
  }
  return std::sqrt(difference / norm);
}

using Form = void (*)(const LatentDims&, const Weight&, std::span<const LatentSpan>, const float*, float*,
                      AttentionWorkspace&, ThreadTeam&);

std::vector<float> run(Form form, const LatentDims& dims, const Weight& kv_b, const std::vector<LatentSpan>& spans,
                       const std::vector<float>& q, int threads) {
  AttentionWorkspace workspace;
  ThreadTeam team(threads);
  std::vector<float> attended(q.size() / static_cast<size_t>(dims.query_width()) * static_cast<size_t>(dims.v), NAN);
  form(dims, kv_b, spans, q.data(), attended.data(), workspace, team);
  return attended;
}

TEST(LatentAttention, BothFormsAgreeWithTheFormulaForEveryWeight) {
  const Case cases[] = {{{2, 16, 8, 16, 32, 0.2f}, 0, 1},    {{3, 12, 8, 20, 48, 0.2f}, 60, 70},
                        {{2, 7, 6, 9, 33, 0.2f}, 100, 5},    {{2, 16, 8, 16, 128, 0.1f}, 40, 66},
                        {{4, 32, 16, 32, 256, 0.1f}, 30, 3}, {{1, 70, 8, 130, 64, 0.1f}, 20, 67}};
  for (Isa isa : isas_here()) {
    const IsaGuard guard(isa);
    for (const Case& c : cases) {
      for (DType dtype : {DType::f32, DType::f16, DType::bf16, DType::f8_e4m3}) {
        SCOPED_TRACE(fmt::format("{}: {} heads, latent {}, {} tokens at {}, kv_b_proj {}", isa_name(isa), c.dims.heads,
                                 c.dims.latent, c.length, c.position, dtype_name(dtype)));
        const Sequence sequence(c.dims, c.position + c.length, 5);
        const KvB kv_b(dtype, c.dims.heads * (c.dims.nope + c.dims.v), c.dims.latent, 128, 6);
        const std::vector<float> q = random_values(c.length * c.dims.heads * c.dims.query_width(), 7);
        const std::vector<double> exact = exact_attention(sequence, kv_b, q, c.position, c.length);
        const std::vector<LatentSpan> spans = {sequence.span(c.position, 0, c.length)};
        // Several independent roundings to BF16, 2^-9 each at most; a score of 4 that is off by 2^-8 of itself moves
        // its probability by 2^-6.
        EXPECT_LT(relative_error(run(absorbed_attention, c.dims, kv_b.weight, spans, q, 2), exact), 0x1p-6);
        EXPECT_LT(relative_error(run(expanded_attention, c.dims, kv_b.weight, spans, q, 2), exact), 0x1p-6);
      }
    }
  }
}

// Whole and cut-off runs of 64 columns: an FP8 checkpoint and its published cast give the same bits.
TEST(LatentAttention, Fp8IsItsCastToBf16) {
  for (Isa isa : isas_here()) {
    const IsaGuard guard(isa);
    for (int64_t latent : {33, 48, 128, 144, 200}) {
      const LatentDims dims{3, 16, 8, 20, latent, 0.1f};
      const int64_t rows = dims.heads * (dims.nope + dims.v);
      const KvB fp8(DType::f8_e4m3, rows, latent, 128, 21);
      std::vector<uint16_t> cast(fp8.values.size());
      for (size_t i = 0; i < cast.size(); ++i) cast[i] = f32_to_bf16(fp8.values[i]);
      const Weight bf16 = dense_weight(DType::bf16, cast.data(), rows, latent, latent);
      for (int64_t tokens : {1, 9, 70}) {
        const Sequence sequence(dims, 30 + tokens, 22);
        const std::vector<float> q = random_values(tokens * dims.heads * dims.query_width(), 23);
        const std::vector<LatentSpan> spans = {sequence.span(30, 0, tokens)};
        for (Form form : {absorbed_attention, expanded_attention}) {
          EXPECT_EQ(run(form, dims, fp8.weight, spans, q, 1), run(form, dims, bf16, spans, q, 1))
              << isa_name(isa) << (form == absorbed_attention ? " absorbed" : " expanded") << ", latent " << latent
              << ", tokens " << tokens;
        }
      }
    }
  }
}

TEST(LatentAttention, OneAnswerForAnyNeighboursChunksAndThreads) {
  const LatentDims dims{5, 16, 8, 16, 48, 0.2f};
  const int64_t rows = dims.heads * (dims.nope + dims.v);
  const KvB kv_b(DType::f8_e4m3, rows, dims.latent, 128, 8);
  const Sequence long_one(dims, 2100, 9);
  const Sequence short_one(dims, 80, 10);
  const int64_t q_row = dims.heads * dims.query_width();
  const int64_t out_row = dims.heads * dims.v;
  const std::vector<float> q = random_values(150 * q_row, 11);
  const auto piece = [&](int64_t begin, int64_t count) {
    return std::vector<float>(q.begin() + begin * q_row, q.begin() + (begin + count) * q_row);
  };
  for (Isa isa : isas_here()) {
    const IsaGuard guard(isa);
    for (Form form : {absorbed_attention, expanded_attention}) {
      SCOPED_TRACE(fmt::format("{} {}", isa_name(isa), form == absorbed_attention ? "absorbed" : "expanded"));
      // Rows 0 to 69: the long sequence's tokens at 2,030 to 2,099. Rows 70 to 149: the short one's 80.
      const std::vector<LatentSpan> both = {long_one.span(2030, 0, 70), short_one.span(0, 70, 80)};
      const std::vector<float> together = run(form, dims, kv_b.weight, both, q, 3);
      const auto expect_same = [&](const std::vector<float>& part, int64_t begin) {
        EXPECT_EQ(std::memcmp(part.data(), together.data() + begin * out_row, part.size() * sizeof(float)), 0)
            << "from row " << begin;
      };
      expect_same(run(form, dims, kv_b.weight, {long_one.span(2030, 0, 70)}, piece(0, 70), 1), 0);
      for (const auto& [begin, count] : std::vector<std::pair<int64_t, int64_t>>{{0, 1}, {1, 20}, {21, 49}}) {
        expect_same(run(form, dims, kv_b.weight, {long_one.span(2030 + begin, 0, count)}, piece(begin, count), 2),
                    begin);
      }
      for (const auto& [begin, count] : std::vector<std::pair<int64_t, int64_t>>{{0, 64}, {64, 15}, {79, 1}}) {
        expect_same(run(form, dims, kv_b.weight, {short_one.span(begin, 0, count)}, piece(70 + begin, count), 1),
                    70 + begin);
      }
    }
  }
}

// An FP8 page stands for BF16 rows: attention over it has the bits of attention over those.
TEST(LatentAttention, Fp8PagesGiveWhatTheirBf16RowsGive) {
  const LatentDims dims{5, 16, 8, 16, 120, 0.2f};
  const KvB kv_b(DType::bf16, dims.heads * (dims.nope + dims.v), dims.latent, 128, 8);
  constexpr int64_t kEnd = 1100;
  std::vector<std::vector<std::byte>> pages, rows;
  std::vector<const std::byte*> page_at, rows_at;
  for (int64_t begin = 0; begin < kEnd; begin += kPagePositions) {
    pages.emplace_back(latent_page_bytes(DType::f8_e4m3, dims.width()));
    rows.emplace_back(latent_page_bytes(DType::bf16, dims.width()));
    const std::vector<float> values = random_values(kPagePositions * dims.width(), static_cast<uint32_t>(begin));
    for (int64_t r = 0; r < std::min(kPagePositions, kEnd - begin); ++r) {
      std::vector<float> value(static_cast<size_t>(dims.width()));
      store_latent(DType::f8_e4m3, pages.back().data(), r, dims.width(), values.data() + r * dims.width());
      load_latent(DType::f8_e4m3, pages.back().data(), r, dims.width(), value.data());
      store_latent(DType::bf16, rows.back().data(), r, dims.width(), value.data());
    }
    page_at.push_back(pages.back().data());
    rows_at.push_back(rows.back().data());
  }
  const std::vector<float> q = random_values(70 * dims.heads * dims.query_width(), 11);
  for (Isa isa : isas_here()) {
    const IsaGuard guard(isa);
    for (Form form : {absorbed_attention, expanded_attention}) {
      const LatentSpan fp8{page_at.data(), 0, kEnd - 70, 0, 70, DType::f8_e4m3};
      const LatentSpan bf16{rows_at.data(), 0, kEnd - 70, 0, 70};
      const std::vector<float> a = run(form, dims, kv_b.weight, {fp8}, q, 2);
      const std::vector<float> b = run(form, dims, kv_b.weight, {bf16}, q, 2);
      EXPECT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)), 0) << isa_name(isa);
    }
  }
}

TEST(AbsorbQueries, AgreesWithAPlainSumForEveryWeight) {
  for (Isa isa : isas_here()) {
    const IsaGuard guard(isa);
    for (const auto& [rows, cols, block] : std::vector<std::tuple<int64_t, int64_t, int64_t>>{
             {40, 33, 128}, {300, 128, 128}, {256, 512, 128}, {256, 384, 64}, {200, 256, 256}}) {
      for (DType dtype : {DType::f32, DType::f16, DType::bf16, DType::f8_e4m3}) {
        const KvB w(dtype, rows, cols, block, 12);
        const int64_t begin = rows / 3;
        const int64_t end = rows - 1;
        for (int64_t T : {1, 2, 5}) {
          SCOPED_TRACE(
              fmt::format("{} {} [{}, {}] blocks of {}, T {}", isa_name(isa), dtype_name(dtype), rows, cols, block, T));
          const std::vector<float> x = random_values(T * (end - begin + 3), 13);
          std::vector<float> y(static_cast<size_t>(T * (cols + 2)), NAN);
          absorb_queries(x.data(), end - begin + 3, T, w.weight, begin, end, T == 2 ? 0 : -1, y.data(), cols + 2);
          for (int64_t t = 0; t < T; ++t) {
            for (int64_t k = 0; k < cols; ++k) {
              double exact = 0;
              double magnitude = 0;
              for (int64_t r = begin; r < end; ++r) {
                const double term = x[static_cast<size_t>(t * (end - begin + 3) + r - begin)] * w.at(r, k);
                exact += term;
                magnitude += std::fabs(term);
              }
              ASSERT_NEAR(y[static_cast<size_t>(t * (cols + 2) + k)], exact, 2e-6 * magnitude)
                  << "t " << t << " k " << k;
            }
          }
        }
      }
    }
  }
}

// Every code times a scale that leaves the normal numbers, and a negative scale: the published cast, bit by bit.
TEST(AbsorbQueries, CastsEveryCodeAsPublished) {
  std::vector<uint8_t> codes(2 * 128);
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>(i);
  for (float scale : {1.0f, 0.0173f, -0.3f, 0x1p-125f, 1e36f}) {
    Weight w = dense_weight(DType::f8_e4m3, codes.data(), 2, 128, 128);
    w.block_rows = w.block_cols = 128;
    w.scale_inv = &scale;
    for (Isa isa : isas_here()) {
      const IsaGuard guard(isa);
      for (int64_t row = 0; row < 2; ++row) {
        const float one = 1;
        std::vector<float> y(128);
        absorb_queries(&one, 1, 1, w, row, row + 1, -1, y.data(), 128);
        for (int64_t k = 0; k < 128; ++k) {
          const float expected = round_to_bf16(e4m3_to_f32(codes[static_cast<size_t>(row * 128 + k)]) * scale);
          if (std::isnan(expected)) {
            EXPECT_TRUE(std::isnan(y[static_cast<size_t>(k)]));
          } else {
            EXPECT_EQ(y[static_cast<size_t>(k)], expected)
                << isa_name(isa) << " code " << row * 128 + k << " × " << scale;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace fathom
