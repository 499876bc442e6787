#include "kernels/cpu/gradient_generic.h"

namespace fathom {

const GradientKernels& gradient_kernels_avx2() {
#if defined(__AVX2__)
  static const GradientKernels kernels = make_gradient_kernels<Avx2Vector>();
  return kernels;
#else
  return gradient_kernels_portable();
#endif
}

}  // namespace fathom
