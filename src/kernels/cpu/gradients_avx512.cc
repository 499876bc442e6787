#include "kernels/cpu/avx512_name.h"
#include "kernels/cpu/gradient_generic.h"

namespace fathom {

const GradientKernels& FATHOM_AVX512(gradient_kernels)() {
#if defined(__AVX512F__)
  static const GradientKernels kernels = make_gradient_kernels<Avx512Vector>();
  return kernels;
#else
  return gradient_kernels_portable();
#endif
}

}  // namespace fathom
