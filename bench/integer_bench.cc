#include <benchmark/benchmark.h>
#include <sys/mman.h>

#include <random>
#include <vector>

#include "base/buffer.h"
#include "kernels/integer_weight.h"
#include "kernels/linear.h"
#include "kernels/machine_limits.h"

// One thread's products with integers: weights from memory, as decode meets them (`of_read` is the fraction of a
// streaming read by one thread), and weights that stay in the second-level cache, as in prefill (`of_int8` is the
// fraction of the thread's INT8 dot products from registers; 0 on sets that have none). Both ceilings are measured
// before and after the loop; the better one counts. Codes, scales and zeros are bytes of weights.

namespace fathom {
namespace {

constexpr int64_t kCols = 7168;

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
  ReadBandwidth bandwidth(one, size_t{256} << 20);
  double read = std::max(bandwidth.measure(), bandwidth.measure());
  double int8 = measure_arithmetic(one).int8_ops_per_s;
  const int64_t step = rows_per_item(rows, T, 2);
  for (auto _ : state) {
    for (int64_t r = 0; r < rows; r += step) {
      linear_rows(operand.view(), nullptr, T, weight, r, std::min(rows, r + step), y.data() + r, rows);
    }
    benchmark::DoNotOptimize(y.data());
  }
  read = std::max({read, bandwidth.measure(), bandwidth.measure()});
  int8 = std::max(int8, measure_arithmetic(one).int8_ops_per_s);
  const auto n = static_cast<double>(state.iterations());
  const double bytes = n * static_cast<double>(integer_weight_bytes(format, rows, kCols));
  const double ops = n * 2 * static_cast<double>(rows * kCols * T);
  state.counters["bytes_per_s"] = benchmark::Counter(bytes, benchmark::Counter::kIsRate);
  state.counters["ops_per_s"] = benchmark::Counter(ops, benchmark::Counter::kIsRate);
  state.counters["of_read"] = benchmark::Counter(bytes / read, benchmark::Counter::kIsRate);
  if (int8 > 0) state.counters["of_int8"] = benchmark::Counter(ops / int8, benchmark::Counter::kIsRate);
}

constexpr IntegerFormat kInt8{8, 128, false};
constexpr IntegerFormat kInt8Group32{8, 32, false};
constexpr IntegerFormat kInt4{4, 128, false};
constexpr IntegerFormat kInt4Group32{4, 32, false};
constexpr IntegerFormat kInt4Zero{4, 32, true};
constexpr int64_t kMemoryRows = 16384;  // 117 MB of 8 bits
constexpr int64_t kCacheRows = 64;

#define FATHOM_INTEGER_BENCH(name, format)                                                                    \
  BENCHMARK_CAPTURE(product, name##_from_memory, format, kMemoryRows, OperandRounding::int8)->Arg(1)->Arg(4); \
  BENCHMARK_CAPTURE(product, name##_from_cache, format, kCacheRows, OperandRounding::int8)->Arg(16)->Arg(64)->Arg(256)

FATHOM_INTEGER_BENCH(int8, kInt8);
FATHOM_INTEGER_BENCH(int8_group32, kInt8Group32);
FATHOM_INTEGER_BENCH(int4, kInt4);
FATHOM_INTEGER_BENCH(int4_group32, kInt4Group32);
FATHOM_INTEGER_BENCH(int4_group32_zero, kInt4Zero);
BENCHMARK_CAPTURE(product, int8_float_operand, kInt8, kCacheRows, OperandRounding::bf16)->Arg(1)->Arg(64);

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
