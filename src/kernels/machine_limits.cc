#include "kernels/machine_limits.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "base/error.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/limit_kernels.h"

namespace fathom {
namespace {

constexpr size_t kPiece = size_t{1} << 20;

const LimitKernels& limit_kernels() {
  switch (active_isa()) {
    case Isa::avx512bf16:
      return limit_kernels_avx512bf16();
    case Isa::avx512:
      return limit_kernels_avx512();
    case Isa::avx2:
      return limit_kernels_avx2();
    case Isa::portable:
      break;
  }
  return limit_kernels_portable();
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Where results go so that no compiler can leave their computation out.
std::atomic<float> sink;

double rate(ThreadTeam& team, float (*loop)(int64_t), int64_t operations) {
  if (loop == nullptr) return 0;
  constexpr int64_t kRounds = 100000;
  double best = 0;
  for (int repeat = 0; repeat < 3; ++repeat) {
    const int64_t items = 8 * team.size();
    const auto start = std::chrono::steady_clock::now();
    team.parallel_for(items, [&](int64_t, int) { sink.store(loop(kRounds), std::memory_order_relaxed); });
    best = std::max(best, static_cast<double>(items * kRounds * operations) / seconds_since(start));
  }
  return best;
}

float portable_read(const std::byte* data, size_t bytes) {
  uint64_t sums[4] = {};
  for (size_t i = 0; i < bytes; i += 32) {
    uint64_t words[4];
    std::memcpy(words, data + i, sizeof(words));
    for (int k = 0; k < 4; ++k) sums[k] ^= words[k];
  }
  return static_cast<float>(sums[0] ^ sums[1] ^ sums[2] ^ sums[3]);
}

float portable_f32(int64_t rounds) {
  float sums[16];
  for (int k = 0; k < 16; ++k) sums[k] = static_cast<float>(k);
  for (int64_t i = 0; i < rounds; ++i) {
    for (float& sum : sums) sum = sum * 0.999f + 0.001f;
  }
  float total = 0;
  for (float sum : sums) total += sum;
  return total;
}

}  // namespace

std::string_view arithmetic_name(Arithmetic kind) {
  switch (kind) {
    case Arithmetic::f32:
      return "f32";
    case Arithmetic::bf16:
      return "bf16";
    case Arithmetic::int8:
      return "int8";
  }
  return "?";
}

double MachineLimits::ops_per_s(Arithmetic kind) const {
  if (kind == Arithmetic::bf16) return std::max(bf16_ops_per_s, f32_ops_per_s);
  if (kind == Arithmetic::int8 && int8_ops_per_s > 0) return int8_ops_per_s;
  return f32_ops_per_s;
}

const LimitKernels& limit_kernels_portable() {
  static const LimitKernels kernels = {portable_read, portable_f32, nullptr, nullptr, 32, 0, 0};
  return kernels;
}

ReadBandwidth::ReadBandwidth(ThreadTeam& team, size_t bytes) : team_(team), bytes_(bytes / kPiece * kPiece) {
  void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED)
    throw_failure("The bandwidth measurement needs {} bytes of memory: {}.", bytes_, std::strerror(errno));
  data_ = static_cast<std::byte*>(memory);
  madvise(data_, bytes_, MADV_HUGEPAGE);
  team_.parallel_for(static_cast<int64_t>(bytes_ / kPiece), [&](int64_t piece, int) {
    std::memset(data_ + static_cast<size_t>(piece) * kPiece, static_cast<int>(piece & 0x7f), kPiece);
  });
}

ReadBandwidth::~ReadBandwidth() {
  munmap(data_, bytes_);
}

double ReadBandwidth::measure() {
  const LimitKernels& kernels = limit_kernels();
  const auto start = std::chrono::steady_clock::now();
  team_.parallel_for(static_cast<int64_t>(bytes_ / kPiece), [&](int64_t piece, int) {
    sink.store(kernels.read(data_ + static_cast<size_t>(piece) * kPiece, kPiece), std::memory_order_relaxed);
  });
  return static_cast<double>(bytes_) / seconds_since(start);
}

double measure_arithmetic(ThreadTeam& team, Arithmetic kind) {
  const LimitKernels& kernels = limit_kernels();
  switch (kind) {
    case Arithmetic::f32:
      return rate(team, kernels.f32, kernels.f32_ops);
    case Arithmetic::bf16:
      return rate(team, kernels.bf16, kernels.bf16_ops);
    case Arithmetic::int8:
      return rate(team, kernels.int8, kernels.int8_ops);
  }
  return 0;
}

double measure_ceiling(ThreadTeam& team, Arithmetic kind) {
  MachineLimits limits;
  limits.f32_ops_per_s = measure_arithmetic(team, Arithmetic::f32);
  limits.bf16_ops_per_s = kind == Arithmetic::bf16 ? measure_arithmetic(team, kind) : 0;
  limits.int8_ops_per_s = kind == Arithmetic::int8 ? measure_arithmetic(team, kind) : 0;
  return limits.ops_per_s(kind);
}

MachineLimits measure_limits(ThreadTeam& team, ReadBandwidth& bandwidth) {
  MachineLimits limits;
  limits.read_bytes_per_s = bandwidth.measure();
  limits.f32_ops_per_s = measure_arithmetic(team, Arithmetic::f32);
  limits.bf16_ops_per_s = measure_arithmetic(team, Arithmetic::bf16);
  limits.int8_ops_per_s = measure_arithmetic(team, Arithmetic::int8);
  return limits;
}

}  // namespace fathom
