#include <benchmark/benchmark.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <random>
#include <vector>

#include "base/buffer.h"
#include "kernels/integer_weight.h"
#include "kernels/linear.h"
#include "kernels/machine_limits.h"

// One thread's products with integers: weights from memory, as decode meets them (`of_read` is the fraction of a
// streaming read by one thread), and weights that stay in the second-level cache, as in prefill (`of_int8` is the
// fraction of the thread's INT8 dot products from registers; 0 on sets that have none). The ceiling is measured before
// and after each repeat; the fraction is the median of the repeats. Codes, scales and zeros are bytes of weights.

namespace fathom {
namespace {

constexpr int64_t kCols = 7168;
constexpr int64_t kMemoryRows = 24576;  // 176 MB of 8 bits
constexpr int64_t kCacheRows = 64;

// In huge pages where the system gives them, as the ceiling's memory is.
void reserve_huge(Buffer& buffer, size_t bytes) {
  constexpr size_t kHugePage = size_t{2} << 20;
  buffer.reserve(bytes);
  const auto begin = (reinterpret_cast<uintptr_t>(buffer.as<std::byte>()) + kHugePage - 1) / kHugePage * kHugePage;
  const auto end = (reinterpret_cast<uintptr_t>(buffer.as<std::byte>()) + bytes) / kHugePage * kHugePage;
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
}

Weight random_panels(Buffer& buffer, const IntegerFormat& format, int64_t rows) {
  const size_t bytes = integer_weight_bytes(format, rows, kCols);
  reserve_huge(buffer, bytes);
  std::mt19937 random(1);
  auto* data = buffer.as<uint32_t>();
  // Bytes below 0x40 make BF16 scales of moderate size, too.
  for (size_t i = 0; i < bytes / 4; ++i) data[i] = random() & 0x3f3f3f3fu;
  return integer_weight(format, buffer.as<std::byte>(), rows, kCols);
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double>& values) {
  std::nth_element(values.begin(), values.begin() + static_cast<ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

void product(benchmark::State& state, const IntegerFormat& format, int64_t rows, OperandRounding rounding) {
  const int64_t T = state.range(0);
  Buffer panels;
  const Weight weight = random_panels(panels, format, rows);
  std::vector<float> x(static_cast<size_t>(T * kCols));
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 255) - 127;
  std::vector<float> y(static_cast<size_t>(T * rows));
  Operand operand;
  operand.prepare(x.data(), T, kCols, kCols, weight, rounding, nullptr);
  ThreadTeam one(1);
  const int64_t step = rows_per_item(kMemoryRows, T, 2);
  const auto work = [&] {
    for (int64_t r = 0; r < rows; r += step) {
      linear_rows(operand.view(), nullptr, T, weight, r, std::min(rows, r + step), y.data() + r, rows);
    }
    benchmark::DoNotOptimize(y.data());
  };
  const auto bytes = static_cast<double>(integer_weight_bytes(format, rows, kCols));
  const auto ops = static_cast<double>(2 * rows * kCols * T);
  const bool memory = rows == kMemoryRows;
  ReadBandwidth bandwidth(one, memory ? size_t{128} << 20 : size_t{1} << 20);
  std::vector<double> fractions;
  double before = memory ? bandwidth.measure() : measure_arithmetic(one, Arithmetic::int8);
  for (auto _ : state) {
    // From the cache, as often as takes some milliseconds, so that the ceilings before and after are of the same
    // moment.
    const int64_t repeats = memory ? 1 : std::max<int64_t>(1, static_cast<int64_t>(4e9 / ops));
    const auto start = std::chrono::steady_clock::now();
    for (int64_t i = 0; i < repeats; ++i) work();
    const double seconds = seconds_since(start) / static_cast<double>(repeats);
    state.SetIterationTime(seconds);
    const double after = memory ? bandwidth.measure() : measure_arithmetic(one, Arithmetic::int8);
    fractions.push_back((memory ? bytes : ops) / seconds / ((before + after) / 2));
    before = after;
  }
  const auto n = static_cast<double>(state.iterations());
  state.counters["bytes_per_s"] = benchmark::Counter(n * bytes, benchmark::Counter::kIsRate);
  state.counters["ops_per_s"] = benchmark::Counter(n * ops, benchmark::Counter::kIsRate);
  state.counters[memory ? "of_read" : "of_int8"] = before > 0 ? median(fractions) : 0;
}

constexpr IntegerFormat kInt8{8, 128, false};
constexpr IntegerFormat kInt8Group32{8, 32, false};
constexpr IntegerFormat kInt4{4, 128, false};
constexpr IntegerFormat kInt4Group32{4, 32, false};
constexpr IntegerFormat kInt4Zero{4, 32, true};

#define FATHOM_INTEGER_BENCH(name, format)                                                   \
  BENCHMARK_CAPTURE(product, name##_from_memory, format, kMemoryRows, OperandRounding::int8) \
      ->Arg(1)                                                                               \
      ->Arg(2)                                                                               \
      ->Arg(4)                                                                               \
      ->Arg(8)                                                                               \
      ->UseManualTime()                                                                      \
      ->Iterations(21);                                                                      \
  BENCHMARK_CAPTURE(product, name##_from_cache, format, kCacheRows, OperandRounding::int8)   \
      ->Arg(16)                                                                              \
      ->Arg(64)                                                                              \
      ->Arg(256)                                                                             \
      ->UseManualTime()                                                                      \
      ->Iterations(5)

FATHOM_INTEGER_BENCH(int8, kInt8);
FATHOM_INTEGER_BENCH(int8_group32, kInt8Group32);
FATHOM_INTEGER_BENCH(int4, kInt4);
FATHOM_INTEGER_BENCH(int4_group32, kInt4Group32);
FATHOM_INTEGER_BENCH(int4_group32_zero, kInt4Zero);
BENCHMARK_CAPTURE(product, int8_float_operand, kInt8, kCacheRows, OperandRounding::bf16)
    ->Arg(1)
    ->Arg(64)
    ->UseManualTime()
    ->Iterations(3);

// Bringing a float weight to integers: bytes of the float weight per second.
void pack(benchmark::State& state, DType dtype, const IntegerFormat& format) {
  constexpr int64_t rows = 4096;
  const size_t bytes = static_cast<size_t>(rows * kCols) * dtype_bytes(dtype);
  Buffer values;
  values.reserve(bytes);
  std::mt19937 random(1);
  auto* data = values.as<uint8_t>();
  for (size_t i = 0; i < bytes; ++i) {
    // Moderate values in every format: FP8 codes without NaN, BF16 high bytes of one exponent.
    data[i] = static_cast<uint8_t>(dtype == DType::f8_e4m3 ? (random() & 0x80) | random() % 0x7f
                                                           : (i % 2 == 1 ? 0x3c : random() & 0xff));
  }
  Weight weight = dense_weight(dtype, data, rows, kCols, kCols);
  const std::vector<float> scales(static_cast<size_t>(rows / 128 * (kCols / 128)), 0.01f);
  weight.scale_inv = scales.data();
  weight.block_rows = weight.block_cols = 128;
  Buffer panels;
  panels.reserve(integer_weight_bytes(format, rows, kCols));
  constexpr int64_t step = 64;
  std::memset(panels.as<std::byte>(), 0, panels.bytes());
  for (auto _ : state) {
    for (int64_t r = 0; r < rows; r += step) {
      pack_integer_rows(
          weight, r, r + step, format,
          panels.as<std::byte>() + static_cast<size_t>(r / kPanelRows) * integer_panel_bytes(format, kCols));
    }
    benchmark::DoNotOptimize(panels.as<std::byte>());
  }
  state.counters["bytes_per_s"] = benchmark::Counter(
      static_cast<double>(state.iterations()) * static_cast<double>(bytes), benchmark::Counter::kIsRate);
}

BENCHMARK_CAPTURE(pack, fp8_to_int8, DType::f8_e4m3, kInt8);
BENCHMARK_CAPTURE(pack, bf16_to_int8, DType::bf16, kInt8);
BENCHMARK_CAPTURE(pack, fp8_to_int4_group32, DType::f8_e4m3, kInt4Group32);
BENCHMARK_CAPTURE(pack, bf16_to_int4_group32_zero, DType::bf16, kInt4Zero);

// Activations of 64 tokens to integers: bytes of float32 per second.
void quantize(benchmark::State& state) {
  constexpr int64_t T = 64;
  const std::vector<float> x(static_cast<size_t>(T * kCols), 0.7f);
  Operand operand;
  for (auto _ : state) {
    operand.prepare(x.data(), T, kCols, kCols, Weight(), OperandRounding::int8, nullptr);
    benchmark::DoNotOptimize(operand.view().data);
  }
  state.counters["bytes_per_s"] = benchmark::Counter(
      static_cast<double>(state.iterations()) * static_cast<double>(T * kCols * 4), benchmark::Counter::kIsRate);
}
BENCHMARK(quantize);

}  // namespace
}  // namespace fathom
