#include "kernels/cpu/quantize_generic.h"

namespace fathom {

const QuantizeKernels& quantize_kernels_portable() {
  return kQuantizeKernels;
}

}  // namespace fathom
