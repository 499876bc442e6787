#include "kernels/cpu/quantize_generic.h"

namespace fathom {

const QuantizeKernels& quantize_kernels_avx2() {
  return kQuantizeKernels;
}

}  // namespace fathom
