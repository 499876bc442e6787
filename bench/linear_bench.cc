#include <benchmark/benchmark.h>

#include <random>
#include <vector>

#include "base/buffer.h"
#include "kernels/linear.h"
#include "kernels/machine_limits.h"

// One thread's products with weights that lie in memory, as decode meets them, and with weights that stay in the
// second-level cache, as prefill does. `of_read` is the fraction of a streaming read by one thread, measured before the
// loop.

namespace fathom {
namespace {

constexpr int64_t kCols = 7168;

void fill(Buffer& buffer, size_t bytes, DType dtype) {
  buffer.reserve(bytes);
  std::mt19937 random(1);
  auto* data = buffer.as<uint8_t>();
  for (size_t i = 0; i < bytes; ++i) {
    // Finite values of moderate size in every format: the high byte of BF16, and FP8 codes without NaN.
    data[i] = static_cast<uint8_t>(dtype == DType::f8_e4m3 ? random() % 0x60 : (i % 2 == 1 ? 0x3c : random() & 0xff));
  }
}

void product(benchmark::State& state, DType dtype, int64_t rows) {
  const int64_t T = state.range(0);
  Buffer weights;
  fill(weights, static_cast<size_t>(rows * kCols) * dtype_bytes(dtype), dtype);
  Weight weight = dense_weight(dtype, weights.as<std::byte>(), rows, kCols, kCols);
  const std::vector<float> scales(static_cast<size_t>((rows + 127) / 128 * (kCols / 128)), 0.01f);
  weight.scale_inv = scales.data();
  weight.block_rows = weight.block_cols = 128;
  const std::vector<float> x(static_cast<size_t>(T * kCols), 0.5f);
  std::vector<float> y(static_cast<size_t>(T * rows));
  Operand operand;
  operand.prepare(x.data(), T, kCols, kCols, weight, OperandRounding::bf16, nullptr);
  ThreadTeam one(1);
  ReadBandwidth bandwidth(one, size_t{256} << 20);
  const double limit = std::max(bandwidth.measure(), bandwidth.measure());
  const int64_t step = rows_per_item(rows, T, 2);
  for (auto _ : state) {
    for (int64_t r = 0; r < rows; r += step) {
      linear_rows(operand.view(), nullptr, T, weight, r, std::min(rows, r + step), y.data() + r, rows);
    }
    benchmark::DoNotOptimize(y.data());
  }
  const double bytes = static_cast<double>(rows * kCols) * static_cast<double>(dtype_bytes(dtype));
  const auto n = static_cast<double>(state.iterations());
  state.counters["bytes_per_s"] = benchmark::Counter(n * bytes, benchmark::Counter::kIsRate);
  state.counters["ops_per_s"] =
      benchmark::Counter(n * 2 * static_cast<double>(rows * kCols * T), benchmark::Counter::kIsRate);
  state.counters["of_read"] = benchmark::Counter(n * bytes / limit, benchmark::Counter::kIsRate);
}

BENCHMARK_CAPTURE(product, fp8_from_memory, DType::f8_e4m3, 32768)->Arg(1)->Arg(4);
BENCHMARK_CAPTURE(product, bf16_from_memory, DType::bf16, 16384)->Arg(1)->Arg(4);
BENCHMARK_CAPTURE(product, fp8_from_cache, DType::f8_e4m3, 64)->Arg(1)->Arg(16)->Arg(256);
BENCHMARK_CAPTURE(product, bf16_from_cache, DType::bf16, 32)->Arg(1)->Arg(16)->Arg(256);

}  // namespace
}  // namespace fathom
