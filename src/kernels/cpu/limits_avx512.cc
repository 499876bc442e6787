#include "kernels/cpu/avx512_name.h"
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

// sum_k += a · b in sixteen registers, written as assembly: g++ 12 keeps an array of sums in memory, which halves the
// rate.
#define FATHOM_RATE_LOOP(instruction)                                                                              \
  asm volatile(                                                                                                    \
      ".irp k,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n vpxord %%zmm\\k, %%zmm\\k, %%zmm\\k\n.endr\n"                \
      "1:\n"                                                                                                       \
      ".irp k,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n " instruction                                                \
      " %[a], %[b], %%zmm\\k\n.endr\n"                                                                             \
      "dec %[rounds]\n"                                                                                            \
      "jnz 1b\n"                                                                                                   \
      "vmovdqa64 %%zmm0, %[sum]\n"                                                                                 \
      : [rounds] "+r"(rounds), [sum] "=v"(sum)                                                                     \
      : [a] "v"(a), [b] "v"(b)                                                                                     \
      : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", \
        "xmm13", "xmm14", "xmm15", "cc")

float f32(int64_t rounds) {
  const __m512 a = _mm512_set1_ps(0.5f);
  const __m512 b = _mm512_set1_ps(0.001f);
  __m512i sum;
  FATHOM_RATE_LOOP("vfmadd231ps");
  return _mm512_reduce_add_ps(_mm512_castsi512_ps(sum));
}

#if defined(__AVX512BF16__)
float bf16(int64_t rounds) {
  const __m512i a = _mm512_set1_epi16(0x3f80);
  const __m512i b = _mm512_set1_epi16(0x3c00);
  __m512i sum;
  FATHOM_RATE_LOOP("vdpbf16ps");
  return _mm512_reduce_add_ps(_mm512_castsi512_ps(sum));
}
#else
constexpr float (*bf16)(int64_t) = nullptr;
#endif

float int8(int64_t rounds) {
  const __m512i a = _mm512_set1_epi8(3);
  const __m512i b = _mm512_set1_epi8(-2);
  __m512i sum;
  FATHOM_RATE_LOOP("vpdpbusd");
  return static_cast<float>(_mm_cvtsi128_si32(_mm512_castsi512_si128(sum)));  // all of them would overflow
}

#undef FATHOM_RATE_LOOP

}  // namespace

const LimitKernels& FATHOM_AVX512(limit_kernels)() {
  static const LimitKernels kernels = {read, f32, bf16, int8, kSums * 16 * 2, kSums * 32 * 2, kSums * 64 * 2};
  return kernels;
}

}  // namespace fathom
#else
namespace fathom {
const LimitKernels& FATHOM_AVX512(limit_kernels)() {
  return limit_kernels_portable();
}
}  // namespace fathom
#endif
