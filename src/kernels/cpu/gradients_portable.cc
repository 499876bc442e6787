#include "kernels/cpu/gradient_generic.h"

namespace fathom {

const GradientKernels& gradient_kernels_portable() {
  static const GradientKernels kernels = make_gradient_kernels<PortableVector>();
  return kernels;
}

}  // namespace fathom
