#include "engine/kernel_measure.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <random>

#include "base/buffer.h"
#include "base/error.h"
#include "base/interrupt.h"
#include "base/memory.h"
#include "base/number_formats.h"
#include "engine/sampling.h"
#include "kernels/attention.h"
#include "kernels/integer_weight.h"
#include "kernels/norm.h"
#include "kernels/quantize.h"
#include "kernels/router.h"

namespace fathom {
namespace {

// The sizes of DeepSeek-V3.
constexpr int64_t kHidden = 7168;
constexpr int64_t kVocabulary = 129280;
constexpr int64_t kExperts = 256;

// A repeat runs its kernel as often as fills this time, so that a call of microseconds can be timed.
constexpr double kRepeatSeconds = 0.03;

// Products of many tokens take so many rows of a weight that they last about this long at the machine's ceiling.
constexpr double kPassSeconds = 0.02;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::vector<float> normal_values(size_t count, float deviation) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

class KernelBench {
 public:
  KernelBench(const KernelMeasureOptions& options, ThreadTeam& team, MomentaryLimits& limits,
              const std::function<void(const KernelMeasurement&)>& done)
      : options_(options), team_(team), limits_(limits), done_(done) {}

  bool wanted(const std::string& kernel, const std::string& variant) const {
    return (kernel + " " + variant).find(options_.only) != std::string::npos;
  }

  /// Times `pass` and hands the row out, if it is wanted.
  template <typename Pass>
  void measure(KernelMeasurement row, Pass&& pass) {
    if (!wanted(row.kernel, row.variant)) return;
    check_interrupt();
    const auto timed = [&] {
      const auto start = std::chrono::steady_clock::now();
      pass();
      return seconds_since(start);
    };
    double estimate = timed();  // takes memory, fills caches
    if (estimate < kRepeatSeconds) estimate = timed();
    const auto passes = static_cast<int64_t>(std::clamp(kRepeatSeconds / estimate, 1.0, 1e6));
    limits_.forget();
    for (int64_t r = 0; r < options_.repeats; ++r) {
      check_interrupt();
      KernelMeasurement::Repeat repeat;
      repeat.limits = limits_.around([&] {
        const auto start = std::chrono::steady_clock::now();
        for (int64_t i = 0; i < passes; ++i) pass();
        repeat.seconds = seconds_since(start) / static_cast<double>(passes);
      });
      row.repeats.push_back(repeat);
    }
    done_(row);
  }

  ThreadTeam& team() { return team_; }
  size_t weight_bytes() const { return options_.weight_bytes; }

 private:
  const KernelMeasureOptions& options_;
  ThreadTeam& team_;
  MomentaryLimits& limits_;
  const std::function<void(const KernelMeasurement&)>& done_;
};

// A format that a weight can have: a float type, or integers.
struct WeightFormat {
  const char* name;
  DType dtype;
  IntegerFormat integer;  ///< if dtype is u8
};

constexpr WeightFormat kWeightFormats[] = {
    {"F32", DType::f32, {}},
    {"BF16", DType::bf16, {}},
    {"FP8", DType::f8_e4m3, {}},
    {"INT8 g128", DType::u8, {8, 128, false}},
    {"INT8 g32", DType::u8, {8, 32, false}},
    {"INT4 g128", DType::u8, {4, 128, false}},
    {"INT4 g32", DType::u8, {4, 32, false}},
};

// A tall weight [rows, 7168] with its memory: 128 random rows in the format, again and again.
struct BenchWeight {
  static constexpr int64_t kBlock = 128;

  BenchWeight(const WeightFormat& format, size_t target_bytes) {
    const std::vector<float> values = normal_values(kBlock * kHidden, 0.02f);
    const Weight plain = dense_weight(DType::f32, values.data(), kBlock, kHidden, kHidden);
    std::vector<float> block_scales;
    const size_t block_bytes = encode(format, plain, block_scales);
    const auto blocks = static_cast<int64_t>(std::max<size_t>(1, target_bytes / block_bytes));
    data = HugeBuffer(block_bytes * static_cast<size_t>(blocks));
    for (int64_t b = 0; b < blocks; ++b) {
      std::memcpy(data.data() + block_bytes * static_cast<size_t>(b), block.as<std::byte>(), block_bytes);
      scales.insert(scales.end(), block_scales.begin(), block_scales.end());
    }
    const int64_t rows = blocks * kBlock;
    if (format.dtype == DType::u8) {
      weight = integer_weight(format.integer, data.data(), rows, kHidden);
      return;
    }
    weight = dense_weight(format.dtype, data.data(), rows, kHidden, kHidden);
    if (format.dtype == DType::f8_e4m3) {
      weight.scale_inv = scales.data();
      weight.block_rows = weight.block_cols = kBlock;
    }
  }

  Weight weight;

 private:
  // Brings 128 rows into `block`; returns their bytes.
  size_t encode(const WeightFormat& format, const Weight& plain, std::vector<float>& block_scales) {
    const auto* values = reinterpret_cast<const float*>(plain.data);
    const auto count = static_cast<size_t>(kBlock * kHidden);
    if (format.dtype == DType::u8) {
      const size_t bytes = integer_weight_bytes(format.integer, kBlock, kHidden);
      block.reserve(bytes);
      pack_integer_rows(plain, 0, kBlock, format.integer, block.as<std::byte>());
      return bytes;
    }
    const size_t bytes = count * dtype_bytes(format.dtype);
    block.reserve(bytes);
    if (format.dtype == DType::f8_e4m3) {
      block_scales.resize(static_cast<size_t>(kHidden / kBlock));
      quantize_weight(values, kBlock, kHidden, kBlock, kBlock, false, block.as<uint8_t>(), block_scales.data());
    } else if (format.dtype == DType::bf16) {
      for (size_t i = 0; i < count; ++i) block.as<uint16_t>()[i] = f32_to_bf16(values[i]);
    } else {
      std::memcpy(block.as<std::byte>(), values, bytes);
    }
    return bytes;
  }

  Buffer block;
  HugeBuffer data;
  std::vector<float> scales;
};

constexpr int64_t kLinearTokens[] = {1, 4, 16, 64, 512};

void measure_linear(KernelBench& bench, const MachineLimits& limits) {
  const std::vector<float> x = normal_values(512 * kHidden, 1.0f);
  std::vector<float> y;
  Operand operand;
  const auto variant = [](const WeightFormat& format, const char* compute) {
    return fmt::format("{}, {}", format.name, compute);
  };
  for (const WeightFormat& format : kWeightFormats) {
    if (!bench.wanted("linear", variant(format, "bf16")) && !bench.wanted("linear", variant(format, "int8"))) continue;
    const BenchWeight tall(format, bench.weight_bytes());
    for (const auto& [compute, rounding] :
         {std::pair{"bf16", OperandRounding::bf16}, std::pair{"int8", OperandRounding::int8}}) {
      const Arithmetic kind = product_arithmetic(tall.weight, rounding);
      for (const int64_t T : kLinearTokens) {
        Weight weight = tall.weight;
        const double most = kPassSeconds * limits.ops_per_s(kind) / static_cast<double>(2 * T * kHidden);
        const auto blocks = std::max<int64_t>(4, static_cast<int64_t>(most) / BenchWeight::kBlock);
        weight.rows = std::min(weight.rows, blocks * BenchWeight::kBlock);
        y.resize(static_cast<size_t>(T * weight.rows));
        operand.prepare(x.data(), T, kHidden, kHidden, weight, rounding, &bench.team());
        KernelMeasurement row;
        row.kernel = "linear";
        row.variant = variant(format, compute);
        row.tokens = T;
        row.bytes = weight_bytes(weight);
        row.operations.add(kind, 2.0 * static_cast<double>(T) * static_cast<double>(weight.rows * kHidden));
        bench.measure(std::move(row), [&] {
          linear(operand.view(), T, {{&weight, y.data(), weight.rows}}, bench.team());
        });
      }
    }
  }
}

// Latent attention of one layer with kv_b_proj in FP8, over a BF16 cache. Several layers take turns, so that kv_b_proj
// and short caches come from memory as they do in a model.
void measure_attention_of(KernelBench& bench, const std::string& variant, int64_t heads, int64_t positions, int64_t T) {
  if (!bench.wanted("attention", variant)) return;
  const LatentDims dims = {heads, 128, 64, 128, 512, 1 / std::sqrt(192.0f)};
  const auto H = static_cast<double>(heads);
  const auto width = static_cast<size_t>(dims.width());
  const auto latent = static_cast<size_t>(dims.latent);
  const auto pages = static_cast<size_t>((positions + kPagePositions - 1) / kPagePositions);
  const size_t cache_values = pages * kPagePositions * width;
  const int64_t kv_b_rows = heads * (dims.nope + dims.v);
  const size_t layers = std::clamp<size_t>(bench.weight_bytes() / (cache_values * sizeof(uint16_t)), 2, 8);

  HugeBuffer cache(layers * cache_values * sizeof(uint16_t));
  auto* cached = reinterpret_cast<uint16_t*>(cache.data());
  const std::vector<float> page = normal_values(kPagePositions * width, 1.0f);
  for (size_t i = 0; i < layers * cache_values; ++i) cached[i] = f32_to_bf16(page[i % page.size()]);
  std::vector<const std::byte*> page_at;
  for (size_t p = 0; p < pages; ++p) {
    page_at.push_back(reinterpret_cast<const std::byte*>(cached + p * kPagePositions * width));
  }
  const auto codes = static_cast<size_t>(kv_b_rows) * latent;
  std::vector<uint8_t> block(128 * latent);
  std::vector<float> block_scales(latent / 128);
  const std::vector<float> values = normal_values(block.size(), 0.04f);
  quantize_weight(values.data(), 128, dims.latent, 128, 128, false, block.data(), block_scales.data());
  HugeBuffer kv_b(layers * codes);
  auto* kv_b_codes = reinterpret_cast<uint8_t*>(kv_b.data());
  for (size_t i = 0; i < layers * codes; i += block.size()) std::copy(block.begin(), block.end(), kv_b_codes + i);
  std::vector<float> scales;
  for (int64_t r = 0; r < kv_b_rows; r += 128) scales.insert(scales.end(), block_scales.begin(), block_scales.end());

  const std::vector<float> q = normal_values(static_cast<size_t>(T * heads * dims.query_width()), 1.0f);
  std::vector<float> attended(static_cast<size_t>(T * heads * dims.v));
  AttentionWorkspace workspace;
  Weight weight = dense_weight(DType::f8_e4m3, nullptr, kv_b_rows, dims.latent, dims.latent);
  weight.scale_inv = scales.data();
  weight.block_rows = weight.block_cols = 128;

  const bool absorbed = T == 1;
  const double before = static_cast<double>(positions - T);
  const auto tokens = static_cast<double>(T);
  const double pairs = tokens * before + tokens * (tokens + 1) / 2;
  const double per_pair =
      absorbed ? static_cast<double>(dims.width() + dims.latent) : static_cast<double>(dims.query_width() + dims.v);
  KernelMeasurement row;
  row.kernel = "attention";
  row.variant = variant;
  row.tokens = T;
  row.bytes = weight_bytes(weight) + static_cast<double>(positions) * static_cast<double>(width) * sizeof(uint16_t);
  row.operations.add(Arithmetic::bf16,
                     2 * static_cast<double>(codes) * (absorbed ? tokens : before + tokens) + 2 * H * pairs * per_pair);
  size_t layer = 0;
  bench.measure(std::move(row), [&] {
    layer = (layer + 1) % layers;
    weight.data = kv_b.data() + layer * codes;
    const LatentSpan span = {page_at.data(), layer * cache_values * sizeof(uint16_t), positions - T, 0, T};
    if (absorbed) {
      absorbed_attention(dims, weight, {&span, 1}, q.data(), attended.data(), workspace, bench.team());
    } else {
      expanded_attention(dims, weight, {&span, 1}, q.data(), attended.data(), workspace, bench.team());
    }
  });
}

void measure_attention(KernelBench& bench) {
  measure_attention_of(bench, "decode at 1024", 128, 1024, 1);
  measure_attention_of(bench, "decode at 8192", 128, 8192, 1);
  measure_attention_of(bench, "decode at 65536", 128, 65536, 1);
  measure_attention_of(bench, "prefill of 512", 128, 512, 512);
  // Heads are alike: an eighth of them takes an eighth of the time.
  measure_attention_of(bench, "prefill of 4096, 16 of 128 heads", 16, 4096, 4096);
}

void measure_router(KernelBench& bench) {
  constexpr int64_t kTokens = 512;
  RouterConfig config;
  config.n_routed_experts = kExperts;
  config.num_experts_per_tok = 8;
  config.n_group = 8;
  config.topk_group = 4;
  config.routed_scaling_factor = 2.5f;
  const auto K = static_cast<size_t>(config.num_experts_per_tok);
  const std::vector<float> logits = normal_values(kTokens * kExperts, 1.0f);
  const std::vector<float> bias = normal_values(kExperts, 0.05f);
  std::vector<float> score(logits.size());
  std::vector<int32_t> index(kTokens * K);
  std::vector<float> weight(kTokens * K);
  const auto token = [&](int64_t t, int) {
    route_token(logits.data() + t * kExperts, bias.data(), config, score.data() + t * kExperts,
                index.data() + static_cast<size_t>(t) * K, weight.data() + static_cast<size_t>(t) * K);
  };
  for (const int64_t T : {int64_t{1}, kTokens}) {
    KernelMeasurement row;
    row.kernel = "router";
    row.variant = "256 experts, 8 groups";
    row.tokens = T;
    row.bytes = 2.0 * static_cast<double>(T * kExperts) * sizeof(float);
    bench.measure(std::move(row), [&] {
      if (T == 1) {
        token(0, 0);
      } else {
        bench.team().parallel_for(T, token);
      }
    });
  }
}

void measure_norm(KernelBench& bench) {
  constexpr int64_t kTokens = 512;
  const std::vector<float> x = normal_values(kTokens * kHidden, 1.0f);
  std::vector<float> y(x.size());
  const std::vector<float> gain(kHidden, 1.0f);
  const TensorView gain_view = tensor_view(DType::f32, {kHidden}, gain.data());
  const auto token = [&](int64_t t, int) {
    rms_norm(x.data() + t * kHidden, kHidden, gain_view, 1e-6f, y.data() + t * kHidden);
  };
  for (const int64_t T : {int64_t{1}, kTokens}) {
    KernelMeasurement row;
    row.kernel = "rms_norm";
    row.variant = "7168";
    row.tokens = T;
    row.bytes = 2.0 * static_cast<double>(T * kHidden) * sizeof(float);
    bench.measure(std::move(row), [&] {
      if (T == 1) {
        token(0, 0);
      } else {
        bench.team().parallel_for(T, token);
      }
    });
  }
}

void measure_sampling(KernelBench& bench) {
  // Spread 3 is that of a language model's logits; the greatest stands out a little.
  std::vector<float> logits = normal_values(kVocabulary, 3.0f);
  logits[12345] = 20.0f;
  SamplingOptions greedy;
  greedy.temperature = 0;
  SamplingOptions nucleus;
  nucleus.temperature = 0.6;
  nucleus.top_p = 0.95;
  for (const auto& [name, options] : {std::pair{"greedy", greedy}, std::pair{"top-p 0.95, temperature 0.6", nucleus}}) {
    Sampler sampler(options);
    KernelMeasurement row;
    row.kernel = "sampling";
    row.variant = fmt::format("129280 logits, {}", name);
    row.bytes = static_cast<double>(logits.size()) * sizeof(float);
    bench.measure(std::move(row), [&] { sampler.sample(logits); });
  }
}

}  // namespace

double KernelMeasurement::seconds() const {
  std::vector<double> values;
  for (const Repeat& repeat : repeats) values.push_back(repeat.seconds);
  return median(values);
}

double KernelMeasurement::least_seconds(const MachineLimits& limits) const {
  return std::max(bytes / limits.read_bytes_per_s, operations.seconds(limits));
}

Spread KernelMeasurement::ceiling_fraction() const {
  std::vector<double> values;
  for (const Repeat& repeat : repeats) values.push_back(least_seconds(repeat.limits) / repeat.seconds);
  return spread(values);
}

std::string_view KernelMeasurement::bound() const {
  if (repeats.empty()) return "read";
  const MachineLimits& limits = repeats[repeats.size() / 2].limits;
  if (bytes / limits.read_bytes_per_s >= operations.seconds(limits)) return "read";
  if (operations.int8 > 0) return arithmetic_name(Arithmetic::int8);
  return arithmetic_name(operations.bf16 > 0 ? Arithmetic::bf16 : Arithmetic::f32);
}

size_t kernel_measurements() {
  return std::size(kWeightFormats) * 2 * std::size(kLinearTokens) + 5 + 6;
}

void measure_kernels(const KernelMeasureOptions& options, ThreadTeam& team, MomentaryLimits& limits,
                     const std::function<void(const KernelMeasurement&)>& done) {
  KernelBench bench(options, team, limits, done);
  limits.forget();
  measure_linear(bench, limits.around([] {}));
  measure_attention(bench);
  measure_router(bench);
  measure_norm(bench);
  measure_sampling(bench);
}

}  // namespace fathom
