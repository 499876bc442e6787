#include "kernels/cpu/norm_generic.h"

namespace fathom {

const NormKernels& norm_kernels_portable() {
  static const NormKernels kernels = make_norm_kernels<PortableVector>();
  return kernels;
}

}  // namespace fathom
