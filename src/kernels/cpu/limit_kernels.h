#pragma once
#include <cstddef>
#include <cstdint>

namespace fathom {

/// Loops that do nothing but one kind of instruction; the return value depends on all of it, so that nothing is left
/// out.
struct LimitKernels {
  float (*read)(const std::byte* data, size_t bytes);  ///< `bytes` a multiple of 1,024
  float (*f32)(int64_t rounds);                        ///< f32_ops operations a round
  float (*bf16)(int64_t rounds);                       ///< null where the set has none
  float (*int8)(int64_t rounds);
  int64_t f32_ops, bf16_ops, int8_ops;
};

const LimitKernels& limit_kernels_portable();
const LimitKernels& limit_kernels_avx2();
const LimitKernels& limit_kernels_avx512();
const LimitKernels& limit_kernels_avx512bf16();

}  // namespace fathom
