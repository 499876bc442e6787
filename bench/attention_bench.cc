#include <benchmark/benchmark.h>

#include <chrono>
#include <random>
#include <vector>

#include "base/number_formats.h"
#include "kernels/attention.h"
#include "kernels/machine_limits.h"
#include "kernels/norm.h"

// Latent attention with the widths of DeepSeek-V3 on all threads, over random pages. `of_bf16` is the fraction of the
// rate of BF16 dot products from registers, counted over scores, mix and what the expanded form rebuilds; `of_read`
// that of a streaming read by one thread.

namespace fathom {
namespace {

constexpr LatentDims kDims = {128, 128, 64, 128, 512, 0.1352f};

std::vector<uint16_t> random_bf16(int64_t count) {
  std::mt19937 random(1);
  std::vector<uint16_t> values(static_cast<size_t>(count));
  for (uint16_t& value : values) value = f32_to_bf16(static_cast<float>(random() % 2001) / 1000.0f - 1.0f);
  return values;
}

std::vector<float> random_f32(int64_t count) {
  std::mt19937 random(2);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = static_cast<float>(random() % 2001) / 1000.0f - 1.0f;
  return values;
}

struct Pages {
  std::vector<uint16_t> data;
  std::vector<const std::byte*> pages;
  explicit Pages(int64_t positions)
      : data(random_bf16((positions + kPagePositions - 1) / kPagePositions * kPagePositions * kDims.width())) {
    for (int64_t p = 0; p < positions; p += kPagePositions) {
      pages.push_back(reinterpret_cast<const std::byte*>(data.data() + p * kDims.width()));
    }
  }
  LatentSpan span(int64_t position, int64_t first, int64_t length) const {
    return {pages.data(), 0, position, first, length};
  }
};

// kv_b_proj as FP8 in blocks of 128, or as BF16.
struct KvB {
  std::vector<uint8_t> codes;
  std::vector<uint16_t> values;
  std::vector<float> scales;
  Weight weight;
  explicit KvB(DType dtype) {
    const int64_t rows = kDims.heads * (kDims.nope + kDims.v);
    if (dtype == DType::bf16) {
      values = random_bf16(rows * kDims.latent);
      weight = dense_weight(dtype, values.data(), rows, kDims.latent, kDims.latent);
      return;
    }
    std::mt19937 random(3);
    codes.resize(static_cast<size_t>(rows * kDims.latent));
    for (uint8_t& code : codes) code = static_cast<uint8_t>(random() % 0x60);
    scales.assign(static_cast<size_t>(rows / 128 * (kDims.latent / 128)), 0.013f);
    weight = dense_weight(dtype, codes.data(), rows, kDims.latent, kDims.latent);
    weight.scale_inv = scales.data();
    weight.block_rows = weight.block_cols = 128;
  }
};

// `before` is the rate of BF16 dot products from before the loop; that of after it counts where it is greater, so that
// somebody else's work on the machine does not flatter the figure.
void of_bf16(benchmark::State& state, double operations, double before, ThreadTeam& team) {
  const double limit = std::max(before, measure_arithmetic(team, Arithmetic::bf16));
  state.counters["limit"] = limit;
  state.counters["ops_per_s"] =
      benchmark::Counter(static_cast<double>(state.iterations()) * operations, benchmark::Counter::kIsRate);
  state.counters["of_bf16"] =
      benchmark::Counter(static_cast<double>(state.iterations()) * operations / limit, benchmark::Counter::kIsRate);
}

// One token after `depth` positions, in each of `sequences` sequences: scores and mix of the absorbed form.
void attention_decode(benchmark::State& state) {
  const int64_t depth = state.range(0);
  const int64_t sequences = state.range(1);
  ThreadTeam team;
  const double before = measure_arithmetic(team, Arithmetic::bf16);
  std::vector<Pages> pages;
  std::vector<LatentSpan> spans;
  for (int64_t s = 0; s < sequences; ++s) pages.emplace_back(depth);
  for (int64_t s = 0; s < sequences; ++s) spans.push_back(pages[static_cast<size_t>(s)].span(depth - 1, s, 1));
  AttentionWorkspace workspace;
  const auto queries = random_bf16(sequences * kDims.heads * kDims.width());
  workspace.queries.reserve(queries.size() * sizeof(uint16_t));
  std::copy(queries.begin(), queries.end(), workspace.queries.as<uint16_t>());
  for (auto _ : state) attend_latents(kDims, spans, workspace, team);
  const double pairs = static_cast<double>(sequences * depth * kDims.heads);
  of_bf16(state, 2 * pairs * static_cast<double>(kDims.width() + kDims.latent), before, team);
}

// The same with the queries' way into the latent space and the values' way out of it.
void attention_decode_whole(benchmark::State& state) {
  const int64_t depth = state.range(0);
  ThreadTeam team;
  const double before = measure_arithmetic(team, Arithmetic::bf16);
  const Pages pages(depth);
  const KvB kv_b(DType::f8_e4m3);
  const LatentSpan span = pages.span(depth - 1, 0, 1);
  const auto q = random_f32(kDims.heads * kDims.query_width());
  std::vector<float> attended(static_cast<size_t>(kDims.heads * kDims.v));
  AttentionWorkspace workspace;
  for (auto _ : state) absorbed_attention(kDims, kv_b.weight, {&span, 1}, q.data(), attended.data(), workspace, team);
  const double pairs = static_cast<double>(depth * kDims.heads);
  of_bf16(state, 2 * pairs * static_cast<double>(kDims.width() + kDims.latent), before, team);
}

// `tokens` tokens after `depth` positions, expanded; the rebuilding of keys and values counts as work.
void attention_prefill(benchmark::State& state) {
  const int64_t tokens = state.range(0);
  const int64_t depth = state.range(1);
  ThreadTeam team;
  const double before = measure_arithmetic(team, Arithmetic::bf16);
  const Pages pages(depth + tokens);
  const KvB kv_b(DType::bf16);
  const LatentSpan span = pages.span(depth, 0, tokens);
  const auto q = random_f32(tokens * kDims.heads * kDims.query_width());
  std::vector<float> attended(static_cast<size_t>(tokens * kDims.heads * kDims.v));
  AttentionWorkspace workspace;
  for (auto _ : state) expanded_attention(kDims, kv_b.weight, {&span, 1}, q.data(), attended.data(), workspace, team);
  const auto S = static_cast<double>(tokens);
  const auto P = static_cast<double>(depth);
  const double pairs = (S * P + S * (S + 1) / 2) * static_cast<double>(kDims.heads);
  const double rebuilt = (P + S) * static_cast<double>(kv_b.weight.rows * kv_b.weight.cols);
  of_bf16(state, 2 * (pairs * static_cast<double>(kDims.query_width() + kDims.v) + rebuilt), before, team);
}

// One token's queries into the latent space, weights from memory, one thread.
void absorb(benchmark::State& state, DType dtype) {
  const KvB kv_b(dtype);
  const std::vector<float> q = random_f32(kDims.heads * kDims.query_width());
  std::vector<float> y(static_cast<size_t>(kDims.latent));
  ThreadTeam one(1);
  ReadBandwidth bandwidth(one, size_t{256} << 20);
  const double limit = std::max(bandwidth.measure(), bandwidth.measure());
  const int64_t head_rows = kDims.nope + kDims.v;
  double seconds = 0;
  for (auto _ : state) {
    // The other half of the weights, then something else: as far from the caches as a decode step leaves them.
    bandwidth.measure();
    const auto start = std::chrono::steady_clock::now();
    for (int64_t h = 0; h < kDims.heads; ++h) {
      absorb_queries(q.data() + h * kDims.query_width(), 0, 1, kv_b.weight, h * head_rows, h * head_rows + kDims.nope,
                     h + 1 < kDims.heads ? (h + 1) * head_rows : -1, y.data(), kDims.latent);
    }
    benchmark::DoNotOptimize(y.data());
    const double took = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    state.SetIterationTime(took);
    seconds += took;
  }
  const double bytes =
      static_cast<double>(kDims.heads * kDims.nope * kDims.latent) * static_cast<double>(dtype_bytes(dtype));
  state.counters["limit"] = limit;
  state.counters["of_read"] = static_cast<double>(state.iterations()) * bytes / seconds / limit;
}

// The same for one head whose weights lie in the second-level cache.
void absorb_cached(benchmark::State& state, DType dtype) {
  const KvB kv_b(dtype);
  const std::vector<float> q = random_f32(kDims.query_width());
  std::vector<float> y(static_cast<size_t>(kDims.latent));
  for (auto _ : state) {
    absorb_queries(q.data(), 0, 1, kv_b.weight, 0, kDims.nope, -1, y.data(), kDims.latent);
    benchmark::DoNotOptimize(y.data());
  }
  const double bytes = static_cast<double>(kDims.nope * kDims.latent) * static_cast<double>(dtype_bytes(dtype));
  state.counters["bytes_per_s"] =
      benchmark::Counter(static_cast<double>(state.iterations()) * bytes, benchmark::Counter::kIsRate);
}

void rms_norm_row(benchmark::State& state) {
  const std::vector<float> x = random_f32(7168);
  const std::vector<uint16_t> gain = random_bf16(7168);
  std::vector<float> y(x.size());
  for (auto _ : state) {
    rms_norm(x.data(), 7168, tensor_view(DType::bf16, {7168}, gain.data()), 1e-6f, y.data());
    benchmark::DoNotOptimize(y.data());
  }
}

void swiglu_row(benchmark::State& state) {
  const std::vector<float> gate = random_f32(2048);
  std::vector<float> h(gate.size());
  for (auto _ : state) {
    swiglu(gate.data(), gate.data(), 2048, h.data());
    benchmark::DoNotOptimize(h.data());
  }
}

BENCHMARK(attention_decode)
    ->Args({1024, 1})
    ->Args({4096, 1})
    ->Args({8192, 1})
    ->Args({65536, 1})
    ->Args({1024, 8})
    ->UseRealTime();
BENCHMARK(attention_decode_whole)->Arg(256)->Arg(4096)->UseRealTime();
BENCHMARK(attention_prefill)->Args({512, 0})->Args({512, 7680})->Args({2048, 6144})->UseRealTime();
BENCHMARK_CAPTURE(absorb, fp8, DType::f8_e4m3)->UseManualTime();
BENCHMARK_CAPTURE(absorb, bf16, DType::bf16)->UseManualTime();
BENCHMARK_CAPTURE(absorb_cached, fp8, DType::f8_e4m3);
BENCHMARK_CAPTURE(absorb_cached, bf16, DType::bf16);
BENCHMARK(rms_norm_row);
BENCHMARK(swiglu_row);

}  // namespace
}  // namespace fathom
