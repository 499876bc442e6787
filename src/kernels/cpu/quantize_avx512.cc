#include "kernels/cpu/avx512_name.h"
#include "kernels/cpu/quantize_generic.h"

namespace fathom {

const QuantizeKernels& FATHOM_AVX512(quantize_kernels)() {
  return kQuantizeKernels;
}

}  // namespace fathom
