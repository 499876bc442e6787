#include "kernels/cpu/norm_generic.h"

namespace fathom {

const NormKernels& norm_kernels_avx2() {
#if defined(__AVX2__)
  static const NormKernels kernels = make_norm_kernels<Avx2Vector>();
  return kernels;
#else
  return norm_kernels_portable();
#endif
}

}  // namespace fathom
