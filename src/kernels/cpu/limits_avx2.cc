#include "kernels/cpu/limit_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace fathom {
namespace {

constexpr int kSums = 12;

float read(const std::byte* data, size_t bytes) {
  __m256i sums[8];
  for (__m256i& sum : sums) sum = _mm256_setzero_si256();
  for (size_t i = 0; i < bytes; i += 256) {
    for (int k = 0; k < 8; ++k) {
      sums[k] = _mm256_xor_si256(sums[k], _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data + i + 32 * k)));
    }
  }
  for (int k = 1; k < 8; ++k) sums[0] = _mm256_xor_si256(sums[0], sums[k]);
  return static_cast<float>(_mm256_extract_epi32(sums[0], 0) ^ _mm256_extract_epi32(sums[0], 5));
}

float f32(int64_t rounds) {
  __m256 sums[kSums];
  for (int k = 0; k < kSums; ++k) sums[k] = _mm256_set1_ps(static_cast<float>(k));
  const __m256 a = _mm256_set1_ps(0.999f);
  const __m256 b = _mm256_set1_ps(0.001f);
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 16
    for (__m256& sum : sums) sum = _mm256_fmadd_ps(sum, a, b);
  }
  for (int k = 1; k < kSums; ++k) sums[0] = _mm256_add_ps(sums[0], sums[k]);
  return _mm256_cvtss_f32(sums[0]);
}

// Bytes times bytes in pairs to 16 bits, pairs of those to 32 bits, and the sum: what stands in for a dot product here.
float int8(int64_t rounds) {
  __m256i sums[kSums];
  for (__m256i& sum : sums) sum = _mm256_setzero_si256();
  const __m256i b = _mm256_set1_epi8(-2);
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i a = _mm256_set1_epi8(3);
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 16
    for (__m256i& sum : sums) {
      asm("" : "+x"(a));  // no instruction: the compiler must take `a` for a new value, or one product serves all sums
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones));
    }
  }
  for (int k = 1; k < kSums; ++k) sums[0] = _mm256_add_epi32(sums[0], sums[k]);
  return static_cast<float>(_mm256_extract_epi32(sums[0], 0) ^ _mm256_extract_epi32(sums[0], 5));
}

}  // namespace

const LimitKernels& limit_kernels_avx2() {
  static const LimitKernels kernels = {read, f32, nullptr, int8, kSums * 8 * 2, 0, kSums * 32 * 2};
  return kernels;
}

}  // namespace fathom
#else
namespace fathom {
const LimitKernels& limit_kernels_avx2() {
  return limit_kernels_portable();
}
}  // namespace fathom
#endif
