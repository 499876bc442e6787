#include "kernels/cpu/norm_generic.h"

namespace fathom {

const NormKernels& norm_kernels_avx512() {
#if defined(__AVX512F__)
  static const NormKernels kernels = make_norm_kernels<Avx512Vector>();
  return kernels;
#else
  return norm_kernels_portable();
#endif
}

}  // namespace fathom
