#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace fathom {
namespace {  // included by files of one instruction set

inline __m512bh as_bf16(__m512i bits) {
  return reinterpret_cast<__m512bh>(bits);
}

// The pair of BF16 at p in every lane.
inline __m512bh broadcast_pair(const uint16_t* p) {
  int32_t bits;
  std::memcpy(&bits, p, sizeof(bits));
  return as_bf16(_mm512_set1_epi32(bits));
}

}  // namespace
}  // namespace fathom
