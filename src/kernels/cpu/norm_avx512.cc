#include "kernels/cpu/avx512_name.h"
#include "kernels/cpu/norm_generic.h"

namespace fathom {

const NormKernels& FATHOM_AVX512(norm_kernels)() {
#if defined(__AVX512F__)
  static const NormKernels kernels = make_norm_kernels<Avx512Vector>();
  return kernels;
#else
  return norm_kernels_portable();
#endif
}

}  // namespace fathom
