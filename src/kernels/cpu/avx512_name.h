#pragma once
// Files *_avx512.cc that have to do with BF16 are compiled twice, for Isa::avx512bf16 (with FATHOM_AVX512_BF16) and for
// Isa::avx512:
// FATHOM_AVX512(name) is name_avx512bf16 in the one and name_avx512 in the other.
#if defined(FATHOM_AVX512_BF16)
#define FATHOM_AVX512(name) name##_avx512bf16
#else
#define FATHOM_AVX512(name) name##_avx512
#endif
