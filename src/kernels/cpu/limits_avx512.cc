#include "kernels/cpu/limit_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace fathom {
namespace {

// Sixteen independent sums: more than latency times throughput of any of these instructions.
constexpr int kSums = 16;

float read(const std::byte* data, size_t bytes) {
  __m512i sums[8];
  for (__m512i& sum : sums) sum = _mm512_setzero_si512();
  for (size_t i = 0; i < bytes; i += 512) {
    for (int k = 0; k < 8; ++k) sums[k] = _mm512_xor_si512(sums[k], _mm512_loadu_si512(data + i + 64 * k));
  }
  for (int k = 1; k < 8; ++k) sums[0] = _mm512_xor_si512(sums[0], sums[k]);
  return static_cast<float>(_mm512_reduce_add_epi64(sums[0]));
}

// The instructions are written out: with intrinsics g++ 12 keeps some of the sums in memory, which halves the rate.
#define FATHOM_RATE_LOOP(instruction)                                  \
  for (int64_t i = 0; i < rounds; ++i) {                               \
    _Pragma("GCC unroll 16") for (int k = 0; k < kSums; ++k) {         \
      asm(instruction " %1, %2, %0" : "+v"(sums[k]) : "v"(a), "v"(b)); \
    }                                                                  \
  }

float f32(int64_t rounds) {
  __m512 sums[kSums];
  for (int k = 0; k < kSums; ++k) sums[k] = _mm512_set1_ps(static_cast<float>(k));
  const __m512 a = _mm512_set1_ps(0.999f);
  const __m512 b = _mm512_set1_ps(0.001f);
  FATHOM_RATE_LOOP("vfmadd231ps")
  for (int k = 1; k < kSums; ++k) sums[0] = _mm512_add_ps(sums[0], sums[k]);
  return _mm512_reduce_add_ps(sums[0]);
}

float bf16(int64_t rounds) {
  __m512 sums[kSums];
  for (int k = 0; k < kSums; ++k) sums[k] = _mm512_set1_ps(static_cast<float>(k));
  const __m512i a = _mm512_set1_epi16(0x3f80);
  const __m512i b = _mm512_set1_epi16(0x3c00);
  FATHOM_RATE_LOOP("vdpbf16ps")
  for (int k = 1; k < kSums; ++k) sums[0] = _mm512_add_ps(sums[0], sums[k]);
  return _mm512_reduce_add_ps(sums[0]);
}

float int8(int64_t rounds) {
  __m512i sums[kSums];
  for (int k = 0; k < kSums; ++k) sums[k] = _mm512_set1_epi32(k);
  const __m512i a = _mm512_set1_epi8(3);
  const __m512i b = _mm512_set1_epi8(-2);
  FATHOM_RATE_LOOP("vpdpbusd")
  for (int k = 1; k < kSums; ++k) sums[0] = _mm512_add_epi32(sums[0], sums[k]);
  return static_cast<float>(_mm512_reduce_add_epi32(sums[0]));
}

#undef FATHOM_RATE_LOOP

}  // namespace

const LimitKernels& limit_kernels_avx512() {
  static const LimitKernels kernels = {read, f32, bf16, int8, kSums * 16 * 2, kSums * 32 * 2, kSums * 64 * 2};
  return kernels;
}

}  // namespace fathom
#else
namespace fathom {
const LimitKernels& limit_kernels_avx512() {
  return limit_kernels_portable();
}
}  // namespace fathom
#endif
